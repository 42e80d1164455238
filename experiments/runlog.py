"""The transparency log of a run: what the server says of each round, before it can know what suits it.

    RUN/log.jsonl, log.jsonl.checkpoint    for anybody (privacy/transparency.py)
    RUN/ca.pub                             whose certificates sign it; of a simulated fleet, the run's own CA
    RUN/keys/log.secret                    mode 0600: what pseudonyms are made with

    round, task -> vehicles answer -> keys -> beacon -> participation -> the sum is opened -> transcript

A round's id is in the log once: an attempt that a kill cut off stays there without an end, and the resumed
run announces the round under another id. Every call is on disk, synced and signed, before it returns.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from carpool.experiments.logfacts import CA, pool_hash
from carpool.experiments.runfolder import ROUNDS
from carpool.experiments.simfleet import KEYS, SimulatedFleet
from carpool.privacy import beacon, keyfiles, logwriter
from carpool.privacy.errors import PrivacyRefused, RoundError, UsageError, VehicleError
from carpool.privacy.following import Follower, Shown
from carpool.privacy.logentries import commitment, pseudonyms
from carpool.privacy.logwriter import LogWriter, Signer
from carpool.privacy.secagg.announcement import NO_COMMITTEE, Announcement
from carpool.privacy.secagg.committee import Committee
from carpool.privacy.transparency import Checkpoint

T = TypeVar("T")
SECRET = "log.secret"  # noqa: S105
REMEMBERED = 1024
"""Beacons, and announcements, that vehicles may still ask for; a round needs one for each of its groups."""


class RunLog:
    """The open log at `path` (RUN/log.jsonl), made with the run and continued when it is resumed.

    run: a name that makes a word; now: Unix seconds, the clock of the fleet's certificates. Raises
    PrivacyRefused where the log does not hold, lost its end, is gone or is of another fleet, RunError where
    another process has it open.
    """

    def __init__(self, path: Path, run: str, fleet: SimulatedFleet, now: Callable[[], float]) -> None:
        self.path, self._fleet, self._now = path, fleet, now
        signer = self._signer()
        secret = path.parent / KEYS / SECRET
        if not path.exists():
            _create(path, secret, run, signer, now())
        self._secret = keyfiles.load_secret(secret)
        self._writer = LogWriter(path, signer, now)
        try:
            self._settle(run)
        except BaseException:
            self._writer.close()
            raise
        self._follower = Follower(fleet.trust)
        self._beacons: dict[bytes, bytes] = {}
        self._announced: dict[bytes, str] = {}
        self._drawn: set[bytes] = set()

    def _settle(self, run: str) -> None:
        """Check that it is this run's log, and take up what it says."""
        begin = self._writer.entries[0]
        if begin["run"] != word(run) or begin["secret"] != commitment(self._secret):
            raise PrivacyRefused(
                f"{self.path} is the log of {begin['run']}, or {KEYS}/{SECRET} is another log's; restore both"
            )
        self._rounds: dict[str, set[str]] = {}
        self._fewest: dict[str, int] = {}
        self._counted: dict[str, set[str]] = {}
        self._pools: dict[int, tuple[str, int]] = {}
        for one in self._writer.entries:
            if one["kind"] == "round":
                self._fewest[one["round"]] = one["n_min"]
            if one["kind"] == "pool":
                self._pools[one["epoch"]] = one["hash"], one["number"]
            if "round" in one:
                self._rounds.setdefault(one["round"], set()).add(one["kind"])
            if one["kind"] == "participation":
                self._counted.setdefault(one["round"], set()).update(one["vehicles"])

    def _signer(self) -> Signer:
        aggregator = self._fleet.aggregator
        return Signer(aggregator.certificate, aggregator.key, self._fleet.trust)

    @property
    def checkpoint(self) -> Checkpoint:
        """The last one."""
        return self._writer.checkpoint

    def round(
        self,
        announcement: Announcement,
        protocol: str,
        committee_hash: bytes = b"",
        versions: Sequence[int] = (),
    ) -> None:
        """Say that a round begins, and with which tasks; before any vehicle is asked.

        committee_hash: that of the announcement, or empty; versions: of the model, one
        a task, default 0, 1, ... Raises PrivacyRefused for an id that the log has, ValueError.
        """
        name, tasks = announcement.round_id.hex(), announcement.tasks
        if name in self._rounds:
            raise PrivacyRefused(f"round {name} is in the log already; every attempt needs an id of its own")
        if committee_hash not in (b"", announcement.committee):
            raise ValueError("the committee is not the one of the announcement")
        committee = b"" if announcement.committee == NO_COMMITTEE else announcement.committee
        fields: dict[str, Any] = {"round": name, "protocol": protocol, "n_min": announcement.n_min}
        fields |= {"announcement": announcement.digest.hex(), "committee": committee.hex(), "beacon": ""}
        told = zip(versions or range(len(tasks)), tasks, strict=True)
        signed = self._append(
            ("round", fields),
            *(("task", {"round": name, "version": version, "task": task.hex()}) for version, task in told),
        )
        self._rounds[name], self._fewest[name] = {"round", "task"}, announcement.n_min
        found = self._follower.entry(self._shown(signed, signed.size - 1 - len(tasks)))
        remember(self._announced, announcement.round_id, found["announcement"])

    def round_check(self, announced: Announcement) -> None:
        """Raise VehicleError unless the log announces this very round.

        As with `beacon_check`, all simulated vehicles and members follow as one.
        """
        held = self._announced.get(announced.round_id)
        if held != announced.digest.hex():
            said = "does not announce" if held is None else "announces in another form"
            raise VehicleError(f"the log {said} round {announced.round_id.hex()[:8]}; nobody answers it")

    def keys(self, round_id: bytes, vehicles: int, commitment: bytes) -> bytes:
        """Commit to the ordered list of the round's keys; the beacon, 32 bytes, that follows from it.

        commitment: SHA-256, 32 bytes; a round of several groups has a list for each. Raises PrivacyRefused
        for a round that is not announced or that counted its vehicles already, or a list that was drawn for.
        """
        name = self._open(round_id, over=("participation", "transcript"))
        if commitment in self._beacons:
            raise PrivacyRefused(
                f"the list of keys {commitment.hex()[:16]}… has a beacon; it gets no second one"
            )
        signed = self._append(("keys", {"round": name, "vehicles": vehicles, "hash": commitment.hex()}))
        drawn = self._follower.beacon(self._shown(signed, signed.size - 1), commitment)
        remember(self._beacons, commitment, drawn)
        return drawn

    def _shown(self, signed: Checkpoint, number: int) -> Shown:
        """Entry `number` under the last checkpoint, with the proofs that the follower needs."""
        known = 0 if self._follower.known is None else self._follower.known.size
        grown = self._writer.consistency(known) if known else []
        line, proof = self._writer.inclusion(number)
        return Shown(signed, tuple(grown), number, line, tuple(proof))

    def beacon_check(self, commitment: bytes, beacon: bytes) -> None:
        """Raise VehicleError unless the log gives this beacon for this list of keys.

        A vehicle that follows the log finds it out so (following.py). All vehicles of a simulated fleet
        follow as one: signature and proofs are checked once a list, not once a vehicle.
        """
        drawn = self._beacons.get(commitment)
        if drawn is None:
            raise VehicleError(f"the log does not commit to the list of keys {commitment.hex()[:16]}…")
        if drawn != beacon:
            raise VehicleError(
                f"the round's randomness {beacon.hex()[:16]}… is not the log's {drawn.hex()[:16]}…; the "
                "server may have chosen it"
            )

    def pool(self, epoch: int, nodes: Sequence[int]) -> Checkpoint:
        """Commit to the nodes that a committee is drawn from; the log's state right after it, unsigned.

        Raises PrivacyRefused where the epoch has another pool already: a second draw would be a choice.
        """
        hashed = pool_hash(epoch, nodes)
        if epoch not in self._pools:
            signed = self._append(("pool", {"epoch": epoch, "nodes": len(nodes), "hash": hashed}))
            self._pools[epoch] = hashed, signed.size - 1
        there, number = self._pools[epoch]
        if there != hashed:
            raise PrivacyRefused(
                f"epoch {epoch} has a pool of other nodes in the log; begin epoch {epoch + 1}"
            )
        return self._writer.state(number + 1)

    def epoch(self, epoch: int, nodes: Sequence[int]) -> bytes:
        """The beacon, 32 bytes, that draws an epoch's committee from the nodes; the same when asked again."""
        return beacon.for_epoch(epoch, self.pool(epoch, nodes))

    def committee_check(self, committee: Committee) -> None:
        """Raise VehicleError unless the log's last pool is this committee's, and its beacon the log's.

        Then it is the committee that the log draws: `Committee.check` has drawn it from that pool.
        """
        if committee.hash in self._drawn:
            return
        epoch = committee.epoch
        held, number = self._pools.get(epoch, ("", -1))
        if held != pool_hash(epoch, committee.pool):
            raise VehicleError(f"the log does not commit to the pool of committee epoch {epoch}")
        if number != max(at for _, at in self._pools.values()):
            raise VehicleError(
                f"the log has a later pool than that of committee epoch {epoch}; its keys are old"
            )
        if committee.beacon != beacon.for_epoch(epoch, self._writer.state(number + 1)):
            raise VehicleError(
                f"the randomness of committee epoch {epoch} is not the log's; the server may have chosen it"
            )
        self._drawn = {committee.hash}

    def participation(self, round_id: bytes, list_hash: bytes, vehicles: Sequence[int]) -> None:
        """Say who is in a sum (list_hash: SHA-256 of the certified list), before it is opened.

        A round of several groups has one sum each. Raises RoundError for fewer than n_min, and for a vehicle
        that is in another sum of the round; PrivacyRefused for a round that is not announced or was over.
        """
        name = self._open(round_id, over=("transcript",))
        names, least = pseudonyms(self._secret, set(vehicles)), self._fewest[name]
        if len(names) < least:
            raise RoundError(f"round {name[:8]} counts {len(names)} vehicles; n_min is {least}")
        counted = self._counted.setdefault(name, set())
        if twice := counted.intersection(names):
            raise RoundError(f"round {name[:8]} counts {len(twice)} vehicles in two sums; each may be in one")
        self._append(("participation", {"round": name, "list": list_hash.hex(), "vehicles": names}))
        counted.update(names)

    def transcript(self, round_id: bytes, transcript: bytes, released: bool) -> None:
        """Say how the round ended. transcript: SHA-256 over its messages; released: whether a sum was opened.

        Raises PrivacyRefused for a release of which nobody was told, or a round that was over.
        """
        name = self._open(round_id, over=("transcript",))
        if released and "participation" not in self._rounds[name]:
            raise PrivacyRefused(f"round {name[:8]} was opened before the log says who is in its sum")
        self._append(("transcript", {"round": name, "transcript": transcript.hex(), "released": released}))
        self._counted.pop(name, None)

    def _open(self, round_id: bytes, over: Sequence[str]) -> str:
        """The name of a round that is announced and has no entry that ends what is to come."""
        name = round_id.hex()
        there = self._rounds.get(name, set())
        if "round" not in there:
            raise PrivacyRefused(f"round {name[:8]} is not announced in the log; announce it first")
        if late := there.intersection(over):
            raise PrivacyRefused(f"round {name[:8]} has {', '.join(sorted(late))} in the log already")
        return name

    def _append(self, *entries: tuple[str, dict[str, Any]]) -> Checkpoint:
        self._writer.renew(self._signer())  # a long run outlives a certificate
        signed = self._writer.append(entries)
        for kind, fields in entries:
            if "round" in fields:
                self._rounds.setdefault(fields["round"], set()).add(kind)
        return signed

    def close(self) -> None:
        """Let others write it."""
        self._writer.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _create(path: Path, secret: Path, run: str, signer: Signer, now: float) -> None:
    rounds = path.parent / ROUNDS
    if rounds.is_file() and rounds.stat().st_size:
        raise PrivacyRefused(f"{path} is gone, and the run has rounds already; restore it or start anew")
    keyfiles.private_folder(secret.parent)
    with suppress(UsageError):  # it is there if a kill fell between this and the next lines
        keyfiles.save_secret(secret, secrets.token_bytes(keyfiles.SECRET))
    keyfiles.save_public(path.parent / CA, signer.trust.ca)
    logwriter.create(path, word(run), keyfiles.load_secret(secret), signer, now)


def remember(known: dict[bytes, T], name: bytes, value: T) -> None:
    """Keep a value, and of all the youngest `REMEMBERED`."""
    known[name] = value
    while len(known) > REMEMBERED:
        del known[next(iter(known))]


def word(run: str) -> str:
    """A run's name as the log has it: 1 to 64 characters of printable ASCII without spaces.

    >>> word("my run ü")
    'my-run--'
    """
    return re.sub(r"[^\x21-\x7e]", "-", run)[:64] or "run"
