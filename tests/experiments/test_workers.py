"""Worker processes: the same model as without, whoever is killed, and nobody left behind."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from carpool.client.trainer import TrainSettings
from carpool.experiments import workshop as workshops
from carpool.experiments.cohort import units
from carpool.experiments.load import load_experiment
from carpool.experiments.run import Nobody, start

Write = Callable[..., Path]


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


class Killer(Nobody):
    """Kills a worker after every round, and one in the middle of the next."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.killed: list[int] = []

    def training(self, folder: Path, done: int, rounds: int) -> None:
        self.folder = folder

    def _kill(self, place: int) -> None:
        assert self.folder is not None
        pool = workshops.open_workshop(self.folder)._pool
        if pool is not None and pool.pids:
            pid = pool.pids[place % len(pool.pids)]
            if psutil.pid_exists(pid):
                os.kill(pid, signal.SIGKILL)
                self.killed.append(pid)

    def round(self, record: Mapping[str, Any]) -> None:
        self._kill(record["round"])

        def later() -> None:
            time.sleep(0.3)
            self._kill(record["round"] + 1)

        threading.Thread(target=later, daemon=True).start()


@pytest.mark.slow
@pytest.mark.parametrize("batching", ["sequential", "stacked"])
def test_two_workers_give_the_same_model_and_leave_nobody_behind(
    tiny: Write, tmp_path: Path, batching: str
) -> None:
    sets = (f"train.batching={batching}", "experiment.rounds=3")
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    start(load_experiment(tiny(), sets), out=tmp_path / "one")
    start(load_experiment(tiny(), (*sets, "experiment.workers=2")), out=tmp_path / "two")
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    left = [c for c in psutil.Process().children(recursive=True) if c.pid not in before]
    assert not [c for c in left if "resource_tracker" not in " ".join(c.cmdline())]
    assert f'batching = "{batching}"' in (tmp_path / "two/config.toml").read_text()


@pytest.mark.slow
def test_a_worker_killed_in_every_round_changes_nothing(tiny: Write, tmp_path: Path) -> None:
    sets = ("train.batching=sequential", "experiment.rounds=4")
    start(load_experiment(tiny(), sets), out=tmp_path / "one")
    killer = Killer()
    experiment = load_experiment(tiny(), (*sets, "experiment.workers=2"))
    start(experiment, out=tmp_path / "two", watcher=killer)
    assert len(killer.killed) >= 4
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


def test_units_depend_on_the_members_alone() -> None:
    settings = TrainSettings(batch_size=4)
    members = [(k + 1, k) for k in range(10)]
    examples = [3, 9, 4, 4, 8, 12, 1, 7, 7, 2]
    alone = units(members, examples.__getitem__, settings, stacked=False, size=100)
    assert alone == [[member] for member in members]
    one = units(members, examples.__getitem__, settings, stacked=True, size=100)
    two = units(members[::-1], examples.__getitem__, settings, stacked=True, size=100)
    assert one == two
    assert sorted(member for unit in one for member in unit) == members
    assert len(units(members, examples.__getitem__, settings, stacked=True, size=1 << 24)) == 10
