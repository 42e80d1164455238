"""Secure aggregation in a run: its settings, the server's half, the simulated vehicles' half, the log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.serverapp import Grid

from carpool.client.camera.samples import Rows
from carpool.experiments.config import Experiment
from carpool.experiments.council import Council
from carpool.experiments.logfacts import LOG
from carpool.experiments.privacy_config import Privacy
from carpool.experiments.private import extras_of, most_asked
from carpool.experiments.runlog import RunLog
from carpool.experiments.simulated import SimulatedGrid
from carpool.experiments.veil import Veil
from carpool.privacy.dp.protection import Protection
from carpool.privacy.secagg.settings import Settings
from carpool.server.board import Board
from carpool.server.private import Private
from carpool.server.secure import Secrecy
from carpool.strategies.contract import Facts, Header, Strategy

if TYPE_CHECKING:
    from carpool.experiments.workshop import Workshop


def settled(experiment: Experiment, strategy: Strategy[Any], sizes: Rows) -> Privacy:
    """[privacy] with the largest weight in the simulated fleet, where the file leaves it open."""
    privacy = experiment.privacy
    if privacy.channel != "secagg" or privacy.secagg.max_weight:
        return privacy
    secagg = privacy.secagg.model_copy(update={"max_weight": largest_weight(experiment, strategy, sizes)})
    return privacy.model_copy(update={"secagg": secagg})


def largest_weight(experiment: Experiment, strategy: Strategy[Any], sizes: Rows) -> float:
    """The largest weight of a vehicle in the strategy; sizes: training samples of each, int64 [vehicles]."""
    train = experiment.train
    facts = Facts(1, 0, experiment.fleet.vehicles, experiment.selection.cohort)
    most = 0.0
    for samples in np.unique(np.asarray(sizes)).tolist():
        steps = train.steps or train.epochs * max(1, -(-samples // train.batch_size))
        most = max(most, float(strategy.weight(Header(max(1, samples), steps, 0), facts)))
    return most


def settings_of(experiment: Experiment, protection: Protection | None = None) -> Settings:
    """What the experiment asks for; its largest weight is settled; protection: the noise, None without."""
    how = experiment.privacy.secagg
    return Settings(
        protocol=experiment.privacy.protocol,
        n_min=how.n_min,
        most_weight=how.max_weight,
        bits=how.bits,
        rotate=how.rotate,
        adversary=how.adversary,
        gamma=how.corrupt_fraction,
        delta=how.dropout_fraction,
        extras=extras_of(experiment),
        protection=protection,
        most=most_asked(experiment) if protection is not None else 0,
        per_version=how.per_version,
    )


@contextmanager
def masked(workshop: Workshop, folder: Path, grid: Grid, private: Private | None) -> Iterator[Secrecy | None]:
    """The server's half for a block, the vehicles' half on the grid; None where updates are not masked."""
    experiment = workshop.experiment
    if experiment.privacy.channel != "secagg":
        yield None
        return
    protection = None if workshop.noise is None else workshop.noise.protection
    settings, how = settings_of(experiment, protection), experiment.privacy.secagg

    def full(round_: int) -> bool:
        return not how.full_rounds or round_ <= how.full_rounds

    with RunLog(folder / LOG, workshop.run, workshop.fleet, time.time) as log:
        several = settings.protocol == "secagg+"
        council = None if several else Council(experiment, workshop.fleet, log)
        board = Board() if workshop.strategy.buffer else None
        if isinstance(grid, SimulatedGrid):
            grid.veil = Veil(workshop, settings, log, council, full, board)
        aggregator = workshop.fleet.aggregator
        yield Secrecy(
            settings,
            workshop.fleet.trust,
            aggregator.key,
            aggregator.certificate,
            log,
            time.time,
            trip_s=how.trip_s,
            upload_s=how.upload_s,
            council=council,
            private=private,
            full=full,
            board=board,
        )
