"""One run from its folder: start or resume, train, commit every round, finish with result and model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.serverapp import Grid

from carpool.client.modelfile import Recipe, read_model, write_model
from carpool.experiments.attack_success import attack_figures
from carpool.experiments.guard import guarded
from carpool.experiments.masking import masked
from carpool.experiments.private import private
from carpool.experiments.private_noise import secret_seed
from carpool.experiments.runfolder import (
    CHECKPOINT,
    MODEL,
    commit_record,
    repair_records,
)
from carpool.experiments.signals import uninterrupted
from carpool.experiments.simulated import SimulatedGrid
from carpool.experiments.trusted import root_update
from carpool.experiments.workshop import Workshop
from carpool.privacy.errors import RunError, UsageError
from carpool.privacy.spans import timed
from carpool.privacy.vectors import Vector
from carpool.server import checkpoint as checkpoints
from carpool.server.buffered import steps
from carpool.server.checkpoint import Checkpoint
from carpool.server.clock import RealClock
from carpool.server.inflight import Ask
from carpool.server.private import Private
from carpool.server.secure import Secrecy
from carpool.server.training import Training, begin, restore, step
from carpool.strategies.contract import dump

Observer = Callable[[Mapping[str, Any]], None]


class Session:
    """A run in progress; implements the server's `Hooks`.

    records: the rounds so far; observer: told of every committed round; warm: a run whose model to begin with
    (in the first checkpoint, so that a kill forgets nothing); stopped: why privacy allows no more rounds, ""
    where it does. Raises RunError, UsageError.
    """

    @timed("bookkeeping")
    def __init__(
        self,
        folder: Path,
        workshop: Workshop,
        observer: Observer = lambda record: None,
        warm: Path | None = None,
    ) -> None:
        self.folder, self.workshop, self.observer = folder, workshop, observer
        self._grid: Grid | None = None
        self.stopped = ""
        found = checkpoints.read(folder / CHECKPOINT)
        if found is not None and found.run != workshop.run:
            raise RunError(f"{folder}: config.toml was changed after the run began; restore it or start anew")
        self.records = repair_records(folder, found)
        self.clock_start = found.clock if found else 0.0
        self.training: Training = self._restored(found) if found else self._begun(warm)

    def _restored(self, found: Checkpoint) -> Training:
        try:
            return restore(self.workshop.strategy, found)
        except (TypeError, ValueError) as error:
            raise RunError(f"{self.folder / CHECKPOINT} does not fit the strategy: {error}") from error

    def _begun(self, warm: Path | None) -> Training:
        model = self._model_of(warm) if warm else self.workshop.initial
        training = begin(self.workshop.strategy, model, self.workshop.plan)
        vectors, scalars = dump(training.state)
        checkpoints.save(
            self.folder / CHECKPOINT,
            Checkpoint(self.workshop.run, 0, 0, 0.0, (), None, vectors, scalars),
        )
        return training

    def _model_of(self, run: Path) -> Vector:
        _, tensors = read_model(run / MODEL)
        try:
            return self.workshop.model.layout.flatten(tensors)
        except ValueError as error:
            raise UsageError(f"the model of {run} does not fit this experiment's: {error}") from error

    @property
    def model(self) -> Vector:
        """The fleet's model now, float32 [d]."""
        return self.workshop.strategy.model(self.training.state)

    def train(self, grid: Grid) -> None:
        """Rounds until the last one; every finished round is on disk before the next one begins."""
        self._grid = grid
        with (
            private(self.workshop, self.folder, self.training.round) as noise,
            masked(self.workshop, self.folder, grid, noise) as secrecy,
        ):
            guarded(self.workshop, self.folder, grid)
            try:
                self._train(grid, secrecy, noise)
            finally:
                self.stopped = noise.refused if noise is not None else ""

    def _train(self, grid: Grid, secrecy: Secrecy | None, noise: Private | None) -> None:
        clock = grid.clock if isinstance(grid, SimulatedGrid) else RealClock()
        sealing = self.workshop.sealing
        unseal = sealing.unseal if sealing else None
        plan = replace(self.workshop.plan, folder=self.folder, unseal=unseal, secrecy=secrecy, private=noise)
        dp, strategy = self.workshop.experiment.privacy.dp, self.workshop.strategy
        if dp.sampling == "poisson" and dp.randomness == "system":
            plan = replace(plan, seed=secret_seed(self.folder))
        if strategy.buffer:
            for training in steps(strategy, self.training, plan, grid, clock, self):
                self.training = training
        while self.training.round < plan.rounds:
            self.training = step(strategy, self.training, plan, grid, clock, self)

    def evaluate(self, model: Vector) -> Mapping[str, Any]:
        """Loss, accuracy and figures by target on the experimenter's validation data."""
        metrics = self.workshop.evaluate(model)
        targets = {
            name: {metric: finite(value) for metric, value in figures.items()}
            for name, figures in metrics.targets.items()
        }
        figures = {"loss": finite(metrics.loss), "accuracy": metrics.accuracy, "targets": targets}
        return {**figures, **attack_figures(self.workshop, model)}

    def root(self, model: Vector, round_: int) -> Vector:
        """The server's own update from trusted samples."""
        return root_update(self.workshop, model, round_)

    def simulator(self, round_: int) -> Mapping[str, Any]:
        """Who left at which stage, on an engine that knows; ends what is still on its way."""
        if not isinstance(self._grid, SimulatedGrid):
            return {"left": None}
        self._grid.forget(round_)
        return {"left": dict(self._grid.left(round_))}

    def departed(self, asks: Sequence[Ask]) -> Mapping[str, Any]:
        """The same of asks that came to an end, of an asynchronous server."""
        if not isinstance(self._grid, SimulatedGrid):
            return {"left": None}
        return {"left": dict(self._grid.departed((ask.node, ask.group) for ask in asks))}

    def commit(self, checkpoint: Checkpoint) -> None:
        """Checkpoint, then the round's line, then whoever watches; Ctrl-C waits until both are written."""
        record = dict(checkpoint.record or {})
        with uninterrupted():
            checkpoints.save(self.folder / CHECKPOINT, checkpoint)
            commit_record(self.folder, record)
            self.records.append(record)
        self.observer(record)

    def write_model(self) -> None:
        """Write the fleet's model to model.safetensors; raises RunError."""
        model, workshop = self.workshop.experiment.model, self.workshop
        recipe = Recipe(model.name, dict(model.options), model.buffers, workshop.data.schema)
        write_model(self.folder / MODEL, self.model, workshop.model.layout, recipe)


def finite(value: float) -> float | None:
    """None for NaN and Inf, which JSON does not have."""
    return value if np.isfinite(value) else None


_sessions: dict[Path, Session] = {}


def remember(session: Session) -> None:
    """Let the ServerApp of this process find the session."""
    _sessions.clear()
    _sessions[session.folder.resolve()] = session


def open_session(folder: Path) -> Session:
    """The session of a run's folder; raises RunError where nobody opened it in this process."""
    try:
        return _sessions[folder.resolve()]
    except KeyError:
        raise RunError(f"no session is open in {folder}; start it with carpool run") from None


def wall_seconds(records: list[dict[str, Any]], began: float) -> float:
    """Seconds of this run: what earlier sittings' rounds took, or this sitting, whichever is more."""
    return max(time.perf_counter() - began, sum(float(record["seconds"]) for record in records))
