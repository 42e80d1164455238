"""A fleet of the procedural source whose vehicles are rendered when they are asked for, and then forgotten.

A million vehicles do not fit on a disk, but a round asks few of them. Vehicle v holds the very samples that
it holds in a pooled fleet (`fleetdata.py`) of any size above v: the renderer knows nothing of other vehicles,
and which drives are held back is drawn for all vehicles in turn, here as there.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from carpool.client.camera.domains import draw_domain
from carpool.client.camera.fleetdata import build_fleet, check_settings, stream, thinned
from carpool.client.camera.pictures import Progress
from carpool.client.camera.procedural import render_vehicle, schema
from carpool.client.camera.samples import FleetData, Pool, Schema, Shard
from carpool.client.camera.settings import DataSettings
from carpool.client.camera.sources import narrowed
from carpool.privacy.errors import DataError

MANY = 5000
"""Vehicles above which data.on_demand = "auto" does not render the whole fleet beforehand."""
VALIDATED = 50
"""Vehicles, evenly spaced, whose held-back drives the experimenter validates on."""
BUDGET = 256 << 20
"""Bytes of rendered frames that are kept for the next time."""


def open_fleet(settings: DataSettings, vehicles: int, *, progress: Progress | None = None) -> FleetData:
    """The fleet that the settings ask for, pooled or on demand; raises DataError."""
    if is_on_demand(settings, vehicles):
        return OnDemandFleet(settings, vehicles, progress=progress)
    return build_fleet(settings, vehicles, progress=progress)


def is_on_demand(settings: DataSettings, vehicles: int) -> bool:
    """Whether vehicles are rendered when they are asked for; raises DataError where that cannot be."""
    reason = (
        f"data.source is {settings.source!r}, and only procedural data is rendered"
        if settings.source != "procedural"
        else f"data.split is {settings.split!r}, for which all samples must be known"
        if settings.split != "natural"
        else 'data.pipeline.normalise is "federated", for which all vehicles are measured'
        if settings.pipeline.normalise == "federated"
        else ""
    )
    if settings.on_demand == "always" and reason:
        raise DataError(f'data.on_demand is "always", but {reason}; set it to "never"')
    return settings.on_demand == "always" or (settings.on_demand == "auto" and not reason and vehicles > MANY)


class OnDemandFleet:
    """FleetData whose samples are made when they are asked for.

    vehicles >= 1; keeps `budget` bytes of frames, the held-back drives of `validated` vehicles (rendered at
    once if there is a `progress`, else when they are needed) and a bit a drive of every vehicle. Raises
    DataError where nothing is held back, or a setting has no meaning here.
    """

    def __init__(
        self,
        settings: DataSettings,
        vehicles: int,
        *,
        progress: Progress | None = None,
        validated: int = VALIDATED,
        budget: int = BUDGET,
    ) -> None:
        check_settings(settings, vehicles)
        schema(settings)
        if settings.quantity_skew > 0:
            raise DataError(
                f"data.quantity_skew is {settings.quantity_skew}, but procedural vehicles all record alike; "
                "set it to 0"
            )
        if settings.stride < 1:
            raise DataError(f"data.stride is {settings.stride}; it must be 1 (every frame) or more")
        if held_back(settings) == 0:
            raise DataError(
                "nothing is held back to validate on; set data.holdout above 0 (such as 0.2) and data.drives "
                "to 2 or more"
            )
        self.vehicles = vehicles
        self.measured: list[int] = np.unique(
            np.linspace(0, vehicles - 1, min(validated, vehicles)).astype(np.int64)
        ).tolist()
        self._settings, self._budget, self._kept = settings, budget, 0
        self._pools: OrderedDict[int, Pool] = OrderedDict()
        self._held = np.packbits(held_drives(settings, vehicles), axis=1)
        self._progress = progress
        if progress is not None:
            self.validation()

    @cached_property
    def schema(self) -> Schema:
        """Shape and meaning of every sample of the fleet."""
        return self._pool(0).schema

    @property
    def note(self) -> str:
        """What a report must say: not every vehicle is validated on."""
        return (
            f"Of {self.vehicles:,} vehicles, rendered when they are asked for, {len(self.measured)} evenly "
            "spaced ones are validated on: the drives that they hold back."
        )

    def training(self, vehicle: int) -> Shard:
        """What vehicle 0..vehicles-1 trains on; rendered now unless it was lately."""
        pool = self._pool(vehicle)
        kept = np.flatnonzero(~self._is_held(pool, vehicle)).astype(np.int64)
        return Shard(pool, thinned(pool, kept, self._settings.stride))

    def own_validation(self, vehicle: int) -> Shard:
        """The drives that the vehicle holds back from training."""
        pool = self._pool(vehicle)
        return Shard(pool, np.flatnonzero(self._is_held(pool, vehicle)).astype(np.int64))

    def validation(self) -> Shard:
        """The drives that the `measured` vehicles hold back."""
        return self._validation

    def domain(self, vehicle: int) -> str:
        """A few words on where and when this vehicle drives."""
        return draw_domain(self._settings.seed, vehicle).words

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Training samples of each vehicle, int64 [vehicles], read-only; all alike, so it takes no memory."""
        settings = self._settings
        one = (settings.drives - held_back(settings)) * math.ceil(settings.frames / settings.stride)
        return np.broadcast_to(np.int64(one), (self.vehicles,))

    @cached_property
    def _validation(self) -> Shard:
        parts = []
        for done, vehicle in enumerate(self.measured, 1):
            parts.append(copied(self.own_validation(vehicle)))
            if self._progress is not None:
                self._progress(done, len(self.measured))
        pool = Pool(
            schema=self.schema,
            frames=np.concatenate([part.frames for part in parts]),
            targets={
                name: np.concatenate([part.targets[name] for part in parts]) for name in parts[0].targets
            },
            group=np.concatenate([part.group for part in parts]),
            order=np.concatenate([part.order for part in parts]),
            vehicle=np.repeat(self.measured, [len(part) for part in parts]).astype(np.int64),
            domain={vehicle: self.domain(vehicle) for vehicle in self.measured},
        )
        return Shard(pool, np.arange(len(pool), dtype=np.int64))

    def _pool(self, vehicle: int) -> Pool:
        if not 0 <= vehicle < self.vehicles:
            raise DataError(f"vehicle {vehicle} does not exist; vehicles are 0 to {self.vehicles - 1}")
        found = self._pools.pop(vehicle, None)
        if found is None:
            found = narrowed(render_vehicle(self._settings, vehicle), self._settings)
            self._kept += found.frames.nbytes
        self._pools[vehicle] = found
        while self._kept > self._budget and len(self._pools) > 1:
            _, oldest = self._pools.popitem(last=False)
            self._kept -= oldest.frames.nbytes
        return found

    def _is_held(self, pool: Pool, vehicle: int) -> NDArray[np.bool_]:
        drives = self._settings.drives
        held = np.unpackbits(self._held[vehicle], count=drives).astype(np.bool_)
        return held[pool.group - vehicle * drives]


def copied(shard: Shard) -> Pool:
    """The shard's rows as a pool of their own, without the recorder."""
    frames, targets = shard.batch(np.arange(len(shard), dtype=np.int64))
    return Pool(
        shard.pool.schema, frames, targets, shard.pool.group[shard.rows], shard.pool.order[shard.rows]
    )


def held_back(settings: DataSettings) -> int:
    """Drives of each vehicle that are not trained on: `splits.hold_out` for groups without labels."""
    drives, owed = settings.drives, settings.holdout * settings.drives
    number = min(round(owed), drives - 1, math.ceil(owed))
    return 1 if number == 0 and settings.holdout > 0 and drives > 1 else number


def held_drives(settings: DataSettings, vehicles: int) -> NDArray[np.bool_]:
    """Drives each vehicle holds back: bool [vehicles, drives]; draws as `fleetdata.deal_natural` does."""
    drives, owed = settings.drives, settings.holdout * settings.drives
    rng = stream(settings, 2)
    held = np.zeros((vehicles, drives), np.bool_)
    number = held_back(settings)
    if number and min(round(owed), drives - 1, math.ceil(owed)) == 0:
        # One is held back although the fraction says none: a permutation and a draw, vehicle after vehicle.
        for vehicle in range(vehicles):
            rng.permutation(drives)
            held[vehicle, rng.integers(drives)] = True
        return held
    order = np.tile(np.arange(drives, dtype=np.int16), (vehicles, 1))
    rng.permuted(order, axis=1, out=order)  # the same draws as one permutation after another
    np.put_along_axis(held, order[:, :number].astype(np.int64), True, axis=1)
    return held


def sample_of(settings: DataSettings, vehicles: int, most: int) -> tuple[DataSettings, int]:
    """Settings and size of a pooled fleet to look at: the first `most` vehicles of one on demand."""
    if not is_on_demand(settings, vehicles):
        return settings, vehicles
    return replace(settings, on_demand="never"), min(most, vehicles)
