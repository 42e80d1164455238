"""How well the result serves each vehicle: the fleet's model and the vehicle's own, on what it held back.

Known to the simulator only: it looks into every vehicle's memory, settled by the server's table of what was
counted, and at pictures that never leave a real one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from carpool.client.camera.ondemand import OnDemandFleet
from carpool.client.camera.samples import Shard
from carpool.experiments.fairness import distribution
from carpool.experiments.inline import node_of
from carpool.privacy.errors import VehicleError
from carpool.privacy.vectors import Vector
from carpool.strategies.contract import Facts

if TYPE_CHECKING:
    from carpool.experiments.workshop import Workshop

MEASURED = 1000
"""Vehicles whose own accuracy is measured after a run."""


@dataclass(frozen=True)
class Served:
    """Accuracy 0..1 by vehicle, in the order of `vehicles`; None where the task has none, or nobody has data.

    fleet: of the fleet's model; own: of the model that the vehicle itself uses (None: the strategy has but
    one; NaN: the vehicle lost its memory); note: on what; remarks: what else there is to say of it.
    """

    vehicles: tuple[int, ...]
    fleet: list[float] | None
    own: list[float] | None
    note: str
    remarks: tuple[str, ...] = ()

    def figures(self) -> dict[str, dict[str, Any] | None]:
        """The entries `fairness` (of the fleet's model) and `personal` of result.json."""
        return {"fairness": distribution(self.fleet), "personal": distribution(self.own)}


def held_back(workshop: Workshop) -> tuple[tuple[int, ...], list[Shard], str]:
    """Who is measured, on what, and a note about that.

    At most `MEASURED` vehicles, evenly spaced; of a fleet on demand those that it validates on.
    """
    data = workshop.data
    everywhere = np.linspace(0, data.vehicles - 1, MEASURED).astype(np.int64)
    vehicles = data.measured if isinstance(data, OnDemandFleet) else np.unique(everywhere).tolist()
    own = [data.own_validation(i) for i in vehicles]
    if all(len(shard) for shard in own):
        return tuple(vehicles), own, "on each vehicle's own held-back drives"
    own = [data.training(i) for i in vehicles]
    note = "on the very frames each vehicle trained on, since not every vehicle holds some back"
    return tuple(vehicles), own, note


def serve(workshop: Workshop, model: Vector, counted: Mapping[int, int], round_: int) -> Served:
    """Measure the fleet's model [d] and each vehicle's own; counted: the server's table, by node."""
    vehicles, shards, note = held_back(workshop)
    fleet = accuracies(workshop, model, shards)
    if any(accuracy is None for accuracy in fleet):
        return Served(vehicles, None, None, note)
    shared = [float(accuracy or 0.0) for accuracy in fleet]
    if workshop.strategy.deploy is None:
        return Served(vehicles, shared, None, note)
    own, strangers, lost = [], 0, 0
    for vehicle, shard, accuracy in zip(vehicles, shards, shared, strict=True):
        try:
            mine = own_model(workshop, vehicle, model, counted, round_)
        except VehicleError:
            own.append(math.nan)
            lost += 1
            continue
        strangers += mine is None
        found = accuracy if mine is None else workshop.evaluate(mine, shard).accuracy
        own.append(math.nan if found is None else found)
    return Served(vehicles, shared, own, note, remarks(len(vehicles), strangers, lost))


def accuracies(workshop: Workshop, model: Vector, shards: Sequence[Shard]) -> list[float | None]:
    """Accuracy of a model on each shard; where all are parts of the validation samples, from those."""
    validation = workshop.data.validation()
    together = np.concatenate([shard.rows for shard in shards])
    if any(s.pool is not validation.pool for s in shards) or not np.isin(together, validation.rows).all():
        return [workshop.evaluate(model, shard).accuracy for shard in shards]
    correct = workshop.evaluate(model).correct
    if correct is None:
        return [None] * len(shards)
    by_row = dict(zip(validation.rows.tolist(), correct.tolist(), strict=True))
    return [float(np.mean([by_row[row] for row in shard.rows.tolist()])) for shard in shards]


def own_model(
    workshop: Workshop, vehicle: int, model: Vector, counted: Mapping[int, int], round_: int
) -> Vector | None:
    """The model that a vehicle uses, float32 [d]; None before its first counted contribution.

    Raises VehicleError where its memory is lost.
    """
    store, deploy = workshop.memory(vehicle), workshop.strategy.deploy
    known = None if store is None else store.at(counted.get(node_of(vehicle), 0))
    if known is None or deploy is None:
        return None
    plan = workshop.plan
    facts = Facts(round_, round_, plan.population, plan.cohort, sharing=plan.sharing)
    return deploy(model, known, facts)


def remarks(measured: int, strangers: int, lost: int) -> tuple[str, ...]:
    """What is to be said about vehicles without a model of their own."""
    found = []
    if strangers:
        found.append(
            f"{strangers:,} of the {measured:,} vehicles measured never had a contribution counted: they use "
            "the fleet's model."
        )
    if lost:
        found.append(f"{lost:,} of the {measured:,} vehicles measured lost their memory and are left out.")
    return tuple(found)
