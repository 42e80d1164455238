"""Buffers under masks: the right sum, versions with enough vehicles, nothing late, nothing sent twice."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from carpool.experiments.asked import Asked
from carpool.experiments.stages import Outcomes
from carpool.privacy.errors import RoundError, VehicleError
from carpool.privacy.secagg import announcement as ann
from carpool.server.board import Board
from carpool.server.secure_buffered import REMEMBERED, Masked, Tray
from carpool.server.secure_once import Kind
from tests.experiments.buffered_fleet import Buffers, Step, buffered, spread, totals
from tests.experiments.masked_fleet import STEPS, Told

PROTOCOLS = ["one-shot", "helpers"]


class Drawn(Told):
    """Everybody leaves at a random step one time in `often`."""

    def __init__(self, vehicles: int, often: int, seed: int) -> None:
        super().__init__(vehicles, {})
        self._often, self._seed = often, seed

    def outcomes(self, vehicles: Any, round_: int, *moments: Any) -> Outcomes:
        rng = np.random.default_rng((self._seed, round_))
        rows = {v: str(rng.choice(STEPS[:-1])) for v in vehicles.tolist() if rng.random() * self._often < 1}
        self._steps = {round_: rows}
        return super().outcomes(vehicles, round_, *moments)


def holds(world: Buffers) -> None:
    """What must be true of every step, whoever left."""
    released = [step for step in world.trays if step.found.decision.counted]
    assert len(released) == len(world.sums)
    for step, (total, count) in zip(released, world.sums, strict=True):
        assert count == len(step.counted) >= max(world.n_min, step.facts.cohort)
        error = np.abs(world.apart(total, world.ring(step))).max()
        assert error <= (spread(count) if world.protocol == "one-shot" else 0)
        least = world.settings.least
        assert min(Counter(one.ask.version for one in step.counted).values()) >= least
    for step, record in zip(world.trays, world.watch.records, strict=True):
        assert record["secagg"]["released"] == step.found.decision.counted == (not record["void"])
        assert record["asked"] == record["replied"] + record["dropped"]
        assert record["void"] or totals(record) == record["asked"]
    assert not any("has sent" in why for why in world.veil.why.values()), "nobody is asked the same twice"
    inside = {entry[1]: entry[2] for entry in world.log.all("participation")}
    ends = {entry[1]: entry[3] for entry in world.log.all("transcript")}
    assert len(ends) == len(world.trays) == len({entry[1] for entry in world.log.all("round")})
    for step in released:
        name = step.tray.group.opening.announced.round_id
        assert inside[name] == tuple(sorted(one.ask.node for one in step.counted))
        assert ends[name]


def twice(steps: list[Step]) -> list[tuple[int, int]]:
    """Updates that are in two sums: (vehicle, round of the task)."""
    counts = Counter((one.ask.node, one.ask.round) for step in steps for one in step.counted)
    return [name for name, times in counts.items() if times > 1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_step_is_the_plain_one_with_the_staleness_weights_inside_the_mask(
    monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    world = Buffers(9, protocol, per_version=1)
    training = world.run(monkeypatch, 5)
    holds(world)
    ages = [one.staleness for step in world.trays for one in step.counted]
    assert max(ages) >= 1, "somebody was late"
    model = np.sum([world.plain_step(step) for step in world.trays], axis=0)
    assert training.version == 5
    # A number is 40 * 3 / Q of a weight: Q is above 2^31 / 20, and the error below 8 * 4 * sqrt(9) of them.
    assert np.abs(training.state.params - model).max() < 5 * 40 * 3 * 20 / 2**31 * 100
    flat = np.mean([one.vectors["delta"] for one in _trained(world)], axis=0)
    assert np.abs(world.plain_step(world.trays[-1]) - flat).max() > 1e-3, "the weights matter"


def _trained(world: Buffers) -> list[Any]:
    step = world.trays[-1]
    return [world.sent(one, step.facts)[1] for one in step.counted]


def test_without_the_discount_inside_the_mask_the_sum_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above would see it."""
    world = Buffers(9, per_version=1)
    world.run(monkeypatch, 5)
    stale = next(step for step in world.trays if max(one.staleness for one in step.counted) >= 1)
    total, count = world.sums[world.trays.index(stale)]
    fresh = Step(stale.facts, stale.form, stale.counted, stale.found, stale.tray)
    world.strategy = buffered(3, staleness="constant")
    assert np.abs(world.apart(total, world.ring(fresh))).max() > 100 * spread(count)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("seed", range(2))
def test_whoever_leaves_wherever(monkeypatch: pytest.MonkeyPatch, protocol: str, seed: int) -> None:
    world = Buffers(12, protocol, per_version=1 + seed % 2, seed=seed, concurrency=8, max_s=40.0)
    world.grid._availability = Drawn(12, 2, seed)
    world.run(monkeypatch, 6)
    holds(world)
    assert not twice(world.trays)
    lost = [record["secagg"]["dropped"]["send"] for record in world.watch.records]
    assert sum(lost) > 0


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("seed", range(12))
def test_whoever_leaves_wherever_for_long(monkeypatch: pytest.MonkeyPatch, protocol: str, seed: int) -> None:
    """With slow uploads and any number a version needs; members are away, too."""
    rng = np.random.default_rng(seed)
    n, least = int(rng.integers(8, 30)), int(rng.integers(1, 5))
    gone = {
        kind: set(rng.choice(np.arange(1, 8), rng.integers(0, 3), replace=False).tolist()) for kind in Kind
    }
    world = Buffers(
        n,
        protocol,
        n_min=4,
        per_version=least,
        seed=seed,
        concurrency=n - 1,
        strategy=buffered(int(rng.integers(4, 8)), max_staleness=int(rng.integers(0, 5))),
        uplink_mbit=float(rng.choice([0.01, 0.0002])),
        gone=gone if protocol == "one-shot" else {},
    )
    world.grid._availability = Drawn(n, 4, seed)
    world.run(monkeypatch, 12)
    holds(world)
    assert not twice(world.trays)
    away = set().union(*gone.values()) if protocol == "one-shot" else set()
    assert len(away) > 2 or any(step.found.decision.counted for step in world.trays)


# ---- versions --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_version_of_too_few_is_left_out_and_counts_as_old(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Buffers(20, n_min=3, concurrency=16, strategy=buffered(5))
    world.run(monkeypatch, 8)
    holds(world)
    assert sum(record["secagg"]["dropped"]["version"] for record in world.watch.records) > 0
    assert sum(record["asynchrony"]["too_old"] for record in world.watch.records) > 0
    for step in world.trays:
        assert step.tray.group.opening.announced.per_task == 3, "n_min, where nothing is said"


@pytest.mark.slow
def test_versions_without_enough_vehicles_under_way_are_not_announced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = Buffers(12, n_min=3, concurrency=9, strategy=buffered(4))
    world.run(monkeypatch, 8)
    counts = [len(step.tray.group.opening.announced.tasks) for step in world.trays]
    assert counts[0] == 1
    assert max(counts) > 1
    assert max(counts) <= 1 + 9 // 3


def test_what_is_too_old_is_not_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Buffers(12, per_version=1, concurrency=9, strategy=buffered(2, max_staleness=0))
    world.run(monkeypatch, 6)
    holds(world)
    assert all(one.staleness == 0 for step in world.trays for one in step.counted)
    assert all(len(step.tray.group.opening.announced.tasks) == 1 for step in world.trays)
    assert sum(record["asynchrony"]["too_old"] for record in world.watch.records) > 0


@pytest.mark.slow
def test_a_server_that_asks_for_less_of_a_version_is_answered_by_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Vehicles and members have the policy of their own."""
    world = Buffers(9, n_min=3, per_version=1, concurrency=9, strategy=buffered(4))
    for index in range(9):
        agent: Any = world.veil.agent(index)
        object.__setattr__(agent.speaker, "per_task", 3)
    monkeypatch.setattr("carpool.server.buffered.PATIENCE_S", 300.0)
    world.run(monkeypatch, 2)
    assert world.trays[0].found.decision.counted, "one version alone is sound"
    assert any("the policy is 3" in why for why in world.veil.why.values())


# ---- late, and twice -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_comes_for_a_closed_buffer_is_refused_counted_and_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = Buffers(12, per_version=1, concurrency=10, uplink_mbit=0.0002)
    world.run(monkeypatch, 6)
    holds(world)
    late = [record["secagg"]["dropped"]["late"] for record in world.watch.records]
    assert sum(late) > 0
    for record, count in zip(world.watch.records, late, strict=True):
        assert record["refused"] >= count
    assert not twice(world.trays)


def test_a_vehicle_says_once_what_it_made_of_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two buffers with the same updates, all but one, the difference is that one."""
    world = Buffers(6, per_version=1, concurrency=6)
    world.run(monkeypatch, 1)
    [step] = world.trays
    asked: list[Asked] = []
    first = world.veil.first

    def again(one: Asked, contribution: bytes) -> bytes:
        data = first(one, contribution)
        asked.append(one)
        opening = step.tray.group.opening
        fresh = ann.announce(
            replace(opening.announced, round_id=b"2" * 16),
            world.secrecy.certificate,
            world.secrecy.key,
        )
        board = Board()
        board.post(fresh.encode(), world.council.committee.encode(), 0.0)
        world.veil._board = board
        try:
            with pytest.raises(VehicleError, match="has sent what it made"):
                first(one, contribution)
        finally:
            world.veil._board = world.board
        return data

    world.veil.first = again  # type: ignore[method-assign]
    world.run(monkeypatch, 1, world.start(1))
    assert len(asked) >= 3


def test_a_message_of_another_task_than_the_vehicle_was_sent_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A vehicle cannot pass for one of a younger version."""
    world = Buffers(9, per_version=1)
    true = Tray._put
    wrong: list[int] = []

    def put(tray: Tray, ask: Any, data: bytes) -> None:
        if len(wrong) < 2:
            wrong.append(ask.node)
            hashes, tray._hashes = tray._hashes, {**tray._hashes, ask.round: b"x" * 32}
            with pytest.raises(VehicleError, match="another task than it was sent"):
                true(tray, ask, data)
            tray._hashes = hashes
            raise VehicleError("wrong")
        true(tray, ask, data)

    monkeypatch.setattr(Tray, "_put", put)
    world.run(monkeypatch, 1)
    assert world.watch.records[0]["refused"] == len(wrong) == 2
    assert not {one.ask.node for one in world.trays[0].counted}.intersection(wrong)


# ---- void, and the parts ---------------------------------------------------------------------------------


def test_a_committee_that_does_not_answer_voids_the_step_and_not_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = Buffers(9, per_version=1)
    world.council.gone = {Kind.RELEASE: set(range(1, 8))}
    commit = world.watch.commit

    def committed(checkpoint: Any) -> None:
        commit(checkpoint)
        if len(world.watch.records) == 2:
            assert checkpoint.version == 0
            assert not any(vector.any() for vector in checkpoint.vectors.values())
            world.council.gone = {}

    world.watch.commit = committed  # type: ignore[method-assign]
    training = world.run(monkeypatch, 3)
    told = world.watch.records
    assert [record["void"] for record in told] == [True, True, False]
    assert all(record["replied"] == 0 and record["secagg"]["why"] for record in told[:2])
    assert training.version == 1
    assert not twice(world.trays)


def test_a_strategy_with_a_buffer_needs_a_protocol_of_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Buffers(4, "secagg+")
    with pytest.raises(RoundError, match="use one-shot"):
        world.run(monkeypatch, 1)


def test_the_board_tells_what_is_open_then_or_next() -> None:
    board = Board()
    with pytest.raises(VehicleError, match="no buffer is open"):
        board.at(0.0)
    board.post(b"1", b"c", 0.0)
    assert board.at(5.0) == (b"1", b"c")
    board.close(10.0)
    board.post(b"2", b"c", 0.0)
    assert [board.at(t)[0] for t in (0.0, 9.9, 10.0, 99.0)] == [b"1", b"1", b"2", b"2"]
    board.close(20.0)
    board.post(b"3", b"c", 15.0)
    assert board.at(0.0)[0] == b"2", "nobody is under way since then"


def test_closed_buffers_are_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Buffers(9, per_version=1)
    world.run(monkeypatch, 3)
    masked = world.trays[-1].tray.masked
    assert isinstance(masked, Masked)
    assert masked.closed.maxlen == REMEMBERED
    assert len(masked.closed) == 3
