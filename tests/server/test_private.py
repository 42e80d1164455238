"""Private rounds of a fleet that does not train, killed at every point from the charge to the checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from flwr.app import Message

from carpool.privacy.dp.budget import Books, Budget
from carpool.privacy.dp.events import Event
from carpool.privacy.dp.grid import gaussian
from carpool.privacy.dp.ledger import Ledger
from carpool.privacy.dp.ledgerfile import read
from carpool.privacy.dp.ledgerlines import Header
from carpool.privacy.dp.participation import ParticipationFile
from carpool.privacy.dp.protection import Protection
from carpool.privacy.dp.randomness import SystemBits
from carpool.privacy.dp.schema import Schema
from carpool.privacy.errors import PrivacyRefused
from carpool.privacy.wire import ContributionMessage, TaskMessage, decode_task, encode
from carpool.server import checkpoint as checkpoints
from carpool.server import private_round, released
from carpool.server.messages import wire_of
from carpool.server.private import Private
from carpool.server.training import Plan, Training, begin, step
from carpool.strategies.deadline import Policy
from carpool.strategies.fedavg import fedavg
from tests.server.fleet import RUN, D, Fleet, Watch, resumed

NODES, COHORT, ROUNDS, NOISE = 6, 4, 3, 2.0


class Killed(BaseException):
    """In place of kill -9: nothing catches it, and nothing that it leaves in memory is used again."""


@dataclass
class Noted(Fleet):
    """rounds: (round, node) of every task that went out."""

    rounds: list[tuple[int, int]] = field(default_factory=list)

    def push(self, message: Message, asked: float) -> str:
        self.rounds.append((decode_task(wire_of(message)).round, message.metadata.dst_node_id))
        return super().push(message, asked)


@dataclass
class World:
    """A run's folder and whoever looks at it. asked: (round, node) of every task that went out."""

    folder: Path
    mechanism: str = "central"
    limit: Budget | None = None
    fleet_limit: Budget | None = None
    quorum: float = 0.5
    always: bool = False
    seconds: dict[int, float] = field(default_factory=lambda: dict.fromkeys(range(1, NODES + 1), 1.0))
    asked: list[tuple[int, int]] = field(default_factory=list)
    used: list[tuple[int, bytes]] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    reply: Callable[[Message, TaskMessage], Any] | None = None
    cohort: int = COHORT

    @contextmanager
    def private(self) -> Iterator[Private]:
        header = Header("run", RUN, "vehicle", "zero-out", 1e-5)
        fleet = Header("fleet", "fleet", "vehicle", "zero-out", 1e-5)
        with (
            Ledger.open(self.folder / "ledger.jsonl", header) as own,
            Ledger.open(self.folder / "fleet.jsonl", fleet) as shared,
        ):
            books = Books((own, self.limit), (shared, self.fleet_limit))
            matrix = self.mechanism == "matrix"
            event = Event("matrix" if matrix else "gaussian", NOISE, sensitivity=1.5 if matrix else 1.0)
            bits = SystemBits("test")
            found = Private(
                Protection(self.mechanism, 1.0, NOISE, COHORT),  # type: ignore[arg-type]
                books,
                RUN,
                self.folder,
                event,
                1e-5,
                own.epsilon,
                lambda grid, at: gaussian(bits, NOISE, grid.size),
                releases=ROUNDS if matrix else 1,
                began={one.release.round for one in own.charges},
                always=self.always,
            )
            if matrix:
                path = self.folder / "participation"
                record = ParticipationFile(path, Schema(1, ROUNDS), ROUNDS, resume=path.exists())
                found.schema, found.began = record, {record.latest}
            found.resume()
            yield found

    def run(self, rounds: int = ROUNDS) -> Training:
        """As one process: from the checkpoint, if there is one, to the end or to the kill."""
        strategy, path = fedavg(), self.folder / "checkpoint"
        fleet = Noted(self.seconds)
        if self.reply is not None:
            fleet.reply = self.reply
        watch = Watch(path)
        n = self.cohort
        with self.private() as private:
            plan = Plan(RUN, 7, rounds, NODES, n, 0.0, Policy(cohort=n, quorum=self.quorum), private=private)
            if checkpoints.read(path) is None:
                training = begin(strategy, np.zeros(D, np.float32), plan)
            else:
                training, fleet.clock = resumed(strategy, path)
            fleet.__post_init__()
            true = private.reduced

            def used(vectors: Any, *rest: Any) -> Any:
                self.used.append((training.round + 1, vectors["delta"].tobytes()))
                return true(vectors, *rest)

            private.reduced = used  # type: ignore[method-assign]
            try:
                while training.round < rounds:
                    training = step(strategy, training, plan, fleet, fleet.clock, watch)  # type: ignore[arg-type]
            finally:
                self.asked += fleet.rounds
                self.records += watch.records
        return training


def points(monkeypatch: pytest.MonkeyPatch, where: str, round_: int) -> None:
    """Kill the process once, at this point of this round."""
    left = [round_]

    def before(true: Any, *given: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise Killed(where)
        return true(*given, **named)

    def after(true: Any, *given: Any, **named: Any) -> Any:
        found = true(*given, **named)
        left[0] -= 1
        if left[0] == 0:
            raise Killed(where)
        return found

    places: dict[str, tuple[Any, str, Any]] = {
        "before the charge": (Books, "charge", before),
        "between charge and asking": (private_round, "sound_task", before),
        "between asking and the sum": (private_round, "of_fold", before),
        "before the sum is on disk": (released, "save", before),
        "between persist and publish": (released, "save", after),
        "between publish and checkpoint": (Books, "publish", after),
        "before the checkpoint": (checkpoints, "save", before),
        "after the checkpoint": (checkpoints, "save", after),
    }
    owner, name, when = places[where]
    true = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *given, **named: when(true, *given, **named))


KEPT = ("between persist and publish", "between publish and checkpoint", "before the checkpoint")
LOST = ("between charge and asking", "between asking and the sum", "before the sum is on disk")


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", ["central", "matrix"])
@pytest.mark.parametrize("where", ["before the charge", *LOST, *KEPT, "after the checkpoint"])
def test_no_release_without_its_charge_and_never_a_second_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, mechanism: str
) -> None:
    world = World(tmp_path, mechanism)
    if mechanism == "matrix" and where in ("before the charge", "between charge and asking"):
        killed_in = 1  # there is one charge
    else:
        killed_in = 2
    with monkeypatch.context() as patches:
        points(patches, where, killed_in)
        with pytest.raises(Killed):
            world.run()
    on_disk = released.read(tmp_path)
    training = world.run()
    assert training.round == ROUNDS
    # Nobody was asked twice for one round.
    assert max(Counter(world.asked).values()) == 1
    state = read(tmp_path / "ledger.jsonl").state
    told = Counter(moment for one in state.charges.values() for moment in one.published)
    # What the model was made of is what was published, once a round.
    by_round: dict[int, set[bytes]] = {}
    for round_, sums in world.used:
        by_round.setdefault(round_, set()).add(sums)
    assert all(len(sums) == 1 for sums in by_round.values())
    assert set(told) >= set(by_round)
    assert max(told.values()) == 1
    if where in KEPT:
        assert on_disk is not None
        assert on_disk.round == killed_in
        assert by_round[killed_in] == {on_disk.vectors["delta"].tobytes()}
    if where in LOST:
        [void] = [one for one in world.records if one["void"]]
        assert void["round"] == killed_in
        assert "killed" in void["closed"]
        assert killed_in not in told
    charges = len(state.charges)
    if mechanism == "central":
        assert charges == ROUNDS
    else:
        assert charges == 1
    shared = read(tmp_path / "fleet.jsonl").state
    assert {one.ticket for one in shared.charges.values()} == {one.ticket for one in state.charges.values()}


def test_a_charge_that_only_one_ledger_has_is_void_and_its_round_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, true = World(tmp_path), Ledger.charge

    def charge(ledger: Ledger, *given: Any) -> int:
        if ledger.header.scope == "fleet" and given[0].round == 2:
            raise Killed
        return true(ledger, *given)

    with monkeypatch.context() as patches:
        patches.setattr(Ledger, "charge", charge)
        with pytest.raises(Killed):
            world.run()
    world.run()
    assert {round_ for round_, _ in world.asked} == {1, 3}
    own, shared = (read(tmp_path / name).state.charges for name in ("ledger.jsonl", "fleet.jsonl"))
    assert [one.release.round for one in own.values()] == [1, 2, 3]
    assert [one.release.round for one in shared.values()] == [1, 3]
    assert [bool(one.void) for one in own.values()] == [False, True, False]


@pytest.mark.slow
def test_a_kill_while_it_resumes_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    for where in ("between asking and the sum", "before the checkpoint", "before the checkpoint"):
        with monkeypatch.context() as patches:
            points(patches, where, 1)
            with pytest.raises(Killed):
                world.run()
    world.run()
    assert {round_ for round_, _ in world.asked} == {1, 2, 3}
    assert max(Counter(world.asked).values()) == 1
    assert [one["void"] for one in world.records if one["round"] == 1][-1]


def test_the_budget_stops_before_anybody_is_asked(tmp_path: Path) -> None:
    from carpool.privacy.dp.accounting import epsilon

    two = epsilon([Event("gaussian", NOISE, count=2)], 1e-5, "zero-out").epsilon
    world = World(tmp_path, fleet_limit=Budget(two * 1.0001, 1e-5))
    with pytest.raises(PrivacyRefused, match="the model sum of round 3 would take fleet fleet from epsilon"):
        world.run()
    assert {round_ for round_, _ in world.asked} == {1, 2}
    assert len(read(tmp_path / "ledger.jsonl").state.charges) == 2


def said(task: TaskMessage, node: int, vectors: dict[str, np.ndarray], examples: int = 1) -> bytes:
    with patch("carpool.privacy.wire.check_vector"):  # a malicious one does not check itself
        return encode(
            ContributionMessage(
                run=task.run,
                round=task.round,
                version=task.version,
                pass_number=1,
                vehicle=node,
                upload=f"u{node}",
                examples=examples,
                steps=1,
                loss=0.0,
                vectors=vectors,
            )
        )


HOSTILE = [np.nan, np.inf, -np.inf, 3e38, 1e30, 1e-45, -0.0, 0.0, 1e9]


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_numbers_are_counted_or_clipped_whatever_they_say_of_their_weight(
    tmp_path: Path, value: float
) -> None:
    def reply(message: Message, task: TaskMessage) -> bytes:
        node = message.metadata.dst_node_id
        vectors = {"delta": np.array([value, 0, 0], np.float32)}
        if node == 2:
            vectors = {"other": np.zeros(D, np.float32)}
        if node == 3:
            vectors = {"delta": np.zeros(D + 1, np.float32)}
        return said(task, node, vectors, examples=10**9 if node > 3 else 1)

    world = World(tmp_path, reply=reply, quorum=0.25, cohort=NODES)
    world.run(1)
    finite = bool(np.isfinite(np.float32(value)) and abs(value) < 1e19)
    assert world.records[0]["refused"] == (2 if finite else NODES)
    assert world.records[0]["train_loss"] is None
    if finite:
        sums = np.frombuffer(world.used[0][1], np.float32)
        # Each is at most one clip norm long; seven standard deviations of noise on each number (1e-11).
        assert np.linalg.norm(sums) <= (NODES - 2) + 7 * NOISE * D**0.5


def test_two_answers_of_one_vehicle_count_once(tmp_path: Path) -> None:
    def reply(message: Message, task: TaskMessage) -> bytes:
        return said(task, 1, {"delta": np.ones(D, np.float32)})  # all say that they are vehicle 1

    world = World(tmp_path, reply=reply, quorum=0.1, cohort=NODES)
    world.run(1)
    assert world.records[0]["refused"] == NODES - 1
    assert world.records[0]["replied"] == 1


def test_a_poisson_round_is_released_however_few_came(tmp_path: Path) -> None:
    silent = {n: float("inf") for n in range(1, NODES + 1)}
    world = World(tmp_path, seconds=silent, always=True)
    world.run(1)
    assert not world.records[0]["void"]
    assert np.abs(np.frombuffer(world.used[0][1], np.float32)).max() > 0, "noise on nothing"
    world = World(tmp_path / "usual", seconds=silent)
    world.folder.mkdir()
    world.run(1)
    assert world.records[0]["void"]
    assert not world.used
