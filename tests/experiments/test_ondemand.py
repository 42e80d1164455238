"""An experiment on vehicles that are rendered when they are asked for: the same run, the same checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from carpool.client.camera.ondemand import OnDemandFleet
from carpool.experiments.cli_data import LOOKED_AT, fleet_of
from carpool.experiments.load import load_experiment
from carpool.experiments.run import start
from carpool.experiments.workshop import Workshop, examples_of
from carpool.privacy.errors import ConfigError

FILE = """
[experiment]
name = "tiny"
rounds = 2
[fleet]
vehicles = 6
[data]
views = ["front"]
targets = ["sign"]
width = 16
height = 12
drives = 2
frames = 4
[model]
name = "logistic"
[train]
batch_size = 4
[selection]
cohort = 3
quorum = 0.4
"""


def go(tmp_path: Path, on_demand: str) -> tuple[dict[str, Any], bytes, str]:
    file = tmp_path / "tiny.toml"
    file.write_text(FILE)
    sets = [f"data.on_demand={on_demand}", f"data.cache={tmp_path / 'cache'}"]
    folder, result = start(load_experiment(file, sets), out=tmp_path / on_demand)
    return result, (folder / "model.safetensors").read_bytes(), (folder / "report.html").read_text()


@pytest.mark.slow
def test_the_run_is_the_same_as_with_a_pooled_fleet(tmp_path: Path) -> None:
    pooled, model, report = go(tmp_path, "never")
    lazy, other, note = go(tmp_path, "always")
    assert model == other
    assert lazy["final"] == pooled["final"]
    assert "rendered when they are asked for" in note
    assert "rendered when they are asked for" not in report


@pytest.mark.slow
def test_a_million_vehicles_open_at_once(tmp_path: Path) -> None:
    file = tmp_path / "tiny.toml"
    file.write_text(FILE)
    experiment = load_experiment(file, ["fleet.vehicles=1000000"])
    workshop = Workshop(experiment, "r" * 32)
    assert isinstance(workshop.data, OnDemandFleet)
    assert examples_of(workshop).shape == (1_000_000,)
    assert len(workshop.data.training(999_999)) == 4


def test_always_is_refused_for_data_that_is_read_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "tiny.toml"
    file.write_text(FILE)
    with pytest.raises(ConfigError, match=r'data.on_demand is "always", but source .* with split "iid"'):
        load_experiment(file, ["data.on_demand=always", "data.split=iid"])


@pytest.mark.slow
def test_looking_at_the_data_looks_at_the_first_vehicles(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.toml"
    file.write_text(FILE)
    fleet = fleet_of(file, ["fleet.vehicles=1000000", f"data.cache={tmp_path / 'cache'}"])
    assert fleet.vehicles == LOOKED_AT
    assert "first 200 of 1000000" in capsys.readouterr().err.replace("\n", " ")
