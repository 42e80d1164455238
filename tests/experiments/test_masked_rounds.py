"""Masked rounds from task to sum: whoever leaves when, the sum is that of who is in it, or the round is void.

Server, grid, vehicles' agents and committee are the real ones; nobody trains (`masked_fleet.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carpool.privacy.errors import RoundError
from carpool.server.secure_once import Kind
from carpool.strategies.contract import Channel, Reduced
from carpool.strategies.fedavg import fedavg
from carpool.strategies.median import median
from tests.experiments.masked_fleet import STEPS, World

ORDER = {name: place for place, name in enumerate(STEPS)}
PROTOCOLS = ("secagg+", "one-shot", "helpers")


def check(world: World, outcome: Any, state: Any, counts: bool) -> None:
    """The sum over exactly the survivors, in the ring; or nothing at all, and why."""
    record, inside = outcome.secagg, world.inside()
    assert outcome.decision.counted == counts, record["why"]
    if not counts:
        assert record["why"]
        assert outcome.usable == {}
        assert not state.params.any(), "the model stays"
        assert outcome.train_loss is None
        return
    assert set(outcome.usable) == {v + 1 for v in inside}, "and only they may commit what they remember"
    [(total, count)] = world.sums
    assert count == len(inside)
    off = np.abs(world.apart(total, world.plain(inside)))
    # One-shot's error has the standard deviation of 4 sqrt(n) steps; 8 of them are passed once in 10^15.
    assert off.max() <= (32 * math.sqrt(count) if world.protocol == "one-shot" else 0)
    assert off.any() == (world.protocol == "one-shot")
    step = world.form().quantisers[0].step * world.settings.most_weight
    assert np.abs(state.params - world.mean(inside)).max() <= 40 * math.sqrt(count) * step + 1e-5
    assert record["sums"] == [{"vehicles": count, "released": True, "why": None}]
    assert record["why"] is None


def adds_up(world: World, outcome: Any) -> None:
    """asked = dropped by step + in the sums, where no sum was lost."""
    record = outcome.secagg
    steps, dropped = record["steps"], record["dropped"]
    before = sum(dropped.get(name, 0) for name in ("advertise", "share", "mask", "send", "certify"))
    if all(one["why"] is None for one in record["sums"]) and record["sums"]:
        assert steps["asked"] == before + sum(one["vehicles"] for one in record["sums"])
    assert steps["asked"] == world.n
    assert list(steps.values()) == sorted(steps.values(), reverse=True), "nobody comes back"
    assert len(bytes.fromhex(record["transcript"])) == 32
    ends = world.log.all("transcript")
    assert len(ends) == len(world.log.all("round")), "every attempt has an end in the log"
    assert any(end[3] for end in ends) == record["released"]


def plus_counts(world: World, steps: Mapping[int, str]) -> bool:
    """Whether `secagg+` comes to a sum on the complete graph, from its conditions."""
    at = [ORDER[steps.get(v, "stay")] for v in range(world.n)]
    signed, opened = (sum(one >= ORDER[name] for one in at) for name in ("open", "stay"))
    return signed >= world.n_min and opened > world.threshold


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.slow
@given(
    n=st.integers(3, 9),
    n_min=st.integers(2, 5),
    threshold=st.integers(2, 4),
    bits=st.sampled_from([16, 24, 32]),
    rotate=st.booleans(),
    data=st.data(),
)
def test_secagg_plus_with_any_departures_at_any_step(
    monkeypatch: pytest.MonkeyPatch,
    n: int,
    n_min: int,
    threshold: int,
    bits: int,
    rotate: bool,
    data: st.DataObject,
) -> None:
    step = st.sampled_from(("stay",) * 10 + STEPS)
    steps = {v: data.draw(step) for v in range(n)}
    world = World(n, n_min=n_min, threshold=threshold, bits=bits, rotate=rotate, steps={1: steps})
    state, outcome = world.play(monkeypatch)
    if bits == 16 and outcome.decision.counted:  # so coarse that only the ring is compared
        [(total, count)] = world.sums
        assert not world.apart(total, world.plain(world.inside())).any()
        assert plus_counts(world, steps)
    elif not (bits == 16 and "weights" in (outcome.secagg["why"] or "")):
        check(world, outcome, state, plus_counts(world, steps))
    adds_up(world, outcome)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.slow
@given(
    protocol=st.sampled_from(["one-shot", "helpers"]),
    n=st.integers(2, 9),
    n_min=st.integers(2, 5),
    bits=st.sampled_from([24, 32]),
    data=st.data(),
)
def test_one_message_with_any_departures_of_vehicles_and_members(
    monkeypatch: pytest.MonkeyPatch, protocol: str, n: int, n_min: int, bits: int, data: st.DataObject
) -> None:
    members, quorum = (7, 5) if protocol == "one-shot" else (3, 3)
    steps = {v: data.draw(st.sampled_from(("stay",) * 6 + STEPS)) for v in range(n)}
    points = st.sets(st.integers(1, members), max_size=2)
    gone = {kind: data.draw(st.just(set()) | points) for kind in Kind}
    world = World(n, protocol, n_min, bits=bits, steps={1: steps}, gone=gone)
    state, outcome = world.play(monkeypatch)
    signed = set(range(1, members + 1)) - gone[Kind.PROPOSAL] - gone[Kind.LIST]
    opens = len(signed - gone[Kind.RELEASE]) >= (quorum if protocol == "one-shot" else 2)
    counts = len(world.inside()) >= n_min and len(signed) >= quorum and opens
    check(world, outcome, state, counts)
    adds_up(world, outcome)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("step", STEPS[:-1])
def test_two_leave_at_a_step(monkeypatch: pytest.MonkeyPatch, protocol: str, step: str) -> None:
    world = World(7, protocol, 3, steps={1: {1: step, 4: step}})
    state, outcome = world.play(monkeypatch)
    check(world, outcome, state, counts=True)
    adds_up(world, outcome)
    name = {"training": "advertise", "cut": "mask"}.get(step, step)
    if protocol == "secagg+":
        assert {k for k, v in outcome.secagg["dropped"].items() if v} == {name}
        assert outcome.secagg["dropped"][name] == 2
    else:
        assert outcome.secagg["dropped"] == {"send": 0 if step in ("sign", "open") else 2, "certify": 0}
    left = {"training": "during_training", "cut": "during_upload"}
    stage = left.get(step, "before_upload" if step in ("share", "mask") else "after_upload")
    assert {k for k, v in world.grid.left(1).items() if v} == {stage}, "as without masks"


def test_everybody_waits_for_who_left_by_the_virtual_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """One who left costs the wait of its trip, and nothing else."""
    took = {}
    for step in STEPS:
        world = World(7, n_min=3, steps={1: {2: step}})
        world.play(monkeypatch)
        took[step] = world.clock.now()
    assert took["stay"] < 100
    assert took["training"] == pytest.approx(500, abs=20), "the longest round"
    for step in ("share", "sign", "open"):
        assert 60 < took[step] - took["stay"] + 10 < 80
    assert took["mask"] > 600
    assert took["cut"] < took["stay"] + 30, "a broken connection is known at once"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_same_round_twice_is_the_same_sum_under_other_masks(
    monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    worlds = [World(5, protocol) for _ in range(2)]
    outcomes = [world.play(monkeypatch)[1] for world in worlds]
    (one, _), (two, _) = (world.sums[0] for world in worlds)
    assert np.array_equal(one, two) == (protocol != "one-shot")
    assert len({outcome.secagg["transcript"] for outcome in outcomes}) == 2
    assert worlds[0].veil.said[0, 1] != worlds[1].veil.said[0, 1]


def test_secagg_plus_and_helpers_are_the_same_in_the_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for protocol in ("secagg+", "helpers"):
        world = World(6, protocol, steps={1: {3: "training"}})
        state, _ = world.play(monkeypatch)
        found.append((world.sums[0][0].tobytes(), state.params.tobytes()))
    assert found[0] == found[1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nobody_there(monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    """A void round, not the end of the run."""
    world = World(4, protocol)
    asked = np.zeros(0, np.int64)
    true = np.arange
    with monkeypatch.context() as patch:
        patch.setattr("tests.experiments.masked_fleet.np.arange", lambda *a, **k: asked if k else true(*a))
        _, outcome = world.play(patch)
    assert not outcome.decision.counted
    assert outcome.secagg["steps"]["asked"] == 0
    assert len(world.log.all("transcript")) == 1


# ---- too few ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("staying", "counts"), [(4, True), (3, False)])
def test_below_n_min_nothing_is_opened(
    monkeypatch: pytest.MonkeyPatch, protocol: str, staying: int, counts: bool
) -> None:
    steps = dict.fromkeys(range(7 - staying), "mask")
    world = World(7, protocol, n_min=4, steps={1: steps})
    state, outcome = world.play(monkeypatch)
    check(world, outcome, state, counts)
    if not counts:
        assert not outcome.secagg["released"]
        assert world.log.all("participation") == []
        assert "n_min" in outcome.secagg["why"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_below_quorum_nothing_is_opened(monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    """Also where the quorum is lost only after everybody said that it was there."""
    world = World(7, protocol, n_min=2, quorum=0.8, steps={1: {1: "mask", 2: "mask"}})
    state, outcome = world.play(monkeypatch)
    check(world, outcome, state, counts=False)
    assert not outcome.secagg["released"]
    assert world.log.all("participation") == []
    assert "needed" in outcome.secagg["why"] or "quorum is 6" in outcome.secagg["why"]


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize(("gone", "counts"), [(2, True), (3, False)])
def test_members_beyond_the_quorum_may_be_absent_and_no_more(
    monkeypatch: pytest.MonkeyPatch, kind: Kind, gone: int, counts: bool
) -> None:
    world = World(4, "one-shot", gone={kind: set(range(1, gone + 1))})
    state, outcome = world.play(monkeypatch)
    check(world, outcome, state, counts)
    committee = outcome.secagg["committee"]
    assert (committee["members"], committee["quorum"]) == (7, 5)
    assert (committee["answered"] >= 5) == counts
    assert counts or "members" in outcome.secagg["why"]


@pytest.mark.parametrize(
    ("kind", "gone", "counts"),
    [
        (Kind.PROPOSAL, {2}, False),
        (Kind.LIST, {2}, False),
        (Kind.RELEASE, {1}, True),
        (Kind.RELEASE, {3}, True),
        (Kind.RELEASE, {1, 3}, False),
    ],
)
def test_helpers_all_sign_and_two_open(
    monkeypatch: pytest.MonkeyPatch, kind: Kind, gone: set[int], counts: bool
) -> None:
    world = World(4, "helpers", gone={kind: gone})
    state, outcome = world.play(monkeypatch)
    check(world, outcome, state, counts)


# ---- several rounds, passes and groups -------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_void_round_takes_nothing_into_the_next(monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    world = World(6, protocol, n_min=4, steps={2: dict.fromkeys(range(3), "mask"), 3: {5: "cut"}})
    state, voids = None, []
    models = []
    for round_ in (1, 2, 3):
        state, outcome = world.play(monkeypatch, round_, state)
        voids.append(not outcome.decision.counted)
        models.append(state.params.copy())
    assert voids == [False, True, False]
    assert models[0].tobytes() == models[1].tobytes()
    assert np.abs(models[2] - models[1] - world.mean(world.inside(3), 3)).max() < 1e-3
    assert len({entry[1] for entry in world.log.all("round")}) == 3, "every attempt has an id of its own"


class Rows:
    """A set strategy that keeps what it was given."""

    def __init__(self, size: int, least: int = 1, weight: Any = "strategy") -> None:
        self.given: list[Reduced] = []
        rule = median()

        def update(state: Any, reduced: Reduced, facts: Any) -> Any:
            self.given.append(reduced)
            return rule.update(state, reduced, facts)

        channels = (Channel("delta", "set", weight=weight, clip=3.0, group=size),)
        self.strategy = replace(rule, channels=channels, update=update, least=least)


def groups_of(world: World) -> list[list[int]]:
    """Who is in which released sum, as vehicles, by the log."""
    return [[node - 1 for node in entry[2]] for entry in world.log.all("participation")]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("n", "weight"), [(12, "strategy"), (14, "strategy"), (14, "one")])
def test_rows_of_a_set_are_the_means_of_groups(
    monkeypatch: pytest.MonkeyPatch, protocol: str, n: int, weight: str
) -> None:
    """Groups of equal and of unequal size: 14 vehicles in three groups are 5, 5 and 4."""
    rows = Rows(4, weight=weight)
    world = World(n, protocol, n_min=3, cohort=12, strategy=rows.strategy)
    _, outcome = world.play(monkeypatch)
    assert outcome.decision.counted
    groups = groups_of(world)
    assert sorted(v for group in groups for v in group) == list(range(n))
    assert sorted(map(len, groups)) == ([4, 4, 4] if n == 12 else [4, 5, 5])
    [reduced] = rows.given
    assert reduced.sets["delta"].shape == (3, world.numbers)
    for group, row in zip(groups, reduced.sets["delta"], strict=True):
        np.testing.assert_allclose(row, world.mean(group, equal=weight == "one"), atol=2e-5)
    assert reduced.count == n
    assert len({entry[1] for entry in world.log.all("round")}) == (1 if protocol == "secagg+" else 3)
    adds_up(world, outcome)


def with_a_small_group(protocol: str, least: int) -> tuple[World, Rows, list[int]]:
    """Twelve in three groups, of one of which all but two leave."""
    probe = World(12, protocol, n_min=3, cohort=12, strategy=Rows(4).strategy)
    with pytest.MonkeyPatch.context() as patch:
        probe.play(patch)
    lost = groups_of(probe)[1]
    rows = Rows(4, least)
    steps = {1: dict.fromkeys(lost[:2], "mask")}
    world = World(12, protocol, n_min=3, cohort=12, quorum=0.5, steps=steps, strategy=rows.strategy)
    return world, rows, lost


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_group_below_n_min_is_void_alone(monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    world, rows, lost = with_a_small_group(protocol, least=2)
    _, outcome = world.play(monkeypatch)
    assert outcome.decision.counted
    assert [one["released"] for one in outcome.secagg["sums"]].count(False) == 1
    assert any("n_min" in (one["why"] or "") for one in outcome.secagg["sums"])
    assert set(outcome.usable) == {v + 1 for v in range(12)} - {v + 1 for v in lost}, "nor do they commit"
    assert len(rows.given[0].sets["delta"]) == 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_fewer_groups_than_the_rule_needs_are_void(monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    world, rows, _ = with_a_small_group(protocol, least=3)
    state, outcome = world.play(monkeypatch)
    assert not outcome.decision.counted
    assert "2 groups of 3 needed" in outcome.secagg["why"]
    assert rows.given == []
    assert not state.params.any()
    assert outcome.usable == {}
    if protocol == "secagg+":
        assert not outcome.secagg["released"], "nor is opened what would not count"


def test_a_sum_that_nobody_released_has_nothing_to_reduce() -> None:
    from carpool.server.secure import Given

    with pytest.raises(RoundError, match="nothing was released"):
        Given(None).reduce()


def test_who_left_holds_nothing_of_a_round_that_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors of a large model would fill the memory of whoever simulates the fleet."""
    world = World(7, n_min=3, steps={1: {0: "share", 1: "mask", 2: "sign"}})
    world.play(monkeypatch)
    agents = [world.veil.agent(index) for index in range(7)]
    assert all(agent._vector is None and agent._state is None for agent in agents)  # type: ignore[attr-defined]
    _, outcome = world.play(monkeypatch, 2)
    assert len(outcome.usable) == 7, "and they come back"


def test_channels_are_masked_together(monkeypatch: pytest.MonkeyPatch) -> None:
    channels = tuple(Channel(name, clip=1.0 + k) for k, name in enumerate(("delta", "control", "third")))
    world = World(5, strategy=replace(fedavg(), channels=channels))
    state, outcome = world.play(monkeypatch)
    check(world, outcome, state, counts=True)
    assert len(world.sums[0][0]) == 3 * world.numbers + 3
