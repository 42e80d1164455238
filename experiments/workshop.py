"""Everything an experiment needs, opened once a process: data, model, strategy, and what is done with them.

The Flower apps find it by the run's folder, so that the same apps work in this process and in another one.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from carpool.client.camera.fleetdata import build_fleet
from carpool.client.camera.samples import FleetData, Shard
from carpool.client.evaluate import Metrics, evaluate
from carpool.client.flat import FlatModel
from carpool.client.models import build
from carpool.client.schedule import learning_rate
from carpool.client.step import Vehicle, contribute
from carpool.client.trainer import TrainSettings
from carpool.experiments.config import Experiment
from carpool.experiments.load import data_settings, load_experiment
from carpool.experiments.runfolder import CONFIG, run_identity
from carpool.privacy.errors import ConfigError
from carpool.privacy.vectors import Vector
from carpool.privacy.wire import ContributionMessage, TaskMessage, decode_task
from carpool.server.training import Plan
from carpool.strategies import catalogue
from carpool.strategies.contract import Strategy
from carpool.strategies.deadline import Policy

Progress = Callable[[int, int], None]
MEASURED = 1000
"""Vehicles whose own accuracy is measured after a run."""


def pick_device(wanted: str) -> str:
    """ "cpu" or "cuda" for train.device; raises ConfigError where cuda is asked for and absent."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError(['train.device is "cuda", but torch finds no GPU; use "cpu" or "auto"'])
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def fit_threads() -> None:
    """One thread a process: two threads lose to two processes, and results do not depend on the cores."""
    torch.set_num_threads(1)


class Workshop:
    """An experiment with its data, model and strategy."""

    def __init__(self, experiment: Experiment, run: str, progress: Progress | None = None) -> None:
        fit_threads()
        self.experiment = experiment
        self.run = run
        self.data: FleetData = build_fleet(
            data_settings(experiment), experiment.fleet.vehicles, progress=progress
        )
        self.strategy = build_strategy(experiment)
        self.model = build_model(experiment, self.data)
        self.settings = train_settings(experiment)
        self._task: tuple[bytes, TaskMessage] | None = None

    @cached_property
    def initial(self) -> Vector:
        """The first model, float32 [d], from the seed."""
        return build_model(self.experiment, self.data).numpy()

    @property
    def plan(self) -> Plan:
        """What the server is to do."""
        general, selection = self.experiment.experiment, self.experiment.selection
        return Plan(
            run=self.run,
            seed=general.seed,
            rounds=general.rounds,
            population=self.experiment.fleet.vehicles,
            cohort=selection.cohort,
            over_select=selection.over_select,
            policy=Policy(
                cohort=selection.cohort,
                quorum=selection.quorum,
                mads=selection.deadline_mads,
                min_s=selection.deadline_min_s,
                max_s=selection.deadline_max_s,
            ),
            evaluate_every=general.evaluate_every,
        )

    def decode(self, wire: bytes) -> TaskMessage:
        """The task; decoded once for the vehicles of this process that are sent the very same bytes."""
        if self._task is None or self._task[0] is not wire:
            self._task = (wire, decode_task(wire))
        return self._task[1]

    def contribute(self, task: TaskMessage, node: int, index: int) -> ContributionMessage:
        """Vehicle `index` (0..), known as `node` on the wire, does its half of a round."""
        general, train = self.experiment.experiment, self.experiment.train
        lr = learning_rate(
            train.lr,
            task.round,
            general.rounds,
            schedule=train.lr_schedule,
            final=train.lr_final,
            warmup=train.warmup_rounds,
        )
        vehicle = Vehicle(node, index, self.data.training(index))
        [contribution] = contribute(
            task,
            [vehicle],
            model=self.model,
            strategy=self.strategy,
            settings=self.settings,
            lr=lr,
            seed=general.seed,
        )
        return contribution

    def evaluate(self, model: Vector, shard: Shard | None = None) -> Metrics:
        """Figures of a model on `shard`, by default the experimenter's validation data."""
        self.model.load(model)
        return evaluate(self.model, self._validation if shard is None else shard)

    @cached_property
    def _validation(self) -> Shard:
        return self.data.validation()

    def vehicle_accuracy(self, model: Vector) -> tuple[list[float] | None, str]:
        """Accuracy on each vehicle's own held-back samples (known to the simulator only), and a note.

        At most `MEASURED` vehicles, evenly spaced.
        """
        vehicles = np.unique(np.linspace(0, self.data.vehicles - 1, MEASURED).astype(np.int64)).tolist()
        own = [self.data.own_validation(i) for i in vehicles]
        held_back = all(len(shard) for shard in own)
        if not held_back:
            own = [self.data.training(i) for i in vehicles]
        note = (
            "on each vehicle's own held-back drives"
            if held_back
            else "on the very frames each vehicle trained on, since not every vehicle holds some back"
        )
        found = [self.evaluate(model, shard).accuracy for shard in own]
        return ([a for a in found if a is not None] or None), note


def build_strategy(experiment: Experiment) -> Strategy[Any]:
    """The strategy of the experiment; raises ConfigError."""
    try:
        return catalogue.build(experiment.strategy.name, experiment.strategy.options)
    except ValueError as error:
        raise ConfigError([f"[strategy]: {error}"]) from error


def build_model(experiment: Experiment, data: FleetData) -> FlatModel:
    """The model of the experiment with its first parameters; raises ConfigError."""
    model, device = experiment.model, pick_device(experiment.train.device)
    module = build(model.name, data.schema, model.options, experiment.experiment.seed)
    return FlatModel(module, buffers=model.buffers, device=device)


def train_settings(experiment: Experiment) -> TrainSettings:
    """The [train] section for the trainer."""
    train = experiment.train
    return TrainSettings(
        epochs=train.epochs,
        steps=train.steps or 0,
        batch_size=train.batch_size,
        lr=train.lr,
        momentum=train.momentum,
        weight_decay=train.weight_decay,
        clip_grad=train.clip_grad,
        augment=train.augment,
    )


_opened: dict[Path, Workshop] = {}


def remember(folder: Path, workshop: Workshop) -> None:
    """Let the apps of this process use a workshop that is open already; one at a time."""
    _opened.clear()
    _opened[folder.resolve()] = workshop


def open_workshop(folder: Path) -> Workshop:
    """The workshop of a run's folder, opened from its config.toml at the first call in this process."""
    key = folder.resolve()
    if key not in _opened:
        _opened[key] = Workshop(load_experiment(key / CONFIG), run_identity(key))
    return _opened[key]


@lru_cache(maxsize=1)
def examples_of(workshop: Workshop) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Training samples of each vehicle, int64 [vehicles]; for the simulator's clock."""
    return np.array([len(workshop.data.training(i)) for i in range(workshop.data.vehicles)], np.int64)


def environment() -> Mapping[str, Any]:
    """What the run ran on, for environment.json: versions and machine, no user name, no path."""
    packages = ("carpool", "flwr", "torch", "numpy", "pydantic", "safetensors", "pillow", "msgpack")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "packages": {name: version(name) for name in packages},
    }
