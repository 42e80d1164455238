"""Running an experiment from its file, in this process: the engine `inline`, start, resume, evidence."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from flwr.app import Context, RecordDict

from carpool.experiments import session as sessions
from carpool.experiments import workshop as workshops
from carpool.experiments.apps import FOLDER, client_app, server_app
from carpool.experiments.availability import Leave, build
from carpool.experiments.config import Experiment
from carpool.experiments.evidence import gather_evidence
from carpool.experiments.inline import RUN_ID, SERVER_NODE, InlineGrid, VirtualClock, node_of
from carpool.experiments.load import load_experiment, to_toml
from carpool.experiments.pace import Pace
from carpool.experiments.report import write_report
from carpool.experiments.runfolder import (
    CONFIG,
    ENVIRONMENT,
    MODEL,
    RESULT,
    existing_folder,
    locked,
    new_folder,
    read_json,
    run_identity,
    write_json,
)
from carpool.experiments.session import Session, wall_seconds
from carpool.experiments.signals import interruptible
from carpool.experiments.summary import build_result
from carpool.experiments.workshop import Workshop, environment, examples_of
from carpool.privacy.errors import UsageError
from carpool.privacy.storage import clear_temporaries, write_text


class Watcher(Protocol):
    """Whoever looks on: a progress bar, a log, nobody."""

    def data(self, done: int, total: int) -> None:
        """So many vehicles' data are ready."""

    def training(self, folder: Path, done: int, rounds: int) -> None:
        """Training begins after round `done`."""

    def round(self, record: Mapping[str, Any]) -> None:
        """A round was committed."""

    def reporting(self) -> None:
        """The report is being written."""


class Nobody:
    """A watcher that does not look."""

    def data(self, done: int, total: int) -> None:
        """Nothing."""

    def training(self, folder: Path, done: int, rounds: int) -> None:
        """Nothing."""

    def round(self, record: Mapping[str, Any]) -> None:
        """Nothing."""

    def reporting(self) -> None:
        """Nothing."""


def start(
    experiment: Experiment,
    *,
    out: Path | None = None,
    warm: Path | None = None,
    watcher: Watcher | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Run a new experiment to its end: its folder and the content of result.json.

    out: exactly this folder (new or empty), else runs/<name>-<id>; warm: a run whose model to begin with.
    A run that cannot begin (data, model or strategy is unusable) leaves no folder behind.
    Raises CarpoolError.
    """
    if warm is not None and not (existing_folder(warm) / MODEL).is_file():
        raise UsageError(f"{warm} has no {MODEL} yet; finish it with carpool run --resume {warm}")
    existed = out is not None and out.is_dir()
    folder = new_folder(experiment.experiment.name, out)
    watcher = watcher or Nobody()
    with locked(folder):
        try:
            write_text(folder / CONFIG, to_toml(experiment))
            write_json(folder / ENVIRONMENT, environment())
            workshop = Workshop(experiment, run_identity(folder), watcher.data)
            session = Session(folder, workshop, watcher.round, warm)
        except BaseException:
            discard(folder, keep=existed)
            raise
        return folder, _train(session, watcher)


def resume(folder: Path, *, watcher: Watcher | None = None) -> tuple[Path, dict[str, Any]]:
    """Go on where a killed or interrupted run stopped: folder and result. Raises CarpoolError."""
    existing_folder(folder)
    watcher = watcher or Nobody()
    with locked(folder):
        if (folder / RESULT).is_file():
            return folder, read_json(folder / RESULT)
        clear_temporaries(folder)
        if not (folder / ENVIRONMENT).is_file():
            write_json(folder / ENVIRONMENT, environment())
        experiment = load_experiment(folder / CONFIG)
        workshop = Workshop(experiment, run_identity(folder), watcher.data)
        return folder, _train(Session(folder, workshop, watcher.round), watcher)


def discard(folder: Path, *, keep: bool) -> None:
    """Remove what a run that could not begin has written; with `keep` the empty folder stays."""
    shutil.rmtree(folder, ignore_errors=True)
    if keep:
        folder.mkdir(parents=True, exist_ok=True)


def _train(session: Session, watcher: Watcher) -> dict[str, Any]:
    began = time.perf_counter()
    folder, workshop = session.folder, session.workshop
    sessions.remember(session)
    workshops.remember(folder, workshop)
    watcher.training(folder, session.training.round, workshop.plan.rounds)
    with interruptible():
        grid = build_grid(folder, workshop, session.clock_start)
        server_app(grid, _context(folder, SERVER_NODE, {}))
        watcher.reporting()
        result = build_result(workshop.experiment, session.records, wall_seconds(session.records, began))
        session.write_model()
        write_report(folder, gather_evidence(session, result))
        write_json(folder / RESULT, result)  # last: a folder with a result is complete
    return result


def build_grid(folder: Path, workshop: Workshop, clock_start: float) -> InlineGrid:
    """The in-process grid with the simulated fleet of the experiment, its clock at `clock_start` seconds."""
    fleet, seed = workshop.experiment.fleet, workshop.experiment.experiment.seed
    availability = build(
        fleet.availability,
        vehicles=fleet.vehicles,
        seed=seed,
        leave=Leave(*(getattr(fleet.leave, name) for name in Leave.__dataclass_fields__)),
        mean_present_h=fleet.markov.mean_present_h,
        mean_absent_h=fleet.markov.mean_absent_h,
        day_amplitude=fleet.markov.day_amplitude,
        start_hour=fleet.markov.start_hour,
        trace_path=Path(fleet.trace) if fleet.trace else None,
    )
    pace = Pace(
        fleet.vehicles,
        seed,
        seconds_per_example=fleet.pace.seconds_per_example,
        spread=fleet.pace.spread,
        uplink_mbit=fleet.pace.uplink_mbit,
        downlink_mbit=fleet.pace.downlink_mbit,
    )

    def context(index: int) -> Context:
        return _context(folder, node_of(index), {"partition-id": index})

    return InlineGrid(client_app, availability, pace, work_of(workshop), VirtualClock(clock_start), context)


def work_of(workshop: Workshop) -> Any:
    """Samples that each vehicle goes through in a round, int64 [vehicles]."""
    train, examples = workshop.experiment.train, examples_of(workshop)
    return examples * 0 + train.steps * train.batch_size if train.steps else examples * train.epochs


def _context(folder: Path, node: int, node_config: dict[str, Any]) -> Context:
    return Context(
        run_id=RUN_ID,
        node_id=node,
        node_config=node_config,
        state=RecordDict(),
        run_config={FOLDER: str(folder)},
    )
