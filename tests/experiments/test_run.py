"""Whole runs of a tiny fleet: what they write, that a seed fixes them, and what ends them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from carpool.experiments import run as runs
from carpool.experiments import runfolder
from carpool.experiments.load import load_experiment
from carpool.experiments.run import Nobody, resume, start
from carpool.privacy.errors import ConfigError, DataError, RoundError, RunError, UsageError

pytestmark = pytest.mark.slow
Write = Callable[..., Path]
TIMES = ("seconds",)


def without_times(result: Mapping[str, Any]) -> Any:
    return json.loads(
        json.dumps(result), object_hook=lambda d: {k: v for k, v in d.items() if k not in TIMES}
    )


def model_hash(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def go(file: Path, out: Path, *sets: str, **more: Any) -> dict[str, Any]:
    folder, result = start(load_experiment(file, sets), out=out, **more)
    assert folder == out
    return result


class StopAfter(Nobody):
    """Raises KeyboardInterrupt once a round is committed."""

    def __init__(self, round_: int) -> None:
        self.at = round_

    def round(self, record: Mapping[str, Any]) -> None:
        if record["round"] == self.at:
            raise KeyboardInterrupt


def test_a_run_writes_its_folder_and_learns(tiny: Write, tmp_path: Path) -> None:
    result = go(tiny(), tmp_path / "r")
    files = {p.name for p in (tmp_path / "r").iterdir()}
    assert files >= {
        "config.toml",
        "environment.json",
        "rounds.jsonl",
        "model.safetensors",
        "result.json",
        "report.html",
        "checkpoint",
    }
    assert json.loads((tmp_path / "r/result.json").read_text()) == result
    lines = [json.loads(line) for line in (tmp_path / "r/rounds.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines == result["rounds"]
    assert result["final"]["accuracy"] > 0.8
    assert result["privacy"]["channel"] == "plain"
    for line in lines:
        assert line["asked"] == line["replied"] + line["dropped"]
        gone = sum(line["left"].values()) - line["left"]["after_upload"]
        assert line["dropped"] >= gone, "who left before the end of the upload is never counted"
        assert line["refused"] == line["left"]["during_upload"]


def test_the_same_seed_gives_the_same_result_and_another_seed_another(tiny: Write, tmp_path: Path) -> None:
    one, two = go(tiny(), tmp_path / "a"), go(tiny(), tmp_path / "b")
    assert without_times(one) == without_times(two)
    assert model_hash(tmp_path / "a") == model_hash(tmp_path / "b")
    other = go(tiny(), tmp_path / "c", "experiment.seed=4")
    assert without_times(other)["rounds"] != without_times(one)["rounds"]


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm", "fedadam", "fedprox"])
def test_an_interrupted_run_ends_with_the_same_model(tiny: Write, tmp_path: Path, strategy: str) -> None:
    name = f"strategy.name={strategy}"
    whole = go(tiny(), tmp_path / "whole", name, "train.momentum=0.5")
    with pytest.raises(KeyboardInterrupt):
        go(tiny(), tmp_path / "cut", name, "train.momentum=0.5", watcher=StopAfter(2))
    assert not (tmp_path / "cut/result.json").exists()
    with pytest.raises(KeyboardInterrupt):
        resume(tmp_path / "cut", watcher=StopAfter(5))
    _, result = resume(tmp_path / "cut")
    assert without_times(result) == without_times(whole)
    assert model_hash(tmp_path / "cut") == model_hash(tmp_path / "whole")


def test_resuming_a_finished_run_changes_nothing(tiny: Write, tmp_path: Path) -> None:
    result = go(tiny(), tmp_path / "r")
    before = model_hash(tmp_path / "r")
    assert resume(tmp_path / "r")[1] == result
    assert model_hash(tmp_path / "r") == before


def test_a_kill_between_checkpoint_and_line_loses_and_repeats_nothing(
    tiny: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = go(tiny(), tmp_path / "whole")

    def killed(folder: Path, record: Mapping[str, Any]) -> None:
        if record["round"] == 3:
            raise KeyboardInterrupt
        runfolder.commit_record(folder, record)

    with monkeypatch.context() as patch:
        patch.setattr("carpool.experiments.session.commit_record", killed)
        with pytest.raises(KeyboardInterrupt):
            go(tiny(), tmp_path / "cut")
    with (tmp_path / "cut/rounds.jsonl").open("a") as file:
        file.write('{"round": 3, "asked"')
    _, result = resume(tmp_path / "cut")
    assert without_times(result) == without_times(whole)


def test_a_warm_start_begins_with_the_other_runs_model(tiny: Write, tmp_path: Path) -> None:
    go(tiny(), tmp_path / "a")
    warm = go(tiny(), tmp_path / "b", "experiment.rounds=1", "train.lr=1e-9", warm=tmp_path / "a")
    one, two = load_file(tmp_path / "a/model.safetensors"), load_file(tmp_path / "b/model.safetensors")
    assert max(float(np.abs(one[k] - two[k]).max()) for k in one) < 1e-5
    assert warm["final"]["accuracy"] > 0.8


def test_a_warm_start_is_still_warm_after_a_kill(tiny: Write, tmp_path: Path) -> None:
    go(tiny(), tmp_path / "a")
    whole = go(tiny(), tmp_path / "b", warm=tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        go(tiny(), tmp_path / "c", warm=tmp_path / "a", watcher=StopAfter(1))
    assert without_times(resume(tmp_path / "c")[1]) == without_times(whole)


def test_a_warm_start_from_another_model_is_refused_and_leaves_no_folder(tiny: Write, tmp_path: Path) -> None:
    go(tiny(), tmp_path / "a")
    with pytest.raises(UsageError, match="does not fit"):
        go(tiny(), tmp_path / "b", 'model.name="mlp"', warm=tmp_path / "a")
    assert not (tmp_path / "b").exists()


def test_below_quorum_every_round_is_void_and_the_model_is_the_first(tiny: Write, tmp_path: Path) -> None:
    result = go(tiny("[fleet.leave]\nbefore_training = 1.0\nduring_training = 0.0\nbefore_upload = 0.0\n"
                     "during_upload = 0.0\nafter_upload = 0.0\n"), tmp_path / "r")  # fmt: skip
    assert all(r["void"] and r["replied"] == 0 for r in result["rounds"])
    losses = {r["loss"] for r in result["rounds"]}
    assert len(losses) == 1
    assert "oid" in (tmp_path / "r/report.html").read_text()


@pytest.mark.parametrize(
    "stage", ["before_training", "during_training", "before_upload", "during_upload", "after_upload"]
)
def test_a_stage_at_which_all_leave(tiny: Write, tmp_path: Path, stage: str) -> None:
    stages = ("before_training", "during_training", "before_upload", "during_upload", "after_upload")
    table = "\n".join(f"{s} = {1.0 if s == stage else 0.0}" for s in stages)
    result = go(tiny(f"[fleet.leave]\n{table}\n"), tmp_path / "r", "experiment.rounds=1")
    [record] = result["rounds"]
    assert record["left"][stage] == record["asked"] == 6
    assert record["void"] == (stage != "after_upload")
    assert record["replied"] == (6 if stage == "after_upload" else 0)
    assert (record["bytes_up"] > 0) == (stage in ("during_upload", "after_upload"))


def test_nan_in_training_stops_with_one_sentence_and_keeps_the_last_good_model(
    tiny: Write, tmp_path: Path
) -> None:
    with pytest.raises(RoundError, match=r"round \d: training ended in NaN or Inf.*lower train.lr"):
        go(tiny(), tmp_path / "r", "train.lr=1e38")
    assert (tmp_path / "r/checkpoint").is_dir()
    assert not (tmp_path / "r/result.json").exists()


def test_a_run_never_writes_into_another_ones_folder(tiny: Write, tmp_path: Path) -> None:
    go(tiny(), tmp_path / "r", "experiment.rounds=1")
    before = model_hash(tmp_path / "r")
    with pytest.raises(UsageError, match="not empty"):
        go(tiny(), tmp_path / "r")
    assert model_hash(tmp_path / "r") == before


@pytest.mark.parametrize(
    ("sets", "error"),
    [
        (("fleet.vehicles=100000", "data.source=npz", "data.path=/nowhere.npz"), ConfigError),
        (('model.name="cnn-multiview"',), ConfigError),
        (("model.options.nonsense=1",), ConfigError),
        (('data.targets=["curvature"]',), DataError),
    ],
)
def test_a_run_that_cannot_begin_leaves_no_folder(
    tiny: Write, tmp_path: Path, sets: tuple[str, ...], error: type[Exception]
) -> None:
    with pytest.raises(error):
        go(tiny(), tmp_path / "r", *sets)
    assert not (tmp_path / "r").exists()


def test_a_changed_configuration_is_refused_on_resume(tiny: Write, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        go(tiny(), tmp_path / "r", watcher=StopAfter(1))
    config = tmp_path / "r/config.toml"
    config.write_text(config.read_text().replace("lr = 0.02", "lr = 0.03"))
    with pytest.raises(RunError, match="config.toml was changed"):
        resume(tmp_path / "r")


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_later(
    tiny: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = go(tiny(), tmp_path / "whole")
    real, calls = runs.__dict__, [0]
    assert real

    import os

    true_fsync = os.fsync

    def full(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] == 12:
            raise OSError(28, "No space left on device")
        true_fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(RunError, match="no space left on device; free the space"):
            go(tiny(), tmp_path / "cut")
    assert not list((tmp_path / "cut").rglob("*.tmp"))
    assert without_times(resume(tmp_path / "cut")[1]) == without_times(whole)


@pytest.mark.parametrize("kind", ["markov", "trace"])
def test_other_availability_models_run(tiny: Write, tmp_path: Path, kind: str) -> None:
    sets = [f"fleet.availability={kind}"]
    if kind == "trace":
        rows = [f"car{v},{start},{start + 3000}" for v in range(12) for start in range(v * 50, 90000, 4000)]
        (tmp_path / "trace.csv").write_text("vehicle,start,end\n" + "\n".join(rows) + "\n")
        sets.append(f"fleet.trace={tmp_path / 'trace.csv'}")
    result = go(tiny(), tmp_path / "r", *sets)
    assert len(result["rounds"]) == 6
    assert any(not r["void"] for r in result["rounds"])
    again = go(tiny(), tmp_path / "again", *sets)
    assert without_times(again) == without_times(result)


def test_metrics_are_null_between_evaluations(tiny: Write, tmp_path: Path) -> None:
    result = go(tiny(), tmp_path / "r", "experiment.evaluate_every=4")
    assert [r["accuracy"] is not None for r in result["rounds"]] == [False] * 3 + [True, False, True]
    assert result["final"]["accuracy"] == result["rounds"][-1]["accuracy"]
