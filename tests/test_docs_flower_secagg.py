"""Secure aggregation in docs/flower.md runs as it stands: keys, both apps, and Flower's simulation."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ArrayRecord, Context, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from torch import nn

from carpool.experiments import cli
from tests.experiments.flower_fleet import LocalGrid
from tests.test_docs_code import block

RAY = importlib.util.find_spec("ray") is not None
SIMULATION = """
from flwr.simulation import run_simulation
import client_app, server_app
if __name__ == "__main__":
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server_app.app, client_app.app, num_supernodes=10, backend_config=resources)
"""


def keys(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for line in block("flower.md", "keys enrol", "console").splitlines():
        assert cli.run(line.removeprefix("$ carpool ").split()) == 0, line


@pytest.mark.slow
def test_the_apps_of_the_page_train_on_secure_sums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    keys(tmp_path, monkeypatch)
    client: dict[str, Any] = {"__name__": "client_app"}
    server: dict[str, Any] = {"__name__": "server_app"}
    exec(block("flower.md", "mods=[secagg_mod(keys, n_min=6)]"), client)
    exec(block("flower.md", "secure.start("), server)
    exec(block("flower.md", "secure.round("), server)
    grid = LocalGrid(lambda node: client["app"], [3000 + i for i in range(10)])
    server["app"](grid, Context(1, 1, {}, RecordDict(), {}))
    told = capsys.readouterr().out
    losses = [float(line.split()[-1]) for line in told.splitlines() if line.startswith("round")]
    assert len(losses) == 3
    assert losses[0] > losses[1] > losses[2] > 0
    secure = server["SecureSum"](
        grid, "fleet/aggregator-0", server["Settings"]("secagg+", n_min=6, most_weight=100), clip=1.0
    )
    first = ArrayRecord(nn.Linear(3, 1).state_dict())
    assert server["one_round"](secure, first, grid.nodes) is not first
    assert server["one_round"](secure, first, grid.nodes[:5]) is first
    told = capsys.readouterr().out
    assert "10 vehicles, 320" in told
    assert "void: 5 nodes were to be asked; n_min is 6" in told


@pytest.mark.nightly
@pytest.mark.skipif(not RAY, reason="Ray is not installed: pip install 'carpool[ray]'")
def test_the_apps_of_the_page_run_in_flowers_simulation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys(tmp_path, monkeypatch)
    (tmp_path / "client_app.py").write_text(block("flower.md", "mods=[secagg_mod(keys, n_min=6)]"))
    (tmp_path / "server_app.py").write_text(block("flower.md", "secure.start("))
    (tmp_path / "simulate.py").write_text(SIMULATION)
    paths = os.pathsep.join([str(tmp_path), *(path for path in sys.path if path)])
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, "simulate.py"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **quiet, "FLWR_HOME": str(tmp_path / "flwr"), "PYTHONPATH": paths},
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    losses = [float(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith("round")]
    assert len(losses) == 3, done.stderr[-4000:]
    assert losses[0] > losses[2] > 0
