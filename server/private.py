"""What a server does so that its sums are private: charge, certify, add noise, persist, publish.

begin     the release is charged, in every ledger, before anybody is asked; refused if it does not fit
certified who is in the sum is fixed: the noise that is truly there is charged, before anything is opened
noised    the server's noise, where it is the server's
publish   the noisy sum is on disk, then bound to its charge; only then it is used

A round that a killed process began is never asked again: its sum, if it is on disk, is published under the
charge that it has, and otherwise the round is void and the charge stays.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from carpool.privacy.dp.budget import Books
from carpool.privacy.dp.events import Event
from carpool.privacy.dp.forms import GridForm, NoisyForm
from carpool.privacy.dp.grid import Grid, Total, noised_ring
from carpool.privacy.dp.ledgerlines import Release
from carpool.privacy.dp.protection import Protection
from carpool.privacy.errors import PrivacyRefused, RoundError
from carpool.privacy.secagg.masks import Ring
from carpool.privacy.secagg.sumform import Form
from carpool.privacy.vectors import Vector
from carpool.server import released
from carpool.server.released import Released
from carpool.strategies.contract import Channel, Facts, Reduced

Noise = Callable[[Grid, int], Total]
"""(grid, round) -> the noise of this round's sum, int64 [d] in grid steps; fresh at every call."""


SET, WEIGHTS = "set of ", "weights of rows"
"""What is persisted of sets: their rows, by channel, and the rows' weights."""


def persisted(reduced: Reduced) -> dict[str, Vector]:
    """What was reduced, as arrays by name; `Private.reduced` makes it of these again."""
    found = {**reduced.sums, **{SET + name: rows.copy() for name, rows in reduced.sets.items()}}
    return found | ({WEIGHTS: reduced.weights.astype(np.float32)} if reduced.sets else {})


class Schema(Protocol):
    """Who may take part when, where the proof depends on it."""

    def allowed(self, ids: NDArray[np.int64], round_: int) -> NDArray[np.bool_]:
        """Which of these may take part in this round."""

    def admit(self, ids: NDArray[np.int64], round_: int) -> None:
        """These take part; durable when it returns."""


@dataclass
class Private:
    """One training's promise. event: of one release as planned, of the whole training for `matrix`.

    noise: the server's own, None where vehicles add it; releases: rounds that one charge pays for; delta: of
    the ledger; schema: of `matrix`; epsilon: spent so far, of the run's ledger; began: rounds that an earlier
    process began; always: a sum is released however few are in it, since fewer than the quorum would tell
    who was drawn; mark: where the noise stands, for the next process. One round at a time.

    realised: noise multiplier of the round's sum; refused: why nothing more may be released, "" if it may.
    """

    protection: Protection
    books: Books
    run: str
    folder: Path
    event: Event
    delta: float
    epsilon: Callable[[], float]
    noise: Noise | None = None
    releases: int = 1
    separation: int = 0
    most: int = 0
    schema: Schema | None = None
    began: Collection[int] = ()
    always: bool = False
    mark: Callable[[], Mapping[str, Any]] | None = None
    _ticket: str = field(default="", init=False)
    _round: int = field(default=0, init=False)
    _left: Released | None = field(default=None, init=False)
    realised: float | None = field(default=None, init=False)
    refused: str = field(default="", init=False)

    def resume(self) -> None:
        """Settle what a killed run left: a sum on disk is published under its charge, the rest is void."""
        held = released.read(self.folder)
        self._left = held if held is not None and held.run == self.run else None
        for charge in self.books.resume(self.run):
            if charge.release.releases > 1:
                self._ticket = charge.ticket
            elif self._left is None or self._left.ticket != charge.ticket:
                self.books.void(charge.ticket, "the run ended before the sum was on disk")

    def held(self, round_: int) -> Released | None:
        """The noisy sum of this round, where a killed run left it; published (again) under its charge."""
        found = self._left
        if found is None or found.round != round_:
            return None
        self.books.publish(found.ticket, found.digest, round_)
        self._ticket, self._round = found.ticket, round_
        self.realised = found.facts.get("realised_noise")
        return found

    def lost(self, round_: int) -> bool:
        """Whether a killed process began this round and left no sum: whom it asked may not be asked again."""
        return round_ in self.began and (self._left is None or self._left.round != round_)

    def asked(self, round_: int) -> NDArray[np.int64] | None:
        """Whom a killed process asked in this round, as far as it is known; None: it did not begin it."""
        if self._left is not None and self._left.round == round_:
            return np.array(self._left.facts.get("asked", []), np.int64)
        return np.zeros(0, np.int64) if round_ in self.began else None

    def begin(self, round_: int, cohort: int) -> None:
        """Charge the round's release; raises PrivacyRefused where it does not fit."""
        self._round, self.realised = round_, None
        if self.releases > 1 and self._ticket:
            return
        p = self.protection
        release = Release(
            run=self.run,
            round=round_,
            what="model sum",
            mechanism=p.mechanism,
            event=self.event,
            unit=p.unit,
            relation=p.relation,
            delta=self.delta,
            clip_norm=p.clip_norm,
            cohort=cohort,
            noise_from="server" if self.noise is not None else "vehicles",
            releases=self.releases,
            separation=self.separation,
            most=self.most,
            private=p.private,
        )
        try:
            self._ticket = self.books.charge(release)
        except PrivacyRefused as error:
            self.refused = str(error)
            raise

    def certified(self, form: Form | None, roster: int, counted: int) -> None:
        """Charge the noise that is truly in a sum of these; nothing is opened before it returns.

        roster: of whom they are. Raises PrivacyRefused where the budget does not allow it, RoundError where
        the sum is not one that was charged: a void round.
        """
        noise = self.protection.noise_multiplier
        if isinstance(form, NoisyForm):
            found = form.event(roster, counted)
            if replace(found, noise_multiplier=self.event.noise_multiplier) != self.event:
                raise RoundError(
                    f"the sum would be charged as {found}, but {self.event} was planned: void round"
                )
            noise = found.noise_multiplier
        self.realised = noise
        if self.noise is not None and not isinstance(form, NoisyForm):
            return
        try:
            self.books.realised(self._ticket, noise, counted)
        except PrivacyRefused as error:
            self.refused = str(error)
            self.books.void(self._ticket, "its noise would not have been enough")
            raise

    def of_ring(self, form: Form, total: Ring, count: int) -> dict[str, Vector]:
        """The released sums of a secure sum, by channel."""
        if isinstance(form, GridForm):
            # Mod 2^bits first: read as signed numbers, a sum that wraps would show a vehicle's single step.
            whole = noised_ring(total, self._drawn(form.grid), form.bits)
            return form.grid.floats(whole)
        return dict(form.decode(total, count).sums)

    def of_grid(self, total: Total, grid: Grid) -> dict[str, Vector]:
        """The same of a sum in grid steps: with the server's noise."""
        return grid.floats(total + self._drawn(grid))

    def _drawn(self, grid: Grid) -> Total:
        if self.noise is None:
            raise PrivacyRefused("a sum without noise is not released")
        return self.noise(grid, self._round)

    def publish(self, vectors: Mapping[str, Vector], facts: Mapping[str, Any]) -> None:
        """Persist a noisy sum, then bind it to its charge; raises RunError, PrivacyRefused."""
        more: dict[str, Any] = {"realised_noise": self.realised}
        if self.mark is not None:
            more["noise"] = dict(self.mark())
        found = Released(self.run, self._round, self._ticket, vectors, {**facts, **more})
        released.save(self.folder, found)
        self.books.publish(self._ticket, found.digest, self._round)

    def void(self, why: str) -> None:
        """The round came to nothing; its charge stays."""
        if self.releases == 1:
            self.books.void(self._ticket, why)

    def reduced(self, vectors: Mapping[str, Vector], channels: tuple[Channel, ...], facts: Facts) -> Reduced:
        """For the strategy: the noisy sums over PUBLIC numbers, never the count of those who replied.

        Sets there are of rows that are private each by itself (`local`).
        """
        sets = {name.removeprefix(SET): rows for name, rows in vectors.items() if name.startswith(SET)}
        by = {channel.name: channel for channel in channels}
        return Reduced(
            sums={name: vector for name, vector in vectors.items() if name in by},
            sets=sets,
            weight=float(self.protection.cohort),
            count=float(self.protection.cohort),
            channels=by,
            weights=vectors.get(WEIGHTS, np.zeros(0)).astype(np.float64),
        )

    def figures(self) -> dict[str, Any]:
        """For the round's record: epsilon spent so far, and the noise planned and realised."""
        return {
            "epsilon": self.epsilon(),
            "dp": {
                "mechanism": self.protection.mechanism,
                "noise_multiplier": self.protection.noise_multiplier,
                "realised_noise": self.realised,
                "private": self.protection.private and self.books.private,
            },
        }
