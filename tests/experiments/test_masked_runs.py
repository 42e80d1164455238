"""Whole runs under secure aggregation: the model of a plain run, whoever leaves or is killed."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from carpool.experiments.load import load_experiment
from carpool.experiments.run import Nobody, resume, start
from carpool.experiments.runfolder import CHECKPOINT, MEMORY, run_identity
from carpool.server import checkpoint as checkpoints

pytestmark = pytest.mark.slow
Write = Callable[..., Path]
CARPOOL = [sys.executable, "-c", "from carpool.experiments.cli import main; main()"]
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray")
STAGES = ("before_training", "during_training", "before_upload", "during_upload", "after_upload")
STAY = tuple(f"fleet.leave.{stage}=0.0" for stage in STAGES)
LEAVING = tuple(f"fleet.leave.{stage}=0.08" for stage in STAGES)
MASKED = (
    "privacy.channel=secagg",
    "privacy.secagg.n_min=4",
    "privacy.secagg.adversary=curious",
    "privacy.secagg.dropout_fraction=0.5",
    "selection.cohort=8",
    "selection.over_select=0.25",
    "selection.quorum=0.625",
)
"""Ten of twelve are asked; a round counts with five."""
NAMED = ("privacy.protocol=one-shot", "privacy.committee.members=7", "privacy.committee.corrupt=2")
PROTOCOLS = {"secagg+": (), "one-shot": NAMED, "helpers": ("privacy.protocol=helpers",)}
PLAIN = (*MASKED[4:], "privacy.channel=plain")
STRATEGIES: dict[str, tuple[str, ...]] = {
    "fedavg": (),
    "fedavgm": (),
    "fedadam": (),
    "fedyogi": (),
    "fedadagrad": (),
    "fedprox": (),
    "scaffold": (),
    "fednova": (),
    "feddyn": (),
    "mifa": (),
    "fedper": ("model.name=mlp",),
    "fedrep": ("model.name=mlp",),
    "fedbn": ("model.name=cnn-small",),
    "ditto": (),
    "qfedavg": (),
    "rfa": ("strategy.options.passes=2",),
    "normbound": (),
    "centeredclip": ("strategy.options.enforce=vehicle",),
    "signvote": ("strategy.options.votes=sum",),
    "diloco": (),
    "median": ("strategy.bucket=5", "selection.cohort=10", "selection.over_select=0.0"),
    "trimmedmean": ("strategy.bucket=5", "selection.cohort=10", "selection.over_select=0.0"),
}
GROUPS = ("fleet.vehicles=15", "strategy.bucket=5", "selection.cohort=15", "selection.over_select=0.0")
STRATEGIES |= dict.fromkeys(("krum", "multikrum", "bulyan"), (*GROUPS, "strategy.options.f=0"))
STRATEGIES["fltrust"] = GROUPS
FAST = ("fedavg", "scaffold", "rfa", "median")


def go(file: Path, out: Path, *sets: str, **more: Any) -> dict[str, Any]:
    return start(load_experiment(file, sets), out=out, **more)[1]


def vector(folder: Path) -> np.ndarray:
    tensors = load_file(folder / "model.safetensors")
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)])


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def rounds(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def carpool(*arguments: str | Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*CARPOOL, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def done(*arguments: str | Path) -> bytes:
    out, error = (process := carpool(*arguments)).communicate(timeout=300)
    assert process.returncode == 0, error
    return out


def flags(sets: tuple[str, ...]) -> list[str]:
    return [word for one in sets for word in ("--set", one)]


# ---- the model of a plain run ----------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "strategy",
    [name if name in FAST else pytest.param(name, marks=pytest.mark.nightly) for name in STRATEGIES],
)
def test_the_model_is_that_of_a_plain_run(tiny: Write, tmp_path: Path, strategy: str, protocol: str) -> None:
    """Within the numbers' steps: of norm 100 in 32 bits for ten vehicles, 5e-7 each, 8e-6 under one-shot."""
    common = ("experiment.rounds=2", f"strategy.name={strategy}", *STAY)
    extra = STRATEGIES[strategy]
    go(tiny(), tmp_path / "plain", *common, *PLAIN, *extra)
    masked = (*common, *MASKED, *PROTOCOLS[protocol], *extra)
    go(tiny(), tmp_path / "masked", *masked)
    one, two = vector(tmp_path / "plain"), vector(tmp_path / "masked")
    told, plain = rounds(tmp_path / "masked"), rounds(tmp_path / "plain")
    assert not any(record["void"] for record in (*told, *plain))
    assert [r["replied"] for r in told] == [r["replied"] for r in plain] == [r["asked"] for r in told]
    step = 100 / ((2**31 - 1) / 10)
    # Sums of ten over ten or more; adaptive rules enlarge what is small, two rounds of training what is not.
    error = step * (8 if protocol == "one-shot" else 1)
    room = 2000 if strategy in ("fedadagrad", "fedyogi", "fedadam") else 100
    assert np.abs(one - two).max() <= room * error
    for ours, theirs in zip(told, plain, strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-3, abs=1e-3)
        assert ours["left"] == theirs["left"]
    if protocol == "secagg+" and strategy in FAST:
        go(tiny(), tmp_path / "again", *masked)
        assert digest(tmp_path / "again") == digest(tmp_path / "masked")
        assert [r["secagg"]["transcript"] for r in rounds(tmp_path / "again")] != [
            r["secagg"]["transcript"] for r in told
        ]
        if strategy != "median":  # there a group is announced by itself, with finer numbers
            go(tiny(), tmp_path / "helpers", *masked, *PROTOCOLS["helpers"])
            assert digest(tmp_path / "helpers") == digest(tmp_path / "masked"), "the same in the ring"


@pytest.mark.parametrize("bits", [16, 24])
def test_fewer_bits_and_rotation_come_to_the_same_model(tiny: Write, tmp_path: Path, bits: int) -> None:
    common = ("experiment.rounds=2", *STAY)
    sets = (f"privacy.secagg.bits={bits}", "privacy.secagg.rotate=true", "privacy.secagg.clip_norm=2.0")
    go(tiny(), tmp_path / "plain", *common, *PLAIN)
    go(tiny(), tmp_path / "masked", *common, *MASKED, *sets)
    off = np.abs(vector(tmp_path / "plain") - vector(tmp_path / "masked")).max()
    assert off < {16: 0.02, 24: 2e-4}[bits]
    assert sum(r["bytes_up"] for r in rounds(tmp_path / "masked")) > 0


# ---- whoever leaves --------------------------------------------------------------------------------------


def add_up(record: Mapping[str, Any]) -> None:
    """Who was asked is in the sum, or dropped at one step; a void round says why."""
    seen = record["secagg"]
    before = sum(seen["dropped"].get(name, 0) for name in ("advertise", "share", "mask", "send", "certify"))
    inside = sum(one["vehicles"] for one in seen["sums"] if one["released"])
    assert seen["steps"]["asked"] == record["asked"]
    assert record["replied"] == (0 if record["void"] else inside)
    assert record["asked"] == record["replied"] + record["dropped"]
    assert bool(seen["why"]) == record["void"]
    assert len(bytes.fromhex(seen["transcript"])) == 32
    if seen["released"] and all(one["released"] for one in seen["sums"]):
        assert before + inside == record["asked"]
    assert all(one["vehicles"] >= seen["n_min"] for one in seen["sums"] if one["released"])
    assert all(one["why"] for one in seen["sums"] if not one["released"])


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("fleet", ["bernoulli", "markov", "trace"])
def test_departures_cost_rounds_and_no_model(tiny: Write, tmp_path: Path, protocol: str, fleet: str) -> None:
    sets = [*LEAVING, *MASKED, *PROTOCOLS[protocol], "experiment.rounds=6", f"fleet.availability={fleet}"]
    if fleet == "trace":
        rows = [f"car{v},{start},{start + 3000}" for v in range(12) for start in range(v * 50, 90000, 4000)]
        (tmp_path / "trace.csv").write_text("vehicle,start,end\n" + "\n".join(rows) + "\n")
        sets.append(f"fleet.trace={tmp_path / 'trace.csv'}")
    result = go(tiny(), tmp_path / "r", *sets)
    for record in result["rounds"]:
        add_up(record)
    assert not all(record["void"] for record in result["rounds"])
    seconds = [record["fleet_seconds"] for record in result["rounds"]]
    assert min(seconds) > 0
    done("log", "verify", tmp_path / "r")
    page = (tmp_path / "r/report.html").read_text()
    assert protocol in page


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_who_leaves_at_which_stage_is_as_in_a_plain_run(tiny: Write, tmp_path: Path, protocol: str) -> None:
    sets = ("experiment.rounds=4", *LEAVING)
    plain = go(tiny(), tmp_path / "plain", *sets, *PLAIN)
    masked = go(tiny(), tmp_path / "masked", *sets, *MASKED, *PROTOCOLS[protocol])
    assert [r["left"] for r in plain["rounds"]] == [r["left"] for r in masked["rounds"]]
    assert [r["asked"] for r in plain["rounds"]] == [r["asked"] for r in masked["rounds"]]
    assert sum(sum(r["left"].values()) for r in masked["rounds"]) > 4


@pytest.mark.parametrize("strategy", ["scaffold", "mifa"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_memories_move_for_those_in_a_sum_and_no_others(
    tiny: Write, tmp_path: Path, protocol: str, strategy: str
) -> None:
    """What the server holds stays the sum of what the vehicles know, but for the rounding of each sum."""
    from carpool.client.memory import VehicleMemory

    folder = tmp_path / "r"
    sets = (*LEAVING, *MASKED, *PROTOCOLS[protocol], "experiment.rounds=8", f"strategy.name={strategy}")
    result = go(tiny(), folder, *sets)
    found = checkpoints.read(folder / CHECKPOINT)
    assert found is not None
    known = [
        VehicleMemory(folder / MEMORY, k, run_identity(folder)).at(found.counted.get(k + 1, 0))
        for k in range(12)
    ]
    name, held = ("control", "total") if strategy == "scaffold" else ("last", "total")
    own = np.sum([one[name] for one in known if one is not None], axis=0, dtype=np.float64)
    wanted = np.asarray(found.vectors[held], np.float64)
    step = 100 / ((2**31 - 1) / 10) * (32 if protocol == "one-shot" else 1)
    assert np.linalg.norm(wanted) > 0
    assert np.abs(own - wanted).max() <= 8 * 10 * step + 1e-5 * np.abs(wanted).max()
    last = {k + 1: 0 for k in range(12)} | dict(found.counted)
    voids = [record["round"] for record in result["rounds"] if record["void"]]
    assert not {*last.values()}.intersection(voids), "nobody commits in a void round"
    assert list((folder / MEMORY).glob("*.staged")), "somebody's work came to nothing"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_groups_of_a_set_rule_under_departures(tiny: Write, tmp_path: Path, protocol: str) -> None:
    sets = (*LEAVING, *MASKED, *PROTOCOLS[protocol], "experiment.rounds=4", "strategy.name=median")
    more = ("strategy.bucket=5", "selection.cohort=10", "selection.over_select=0.0", "selection.quorum=0.5")
    result = go(tiny(), tmp_path / "r", *sets, *more)
    for record in result["rounds"]:
        add_up(record)
    assert any(len(record["secagg"]["sums"]) == 2 for record in result["rounds"])
    done("log", "verify", tmp_path / "r")


@pytest.mark.parametrize("absent", [0.0, 0.2])
def test_members_of_the_committee_may_be_absent(tiny: Write, tmp_path: Path, absent: float) -> None:
    sets = (*STAY, *MASKED, *NAMED, "experiment.rounds=8", f"privacy.committee.absent={absent}")
    result = go(tiny(), tmp_path / "r", *sets)
    for record in result["rounds"]:
        add_up(record)
        committee = record["secagg"]["committee"]
        assert record["void"] == (committee["answered"] < committee["quorum"])
    voids = sum(record["void"] for record in result["rounds"])
    assert voids == 0 if not absent else voids < 8


# ---- one process, several, killed, above Flower ----------------------------------------------------------


@pytest.mark.parametrize("batching", ["sequential", "stacked"])
def test_two_workers_give_the_same_model(tiny: Write, tmp_path: Path, batching: str) -> None:
    sets = (*LEAVING, *MASKED, "experiment.rounds=3", f"train.batching={batching}")
    one = go(tiny(), tmp_path / "one", *sets)
    two = go(tiny(), tmp_path / "two", *sets, "experiment.workers=2")
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    for a, b in zip(one["rounds"], two["rounds"], strict=True):
        assert (a["replied"], a["left"], a["secagg"]["steps"]) == (
            b["replied"],
            b["left"],
            b["secagg"]["steps"],
        )


class StopAfter(Nobody):
    """Raises KeyboardInterrupt once a round is committed."""

    def __init__(self, round_: int) -> None:
        self.at = round_

    def round(self, record: Mapping[str, Any]) -> None:
        if record["round"] == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_interrupted_run_goes_on_with_its_keys_and_its_log(
    tiny: Write, tmp_path: Path, protocol: str
) -> None:
    sets = (*LEAVING, *MASKED, *PROTOCOLS[protocol], "experiment.rounds=4")
    whole = go(tiny(), tmp_path / "whole", *sets)
    with pytest.raises(KeyboardInterrupt):
        go(tiny(), tmp_path / "cut", *sets, watcher=StopAfter(2))
    before = (tmp_path / "cut/log.jsonl").read_bytes()
    _, result = resume(tmp_path / "cut")
    assert (tmp_path / "cut/log.jsonl").read_bytes().startswith(before), "the log only grows"
    assert [r["replied"] for r in result["rounds"]] == [r["replied"] for r in whole["rounds"]]
    if protocol == "one-shot":
        assert np.abs(vector(tmp_path / "cut") - vector(tmp_path / "whole")).max() < 1e-3
    else:
        assert digest(tmp_path / "cut") == digest(tmp_path / "whole")
    done("log", "verify", tmp_path / "cut")


def kill_often(file: Path, folder: Path, sets: tuple[str, ...], moments: tuple[float, ...]) -> int:
    """Run, with kill -9 so many seconds after the first round of each sitting; kills that hit."""
    process, hits = carpool("run", file, "--out", folder, *flags(sets)), 0
    for moment in moments:
        before = len(rounds(folder)) if (folder / "rounds.jsonl").is_file() else 0
        end = time.monotonic() + 120
        while time.monotonic() < end and process.poll() is None:
            path = folder / "rounds.jsonl"
            if path.is_file() and path.read_bytes().count(b"\n") > before:
                break
            time.sleep(0.002)
        time.sleep(moment)
        hits += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        process = carpool("run", "--resume", folder)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return hits


@pytest.mark.parametrize(
    ("strategy", "moments"),
    [
        ("fedavg", (0.004, 0.03, 0.06)),
        pytest.param("scaffold", (0.0, 0.01, 0.02, 0.04, 0.05, 0.07, 0.09), marks=pytest.mark.nightly),
    ],
)
def test_kill_9_at_any_point_ends_with_the_same_model(
    tiny: Write, tmp_path: Path, strategy: str, moments: tuple[float, ...]
) -> None:
    """The round that a kill cut off is begun again under another id; nothing of it is in the model twice."""
    file = tiny()
    sets = (*LEAVING, *MASKED, f"experiment.rounds={3 * len(moments) + 6}", f"strategy.name={strategy}")
    go(file, tmp_path / "whole", *sets)
    hits = kill_often(file, tmp_path / "killed", sets, moments)
    assert hits >= len(moments) // 2, "the kills came too late to prove anything"
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")
    one, two = (rounds(tmp_path / name) for name in ("whole", "killed"))
    assert [(r["round"], r["replied"], r["void"]) for r in one] == [
        (r["round"], r["replied"], r["void"]) for r in two
    ]
    log = [json.loads(line) for line in (tmp_path / "killed/log.jsonl").read_text().splitlines()]
    ids = [entry["round"] for entry in log if entry.get("kind") == "round"]
    assert len(ids) == len(set(ids)) >= len(one)
    done("log", "verify", tmp_path / "killed")


def test_a_masked_sweep_is_taken_up_again(tiny: Write, tmp_path: Path) -> None:
    """Each run's config.toml has the largest weight of its fleet, which the file left open."""
    file = tiny('[sweep]\n"experiment.seed" = [1, 2]\n')
    sets = flags((*STAY, *MASKED, "experiment.rounds=1"))
    for _ in range(2):
        done("sweep", file, "--out", tmp_path / "sweep", *sets)
    runs = sorted(path.parent for path in (tmp_path / "sweep").glob("*/result.json"))
    assert len(runs) == 2
    assert all("max_weight = 0.0" not in (run / "config.toml").read_text() for run in runs)


@needs_ray
@pytest.mark.nightly
@pytest.mark.parametrize("protocol", ["secagg+", "one-shot"])
def test_on_ray_the_same_vehicles_are_in_the_same_sums(tiny: Write, tmp_path: Path, protocol: str) -> None:
    found = {}
    sets = (*LEAVING, *MASKED, *PROTOCOLS[protocol], "experiment.rounds=2")
    for engine in ("inline", "ray"):
        out = tmp_path / engine
        told = done("run", tiny(), "--out", out, "--json", *flags((*sets, f"experiment.engine={engine}")))
        found[engine] = [
            (r["replied"], r["left"], r["secagg"]["steps"], r["secagg"]["dropped"])
            for r in json.loads(told)["rounds"]
        ]
        done("log", "verify", out)
    assert found["inline"] == found["ray"]
    if protocol == "secagg+":
        assert digest(tmp_path / "inline") == digest(tmp_path / "ray")
