"""Running an experiment from its file: the engine, start, resume, evidence."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from flwr.app import Context, RecordDict

from carpool.experiments import session as sessions
from carpool.experiments import workshop as workshops
from carpool.experiments.apps import FOLDER, client_app, server_app
from carpool.experiments.availability import Availability, Leave, build
from carpool.experiments.config import Experiment
from carpool.experiments.environment import environment, refuse_changed
from carpool.experiments.evidence import gather_evidence
from carpool.experiments.inline import (
    RUN_ID,
    SERVER_NODE,
    InlineGrid,
    SimulatedGrid,
    VirtualClock,
    node_of,
)
from carpool.experiments.load import load_experiment, to_toml
from carpool.experiments.pace import Pace
from carpool.experiments.personal import serve
from carpool.experiments.profiles import write_profile
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
from carpool.experiments.workshop import Workshop, examples_of
from carpool.experiments.wrapping import sent_share
from carpool.privacy.errors import PrivacyRefused, UsageError
from carpool.privacy.spans import timed
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
    check_engine(experiment)
    existed = out is not None and out.is_dir()
    folder = new_folder(experiment.experiment.name, out)
    watcher = watcher or Nobody()
    with locked(folder):
        try:
            workshop = Workshop(experiment, "", watcher.data, folder=folder)
            workshop.settle()
            write_text(folder / CONFIG, to_toml(workshop.experiment))
            write_json(folder / ENVIRONMENT, environment(experiment))
            workshop.run = run_identity(folder)
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
            result = read_json(folder / RESULT)
            if stopped := result.get("stopped"):
                raise PrivacyRefused(str(stopped))
            return folder, result
        clear_temporaries(folder)
        experiment = load_experiment(folder / CONFIG)
        if not (folder / ENVIRONMENT).is_file():
            write_json(folder / ENVIRONMENT, environment(experiment))
        refuse_changed(experiment, read_json(folder / ENVIRONMENT))
        check_engine(experiment)
        workshop = Workshop(experiment, run_identity(folder), watcher.data, folder=folder)
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
    refused: PrivacyRefused | None = None
    with interruptible():
        try:
            with engine(folder, workshop, session.clock_start) as grid:
                server_app(grid, _context(folder, SERVER_NODE, {}))
        except PrivacyRefused as error:
            if not session.stopped:  # a damaged ledger, say: that can be mended, then the run goes on
                raise
            refused = error
        finally:
            workshop.close()
        watcher.reporting()
        result = _conclude(session, wall_seconds(session.records, began))
    if refused is not None:
        raise refused
    return result


@timed("bookkeeping")
def _conclude(session: Session, seconds: float) -> dict[str, Any]:
    folder, workshop = session.folder, session.workshop
    training = session.training
    served = serve(workshop, session.model, training.counted, training.round)
    result = build_result(
        workshop.experiment, session.records, seconds, served.figures(), stopped=session.stopped
    )
    session.write_model()
    write_report(folder, gather_evidence(session, result, served))
    write_profile(folder, workshop.experiment, workshop.model.device.type)
    write_json(folder / RESULT, result)  # last: a folder with a result is complete
    return result


def check_engine(experiment: Experiment) -> None:
    """Raise UsageError where the experiment's engine is not installed."""
    if experiment.experiment.engine == "ray":
        from carpool.experiments.ray_engine import require_ray

        require_ray(experiment.ray.address)


@contextmanager
def engine(folder: Path, workshop: Workshop, clock_start: float) -> Iterator[SimulatedGrid]:
    """The experiment's engine under its simulated fleet, the clock at `clock_start` seconds, for a block.

    Raises UsageError, RunError.
    """
    availability, pace = build_fleet(workshop)
    work, clock = work_of(workshop), VirtualClock(clock_start)

    place = folder.resolve()

    def context(index: int) -> Context:
        return _context(place, node_of(index), {"partition-id": index})

    if workshop.experiment.experiment.engine != "ray":
        privacy = workshop.experiment.privacy
        plain = privacy.channel == "plain" and privacy.dp.mechanism == "none"
        handed = plain and workshop.experiment.experiment.workers == 1
        near = workshop if handed else None
        inline = InlineGrid(client_app, availability, pace, work, clock, context, workshop=near)
        inline.prepare = workshop.prepare
        yield inline
        return
    from carpool.experiments.ray_engine import simulation
    from carpool.experiments.ray_grid import RayGrid

    asked, gpu = workshop.experiment.selection.asked, workshop.model.device.type == "cuda"
    with simulation(asked, address=workshop.experiment.ray.address, gpu=gpu) as flower:
        yield RayGrid(flower.grid(), folder.resolve(), availability, pace, work, clock, flower.check)


def build_fleet(workshop: Workshop) -> tuple[Availability, Pace]:
    """The simulated fleet of the experiment: who is there and leaves, and how fast each vehicle is."""
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
    share = sent_share(workshop.experiment, workshop.strategy, workshop.sharing.size)
    pace = Pace(
        fleet.vehicles,
        seed,
        seconds_per_example=fleet.pace.seconds_per_example,
        spread=fleet.pace.spread,
        uplink_mbit=fleet.pace.uplink_mbit / share,  # the same time for fewer bytes
        downlink_mbit=fleet.pace.downlink_mbit,
    )

    return availability, pace


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
