"""What simulated vehicles and members insist on by themselves, whatever the server says: log, once, form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from carpool.client.secure import Work, check_form, update_name
from carpool.experiments import cli
from carpool.experiments.council import sizes_of
from carpool.experiments.load import load_experiment
from carpool.experiments.privacy_config import Committee, Privacy
from carpool.experiments.run import start
from carpool.privacy.errors import ConfigError, VehicleError
from carpool.privacy.secagg import messages as m
from carpool.privacy.secagg.announcement import Announcement, Protocol
from carpool.privacy.secagg.helpers_vehicle import HELPERS
from carpool.privacy.wire import TaskMessage
from tests.experiments.masked_fleet import World
from tests.experiments.test_masked_rounds import PROTOCOLS
from tests.experiments.test_masked_runs import MASKED, NAMED, STRATEGIES

Write = Callable[..., Path]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_round_is_answered_once_under_whatever_id(monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    """A server that says it lost the sum, and asks all but one again, would get that one's update."""
    world = World(5, protocol)
    state, outcome = world.play(monkeypatch, 1)
    assert outcome.decision.counted
    before = len(world.sums)
    again, second = world.play(monkeypatch, 1)
    assert not second.decision.counted
    assert len(world.sums) == before, "nothing more was opened"
    assert len(world.log.all("round")) == 2, "it was a round of another id"
    assert all("begin another" in world.veil.why[v] for v in range(5))
    assert world.play(monkeypatch, 2, state)[1].decision.counted


def test_who_left_before_its_vector_may_be_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What binds is the masked vector, not the keys."""
    world = World(5, steps={1: dict.fromkeys(range(5), "mask")})
    assert not world.play(monkeypatch, 1)[1].decision.counted
    world.steps[1].clear()  # type: ignore[attr-defined]
    assert world.play(monkeypatch, 1)[1].decision.counted


def test_passes_rounds_and_runs_are_told_apart_and_buffers_go_by_the_task() -> None:
    def name(
        run: str = "a", round_: int = 1, pass_: int = 1, wire: bytes = b"w", buffered: bool = False
    ) -> bytes:
        task = TaskMessage(run, round_, 0, 9, 9, pass_, {}, {})
        contribution: Any = None
        return update_name(Work(wire, task, 3, contribution, 0, 0), buffered=buffered)

    assert len({name(), name("b"), name(round_=2), name(pass_=2), name(buffered=True)}) == 5
    assert name(wire=b"x") == name(), "another model for the same round is a second answer, too"
    assert name(wire=b"x", buffered=True) != name(buffered=True)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_round_that_is_not_in_the_log_is_not_answered(
    monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    world = World(4, protocol)
    monkeypatch.setattr(world.log, "round", lambda *given, **named: None)
    _, outcome = world.play(monkeypatch)
    assert not outcome.decision.counted
    assert world.sums == []
    assert all("does not announce" in world.veil.why[v] for v in range(4))


def test_a_committee_that_the_log_did_not_draw_is_not_spoken_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its members are enrolled and it fits its own randomness: the server has drawn until it suited it."""
    world = World(4, "one-shot")
    monkeypatch.setattr(world.log, "epoch", lambda *given: b"x" * 32)
    _, outcome = world.play(monkeypatch)
    assert not outcome.decision.counted
    assert all("not the log's" in world.veil.why[v] for v in range(4))


@pytest.mark.parametrize("check", ["round_check", "committee_check"])
def test_members_ask_the_log_too(monkeypatch: pytest.MonkeyPatch, check: str) -> None:
    """Even if all vehicles were taken in, nobody signs the list."""
    world = World(4, "one-shot")

    def refuse(what: object) -> None:
        raise VehicleError("it is not in the log")

    field = "logged" if check == "round_check" else "drawn"
    world.council._nodes = {j: replace(node, **{field: refuse}) for j, node in world.council._nodes.items()}
    _, outcome = world.play(monkeypatch)
    assert not outcome.decision.counted
    assert world.veil.why == {}
    assert world.sums == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_bytes_of_the_protocol_are_told_apart_from_those_of_the_vectors(
    monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    world = World(5, protocol)
    _, outcome = world.play(monkeypatch)
    found = outcome.secagg["bytes"]
    size = 4 * world.form().numbers + (68 if protocol == "secagg+" else 0)  # head and signature of its own
    assert found["vectors"] == 5 * size
    assert found["protocol"] == outcome.bytes_up - 5 * size > 0


def test_the_noise_that_is_announced_is_the_vehicles_own() -> None:
    form = World(4).form()
    facts = (bytes(32), form.numbers, form.bits, form.levels, 4, 2, 1)
    for noise in (0, 9):
        announced = Announcement(Protocol.SECAGG_PLUS, bytes(16), *facts, noise, 0, (bytes(32),))
        if noise == form.noise:
            check_form(announced, form)
            continue
        with pytest.raises(VehicleError, match="noise = 9; this vehicle's are 0"):
            check_form(announced, form)


def test_the_committee_that_is_expected_is_that_of_the_file() -> None:
    assert sizes_of(Privacy(protocol="helpers")) == HELPERS
    named = sizes_of(Privacy(protocol="one-shot", committee=Committee(members=7, corrupt=2)))
    assert (named.members, named.corrupt, named.quorum) == (7, 2, 5)
    assert sizes_of(Privacy(protocol="one-shot")).members == 60


def test_what_is_to_be_masked_and_what_opens_it_is_not_printed() -> None:
    world = World(3)
    task = TaskMessage("masked", 1, 0, 3, 3, 1, {}, {})
    work = Work(b"wire of the task", task, 7, world.contribution(task, 0), 0, 0)
    number = repr(float(work.contribution.vectors["delta"][0]))[:6]
    assert number not in repr(work)
    assert "wire of" not in repr(work)
    shares = m.Shares({3: b"seed" * 8}, {4: b"key!" * 16}, 0)
    assert "seed" not in repr(shares).replace("seeds", "")
    assert "key!" not in repr(shares)
    assert np.float32(work.contribution.vectors["delta"][0]) != 0


def test_groups_are_not_simulated_by_one_sum(tiny: Write) -> None:
    file = tiny()
    more = (*MASKED, "strategy.name=median", *STRATEGIES["median"])
    load_experiment(file, more)
    with pytest.raises(ConfigError, match=r"privacy\.secagg\.full_rounds is 1, but .* strategy\.bucket is 5"):
        load_experiment(file, (*more, "privacy.secagg.full_rounds=1"))


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["secagg+", "one-shot"])
def test_rounds_of_arithmetic_alone_stand_in_the_log_like_the_others(
    tiny: Write, tmp_path: Path, protocol: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = (*MASKED, *NAMED) if protocol == "one-shot" else MASKED
    experiment = load_experiment(tiny(), (*more, "privacy.secagg.full_rounds=1"))
    folder, result = start(experiment, out=tmp_path / "run")
    assert [one["secagg"]["cryptography"] for one in result["rounds"]][:2] == ["full", "ring"]
    assert cli.run(["log", "verify", str(folder)]) == 0, capsys.readouterr()
