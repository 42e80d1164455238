"""A fleet's camera data: one pool in memory, and for each vehicle the rows that are its own.

    source -> hold out whole groups -> keep every stride-th training frame -> deal rows to vehicles

With the natural split each vehicle holds back groups of its own; with the others the experimenter holds
groups back before samples are dealt. Either way a group is on one side only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from carpool.client.camera import splits
from carpool.client.camera.pictures import Progress
from carpool.client.camera.pipeline import federated, moments
from carpool.client.camera.samples import Pool, Rows, Schema, Shard
from carpool.client.camera.settings import DataSettings
from carpool.client.camera.sources import load_source
from carpool.privacy.errors import DataError

NOTHING = np.zeros(0, np.int64)


@dataclass(frozen=True)
class PooledFleet:
    """FleetData over one pool; nothing is copied until a batch is taken.

    rows: for each vehicle the rows of `pool` it trains on. own: those it holds back itself, maybe none.
    held: all rows that are held back. test: the official test set, or None. domains: words a vehicle.
    """

    pool: Pool
    rows: tuple[Rows, ...]
    own: tuple[Rows, ...]
    held: Rows
    test: Pool | None = None
    domains: tuple[str, ...] = ()

    @property
    def schema(self) -> Schema:
        """Shape and meaning of every sample of the fleet."""
        return self.pool.schema

    @property
    def vehicles(self) -> int:
        """Number of vehicles."""
        return len(self.rows)

    @cached_property
    def sizes(self) -> Rows:
        """Training samples of each vehicle, int64 [vehicles]."""
        return np.array([len(rows) for rows in self.rows], np.int64)

    def training(self, vehicle: int) -> Shard:
        """What vehicle 0..vehicles-1 trains on."""
        return Shard(self.pool, self.rows[vehicle])

    def own_validation(self, vehicle: int) -> Shard:
        """The groups that the vehicle holds back itself; empty unless the split is natural."""
        return Shard(self.pool, self.own[vehicle])

    def validation(self) -> Shard:
        """The official test set where the source has one, else all that is held back."""
        return self._validation

    def domain(self, vehicle: int) -> str:
        """A few words on where and when this vehicle drives, or an empty string."""
        return self.domains[vehicle] if self.domains else ""

    @cached_property
    def _validation(self) -> Shard:
        if self.test is not None:
            return Shard(self.test, np.arange(len(self.test), dtype=np.int64))
        return Shard(self.pool, self.held)


def build_fleet(settings: DataSettings, vehicles: int, *, progress: Progress | None = None) -> PooledFleet:
    """Load, hold out and deal out as `settings` says; the same for the same settings.

    vehicles >= 1. Raises DataError for unusable data, an empty vehicle, more vehicles than samples, a split
    that the data cannot have, or nothing to validate on.
    """
    check_settings(settings, vehicles)
    source = load_source(settings, vehicles, progress)
    pool = source.train
    if settings.split == "natural":
        rows, own = deal_natural(pool, settings, vehicles)
        held = np.sort(np.concatenate(own))
        domains = tuple(domain_of(pool, part) for part in rows)
    else:
        rows, held = deal_samples(pool, settings, vehicles)
        own, domains = (NOTHING,) * vehicles, ()
    if source.test is None and len(held) == 0:
        raise DataError(
            "nothing is held back to validate on, and the data has no test set; set data.holdout above 0 "
            "(such as 0.2), and give a vehicle at least two drives or tracks"
        )
    test = source.test
    if settings.pipeline.normalise == "federated":
        # Each vehicle's training rows give its own sums; nothing held back and no test row is looked at.
        pipeline = federated(settings.pipeline, (moments(pool.frames, part) for part in rows))
        pool = replace(pool, schema=replace(pool.schema, pipeline=pipeline))
        test = None if test is None else replace(test, schema=pool.schema)
    return PooledFleet(pool, rows, own, held, test, domains)


def check_settings(settings: DataSettings, vehicles: int) -> None:
    """Refuse values outside their range, for callers that do not come from an experiment file."""
    if vehicles < 1:
        raise DataError(f"fleet.vehicles is {vehicles}; it must be at least 1")
    if not 0 <= settings.holdout < 1:
        raise DataError(f"data.holdout is {settings.holdout}; it must be at least 0 and below 1")
    if settings.shards < 1:
        raise DataError(f"data.shards is {settings.shards}; it must be at least 1")
    if not (np.isfinite(settings.quantity_skew) and 0 <= settings.quantity_skew <= 5):
        raise DataError(f"data.quantity_skew is {settings.quantity_skew}; it must be 0 to 5")


def stream(settings: DataSettings, purpose: int) -> np.random.Generator:
    """An own random stream for each purpose, so that one setting does not reshuffle what another decides."""
    seed = np.random.SeedSequence(settings.seed, spawn_key=(purpose,))
    return np.random.Generator(np.random.Philox(seed))


def deal_natural(
    pool: Pool, settings: DataSettings, vehicles: int
) -> tuple[tuple[Rows, ...], tuple[Rows, ...]]:
    """Whole recording cars, or whole groups where those are not known; each holds back some groups."""
    deal, hold = stream(settings, 1), stream(settings, 2)
    if pool.vehicle is None:
        parts = splits.whole(pool.group, vehicles, deal, settings.quantity_skew)
    elif settings.quantity_skew > 0:
        raise DataError(
            f"data.quantity_skew is {settings.quantity_skew}, but this data knows who recorded what; "
            'set it to 0, or data.split to "iid", "shards" or "dirichlet"'
        )
    else:
        parts = splits.by_recorder(pool.vehicle, vehicles, deal)
    rows, own = [], []
    for part in parts:
        kept, back = splits.hold_out(pool.group[part], settings.holdout, hold)
        rows.append(thinned(pool, part[kept], settings.stride))
        own.append(part[back])
    return tuple(rows), tuple(own)


def deal_samples(pool: Pool, settings: DataSettings, vehicles: int) -> tuple[tuple[Rows, ...], Rows]:
    """Samples without regard to who recorded them; what is held back belongs to the experimenter."""
    deal, hold = stream(settings, 1), stream(settings, 2)
    labels = class_labels(pool)
    kept, held = splits.hold_out(pool.group, settings.holdout, hold, labels)
    rows = thinned(pool, kept, settings.stride)
    if settings.split == "iid":
        parts = splits.iid(len(rows), vehicles, deal, settings.quantity_skew)
    elif labels is None:
        raise DataError(
            f'data.split "{settings.split}" needs a target with classes, and this data has only '
            f'{", ".join(target.name for target in pool.schema.targets)}; set it to "natural" or "iid"'
        )
    elif settings.split == "dirichlet":
        parts = splits.dirichlet(labels[rows], vehicles, settings.alpha, deal, settings.quantity_skew)
    elif settings.split == "shards":
        parts = splits.shards(labels[rows], vehicles, settings.shards, deal, settings.quantity_skew)
    else:
        raise DataError(f"data.split is {settings.split!r}; use natural, dirichlet, shards or iid")
    return tuple(rows[part] for part in parts), held


def thinned(pool: Pool, rows: Rows, stride: int) -> Rows:
    """Every stride-th frame of each group among `rows`."""
    return rows[splits.every_kth(pool.group[rows], pool.order[rows], stride)]


def class_labels(pool: Pool) -> Rows | None:
    """The first target with classes, int64 [N]; None where there is none."""
    name = next((target.name for target in pool.schema.targets if target.kind == "class"), None)
    return None if name is None else np.asarray(pool.targets[name], np.int64)


def domain_of(pool: Pool, rows: Rows) -> str:
    """The words of those who recorded these rows."""
    if pool.vehicle is None or not pool.domain:
        return ""
    words: Sequence[str] = [pool.domain.get(int(one), "") for one in np.unique(pool.vehicle[rows])]
    return "; ".join(dict.fromkeys(word for word in words if word))
