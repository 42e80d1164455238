"""The privacy ledger on disk: charged before anything is released, never refunded, checked at every start.

One process writes it at a time; every line is synced before it counts. Beside it stands `ledger.jsonl.head`,
the number and hash of the last line, so that a lost end is noticed. A torn last line was never acknowledged:
it is cut off. All other damage is refused, and nothing is released on the word of a damaged ledger.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from carpool.privacy.dp.events import Event, Relation
from carpool.privacy.dp.ledgerfile import Found, begun, note_head, write_at
from carpool.privacy.dp.ledgerlines import MOST_TEXT, Header, Release, facts, line
from carpool.privacy.dp.ledgerstate import Charge
from carpool.privacy.errors import PrivacyRefused, RunError
from carpool.privacy.logentries import canonical
from carpool.privacy.storage import refusals

Accountant = Callable[[Sequence[Event], float, Relation], float]
"""(events, delta, relation) -> epsilon, never below the true one."""


def tight(events: Sequence[Event], delta: float, relation: Relation) -> float:
    """The epsilon that is reported; raises PrivacyRefused, UsageError as the accountant does."""
    from carpool.privacy.dp import accounting  # SciPy is slow to import, and reading a ledger needs none

    return accounting.epsilon(events, delta, relation).epsilon


class Ledger:
    """An open ledger, this process's alone until it is closed."""

    def __init__(self, path: Path, file: BinaryIO, found: Found, now: Callable[[], float]) -> None:
        self.path, self._file, self._now = path, file, now
        self._state, self._last, self._end = found.state, found.last, found.end
        self._owner = os.getpid()

    @classmethod
    def open(
        cls, path: Path, header: Header | None = None, *, now: Callable[[], float] = time.time
    ) -> Ledger:
        """Open a ledger and check all of it; with a header, begin one where there is none.

        Raises PrivacyRefused (damaged), UsageError (it counts for another unit, relation, delta or name),
        RunError (none there, another process has it, the machine refuses).
        """
        with refusals(path, "open"):
            if header is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            elif not path.is_file():
                raise RunError(f"there is no ledger {path}; begin it with a run that has [privacy.dp]")
            create = 0 if header is None else os.O_CREAT
            file = os.fdopen(os.open(path, os.O_RDWR | create, 0o644), "r+b", buffering=0)
        try:
            return cls(path, file, begun(path, file, header, now), now)
        except BaseException:
            file.close()
            raise

    @property
    def header(self) -> Header:
        """For whom it counts."""
        return self._state.header

    @property
    def private(self) -> bool:
        """False where any noise came from a seeded generator."""
        return self._state.private

    @property
    def charges(self) -> Sequence[Charge]:
        """All charges, in order; not to be changed."""
        return tuple(self._state.charges.values())

    def find(self, ticket: str) -> Charge | None:
        """The charge with this ticket."""
        number = self._state.tickets.get(ticket)
        return None if number is None else self._state.charges[number]

    def pending(self, run: str) -> list[Charge]:
        """The charges of a run under which something may still be published: see to them on resuming."""
        return [one for one in self.charges if one.pending and one.release.run == run]

    def events(self) -> list[Event]:
        """What was charged, an event a charge, each with the least noise known of it."""
        return [one.event for one in self.charges]

    def epsilon(self, accountant: Accountant = tight) -> float:
        """Epsilon of everything charged, at the header's delta and relation."""
        return accountant(self.events(), self.header.delta, self.header.relation)

    def charge(self, release: Release, ticket: str = "") -> int:
        """Charge a release; on disk when it returns the charge's number, and only then may it begin.

        ticket: 32 hexadecimal digits, the same in every ledger that this release is charged to; made up if
        empty. Raises PrivacyRefused for a release that this ledger or the accountant cannot count, RunError;
        then nothing is released.
        """
        from carpool.privacy.dp import accounting

        accounting.covered(release.event)
        return self._append("charge", {**facts(release), "ticket": ticket or secrets.token_hex(16)})

    def realised(self, number: int, noise_multiplier: float, survived: int) -> None:
        """Charge the noise that is truly in the sum: after its set is certified, BEFORE it is unmasked.

        Less noise than charged makes the charge dearer, more leaves it as it is: nothing is refunded. Saying
        the same again changes nothing. Raises PrivacyRefused, RunError.
        """
        known = self._state.charges.get(number)
        if known is not None and (known.realised, known.survived) == (noise_multiplier, survived):
            return
        own = {"charge": number, "noise_multiplier": float(noise_multiplier), "survived": survived}
        self._append("realised", own)

    def publish(self, number: int, digest: str, moment: int | None = None) -> None:
        """Bind a charge to what is about to leave under it; only then may it leave. One release a charge.

        digest: SHA-256 in hexadecimal of the released bytes; moment: the round, for a charge that pays for
        many. Saying the same again (after a kill) changes nothing; another digest, a void charge, or noise
        of vehicles that was not realised yet is refused. Raises PrivacyRefused, RunError.
        """
        known = self._state.charges.get(number)
        if moment is None:
            moment = known.release.round if known is not None else 0
        if known is not None and known.published.get(moment) == digest:
            return
        self._append("published", {"charge": number, "round": moment, "digest": digest})

    def void(self, number: int, why: str) -> None:
        """Nothing (more) leaves under a charge; it stays charged. Raises PrivacyRefused if it is used up."""
        known = self._state.charges.get(number)
        if known is not None and known.void:
            return
        text = "".join(c if c.isascii() and c.isprintable() else "?" for c in why)[:MOST_TEXT]
        self._append("void", {"charge": number, "why": text or "no reason given"})

    def _append(self, kind: str, own: Mapping[str, Any]) -> int:
        if os.getpid() != self._owner:
            raise RunError(f"{self.path} was opened by another process; only that one writes it")
        number: int = self._last["number"] + 1
        at = max(int(self._now()), self._last["at"])
        try:
            made = line(kind, own, number=number, at=at, before=self._last["hash"])
            self._state.check(made)
        except ValueError as error:
            raise PrivacyRefused(f"{self.path} does not take this {kind}: {error}; nothing left") from error
        data = canonical(made) + b"\n"
        write_at(self._file, self.path, self._end, data)
        self._state.apply(made)
        self._last, self._end = made, self._end + len(data)
        note_head(self.path, made)
        return number

    def close(self) -> None:
        """Let others write it."""
        self._file.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
