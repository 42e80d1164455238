"""The example of docs/data.md for a source of one's own, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from carpool.client.camera.fleetdata import build_fleet
from carpool.client.camera.pipeline import Pipeline
from carpool.client.camera.settings import DataSettings

PAGE = Path(__file__).parents[2] / "docs/data.md"


def example(folder: Path) -> Path:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (text,) = [block for block in blocks if "def build(" in block]
    file = folder / "my_data.py"
    file.write_text(text)
    return file


def test_the_example_is_a_fleet(tmp_path: Path) -> None:
    settings = DataSettings(source=f"{example(tmp_path)}:build", width=16, height=16, seed=3)
    fleet = build_fleet(settings, 4)
    assert (fleet.schema.width, fleet.schema.height) == (16, 16)
    assert sorted(fleet.domain(vehicle) for vehicle in range(4)) == [f"town {car}" for car in range(4)]
    # Two of three drives are trained on, and no drive is on both sides.
    assert [len(fleet.training(vehicle)) for vehicle in range(4)] == [16] * 4
    groups = [set(fleet.pool.group[rows].tolist()) for rows in (np.concatenate(fleet.rows), fleet.held)]
    assert not groups[0] & groups[1]
    # Wet roads are darker: there is something to learn.
    wet = fleet.pool.targets["road"] == 1
    assert fleet.pool.frames[~wet].mean() - fleet.pool.frames[wet].mean() > 50


def test_the_pipeline_is_done_for_it(tmp_path: Path) -> None:
    steps = Pipeline(crop_bottom=0.5, normalise="federated")
    settings = DataSettings(source=f"{example(tmp_path)}:build", pipeline=steps, targets=("grip",))
    fleet = build_fleet(settings, 2)
    assert (fleet.schema.width, fleet.schema.height) == (32, 12)
    assert fleet.schema.pipeline.std != steps.std
    assert [target.name for target in fleet.schema.targets] == ["grip"]
