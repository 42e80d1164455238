"""Whole asynchronous runs under secure aggregation: departures, kills, memory, the log."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from carpool.client.memory import VehicleMemory
from carpool.experiments.load import load_experiment
from carpool.experiments.logfacts import contradictions
from carpool.experiments.run import resume, start
from carpool.experiments.runfolder import CHECKPOINT, MEMORY, run_identity
from carpool.privacy.errors import ConfigError
from carpool.server import checkpoint as checkpoints
from carpool.server.secure_buffered import Tray
from tests.experiments.test_async import NOBODY_LEAVES, StopAfter
from tests.experiments.test_kill import carpool, finish, killed_run

pytestmark = pytest.mark.slow
Write = Callable[..., Path]
MASKED = (
    "privacy.channel=secagg",
    "privacy.secagg.n_min=3",
    "privacy.secagg.per_version=1",
    "selection.deadline_max_s=60.0",
    "asynchrony.concurrency=8",
)
ONCE = ("privacy.protocol=one-shot", "privacy.committee.members=7", "privacy.committee.corrupt=2")
PROTOCOLS = {"one-shot": ONCE, "helpers": ("privacy.protocol=helpers",)}
BUFFER = ("asynchrony.buffer=3",)


def go(file: Path, out: Path, *sets: str, **more: Any) -> dict[str, Any]:
    return start(load_experiment(file, sets), out=out, **more)[1]


def vector(folder: Path) -> np.ndarray:
    tensors = load_file(folder / "model.safetensors")
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)])


def entries(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "kind" in line]


def verified(folder: Path) -> None:
    code, _, error = finish(carpool("log", "verify", folder))
    assert code == 0, error


def sound(folder: Path, records: list[Mapping[str, Any]]) -> None:
    """Every step's figures add up, and the log holds and says the same."""
    for record in records:
        seen = record["secagg"]
        inside = sum(one["vehicles"] for one in seen["sums"] if one["released"])
        assert record["asked"] == record["replied"] + record["dropped"] == seen["steps"]["asked"]
        assert record["replied"] == inside
        assert record["void"] == (inside == 0) == bool(seen["why"])
        assert record["void"] or inside + sum(seen["dropped"].values()) == record["asked"]
        assert inside == 0 or inside >= seen["n_min"]
    verified(folder)
    logged = entries(folder)
    assert not contradictions(records, logged)
    rounds = [one["round"] for one in logged if one["kind"] == "round"]
    assert len(rounds) == len(set(rounds)) >= len(records)
    opened = [one["round"] for one in logged if one["kind"] == "transcript" and one["released"]]
    assert len(opened) == len(set(opened)), "no round is opened twice"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_run_learns_whoever_leaves_and_its_log_holds(tiny: Write, tmp_path: Path, protocol: str) -> None:
    sets = (*MASKED, *PROTOCOLS[protocol], "experiment.rounds=14", "strategy.name=fedbuff")
    result = go(tiny(), tmp_path / "r", *sets, "strategy.options={buffer = 4}")
    sound(tmp_path / "r", result["rounds"])
    assert result["final"]["accuracy"] > 0.8
    assert max(record["asynchrony"]["staleness_max"] for record in result["rounds"]) >= 1
    assert sum(sum(record["left"].values()) for record in result["rounds"]) > 0
    tasks = [one for one in entries(tmp_path / "r") if one["kind"] == "task"]
    assert len(tasks) > 14, "buffers take several versions"
    page = (tmp_path / "r/report.html").read_text()
    assert protocol in page


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_equally_fast_vehicles_are_rounds_under_masks(tiny: Write, tmp_path: Path, protocol: str) -> None:
    """All of one version, all at once: the model of masked rounds, but for the rounding."""
    file = tiny(NOBODY_LEAVES)
    same = ("fleet.pace.spread=0.0", "selection.over_select=0.0", "experiment.rounds=3")
    plain = go(file, tmp_path / "rounds", *same)
    masked = ("privacy.channel=secagg", "privacy.secagg.n_min=4", *PROTOCOLS[protocol])
    result = go(file, tmp_path / "steps", *same, *masked, "asynchrony.buffer=4")
    assert [record["replied"] for record in result["rounds"]] == [4, 4, 4]
    step = 100 / ((2**31 - 1) / 10) * (8 if protocol == "one-shot" else 1)
    assert np.abs(vector(tmp_path / "rounds") - vector(tmp_path / "steps")).max() <= 100 * step
    for one, two in zip(plain["rounds"], result["rounds"], strict=True):
        assert two["train_loss"] == pytest.approx(one["train_loss"], rel=1e-3)
    sound(tmp_path / "steps", result["rounds"])


def test_memories_move_for_those_in_a_sum_and_no_others(tiny: Write, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    sets = (*MASKED, *PROTOCOLS["helpers"], *BUFFER, "experiment.rounds=12", "strategy.name=scaffold")
    result = go(tiny(), folder, *sets, "asynchrony.staleness=constant", "fleet.pace.uplink_mbit=0.01")
    sound(folder, result["rounds"])
    found = checkpoints.read(folder / CHECKPOINT)
    assert found is not None
    known = [
        VehicleMemory(folder / MEMORY, k, run_identity(folder)).at(found.counted.get(k + 1, 0))
        for k in range(12)
    ]
    own = np.sum([one["control"] for one in known if one is not None], axis=0, dtype=np.float64)
    wanted = np.asarray(found.vectors["total"], np.float64)
    assert np.linalg.norm(wanted) > 0
    assert np.abs(own - wanted).max() <= 12 * 3 * 100 / ((2**31 - 1) / 40) + 1e-5 * np.abs(wanted).max()
    assert sum(record["dropped"] for record in result["rounds"]) > 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("strategy", ["fedavg", "scaffold"])
def test_an_interrupted_run_goes_on_under_fresh_announcements(
    tiny: Write, tmp_path: Path, protocol: str, strategy: str
) -> None:
    """Not the same bytes: keys and buffers are new, and what was masked for the old one is not opened."""
    folder = tmp_path / "r"
    sets = [*MASKED, *PROTOCOLS[protocol], *BUFFER, "experiment.rounds=10", f"strategy.name={strategy}"]
    sets.append("asynchrony.staleness=constant")
    with pytest.raises(KeyboardInterrupt):
        go(tiny(), folder, *sets, watcher=StopAfter(3))
    with pytest.raises(KeyboardInterrupt):
        resume(folder, watcher=StopAfter(6))
    result = resume(folder)[1]
    assert [record["round"] for record in result["rounds"]] == list(range(1, 11))
    sound(folder, result["rounds"])
    assert result["final"]["accuracy"] > 0.8


@pytest.mark.parametrize("moment", ["gathering", "counted", "opened"])
def test_a_buffer_that_was_open_at_a_kill_is_never_opened_later(
    tiny: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Whenever it came: while updates came in, once the log said who is counted, after the sum was had."""
    folder, calls = tmp_path / "r", [0]
    at = {"gathering": 11, "counted": 4, "opened": 4}[moment]

    def cut(true: Callable[..., Any], *given: Any) -> Any:
        calls[0] += 1
        if calls[0] == at and moment != "opened":
            raise KeyboardInterrupt
        found = true(*given)
        if calls[0] == at:
            raise KeyboardInterrupt
        return found

    from carpool.experiments.council import Council
    from carpool.server.secure_once import Kind

    take, close, ask = Tray.take, Tray.close, Council.ask

    def asked(council: Council, round_: int, announced: Any, kind: Kind, messages: Any) -> Any:
        if kind is not Kind.RELEASE:
            return ask(council, round_, announced, kind, messages)
        return cut(ask, council, round_, announced, kind, messages)

    if moment == "gathering":
        monkeypatch.setattr(Tray, "take", lambda *given: cut(take, *given))
    elif moment == "counted":
        monkeypatch.setattr(Council, "ask", asked)
    else:
        monkeypatch.setattr(Tray, "close", lambda *given: cut(close, *given))
    sets = (*MASKED, *ONCE, *BUFFER, "experiment.rounds=8")
    with pytest.raises(KeyboardInterrupt):
        go(tiny(), folder, *sets)
    before = entries(folder)
    monkeypatch.undo()
    result = resume(folder)[1]
    assert [record["round"] for record in result["rounds"]] == list(range(1, 9))
    sound(folder, result["rounds"])
    known = {one["round"] for one in before if one["kind"] == "round"}
    for one in entries(folder)[len(before) :]:
        assert one.get("round") not in known, "nothing more is said of it"


def test_a_process_that_is_killed_at_any_moment_ends_with_a_valid_run(tiny: Write, tmp_path: Path) -> None:
    tables = (
        '[asynchrony]\nbuffer = 3\nconcurrency = 8\n[privacy]\nchannel = "secagg"\nprotocol = "one-shot"\n'
        "[privacy.secagg]\nn_min = 3\nper_version = 1\n[privacy.committee]\nmembers = 7\ncorrupt = 2\n"
    )
    file = tiny(tables)
    file.write_text(
        file.read_text()
        .replace("rounds = 6", "rounds = 24")
        .replace("quorum", "deadline_max_s = 60.0\nquorum")
    )
    assert killed_run(file, tmp_path / "killed", kills=3, seed=5) >= 2
    lines = (tmp_path / "killed/rounds.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["round"] for record in records] == list(range(1, 25))
    sound(tmp_path / "killed", records)
    assert not list((tmp_path / "killed").rglob("*.tmp"))


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (("asynchrony.buffer=3",), 'use protocol = "one-shot"'),
        (("privacy.protocol=helpers", "asynchrony.buffer=2"), "make the buffer 3 or more"),
        (("privacy.protocol=helpers", "strategy.name=fedasync"), "make the buffer 3 or more"),
        (("privacy.protocol=helpers", "asynchrony.buffer=3", "privacy.secagg.per_version=4"), "above the 3"),
        (("privacy.protocol=helpers", "asynchrony.buffer=3", "privacy.secagg.full_rounds=2"), "leave it out"),
        (("privacy.protocol=helpers", "privacy.secagg.per_version=2"), "all start from one version"),
        (
            (
                "privacy.protocol=helpers",
                "asynchrony.buffer=6",
                "strategy.name=median",
                "strategy.bucket=3",
                "asynchrony.staleness=constant",
            ),
            "is one sum and has no groups",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_way_out(
    tiny: Write, tmp_path: Path, sets: tuple[str, ...], words: str
) -> None:
    masked = ("privacy.channel=secagg", "privacy.secagg.n_min=3", "selection.quorum=0.75")
    with pytest.raises(ConfigError) as caught:
        load_experiment(tiny(), (*masked, *sets))
    assert words in str(caught.value)


def test_under_a_buffer_there_is_no_quorum_to_set(tiny: Write) -> None:
    """n_min above quorum x cohort is refused of rounds only."""
    sets = (*MASKED[:3], *PROTOCOLS["helpers"], "selection.quorum=0.5", "selection.cohort=4")
    with pytest.raises(ConfigError, match="n_min"):
        load_experiment(tiny(), (*MASKED[:2], *PROTOCOLS["helpers"], "selection.quorum=0.5"))
    load_experiment(tiny(), (*sets, *BUFFER))
