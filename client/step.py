"""The vehicle's half of a round: task -> local training -> contribution. What leaves is in privacy/wire.py.

bytes - decode -> task -> strategy.local -> vectors -> contribution - encode -> bytes
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from carpool.client.camera.samples import Shard
from carpool.client.flat import FlatModel
from carpool.client.trainer import LocalTrainer, TrainSettings
from carpool.privacy.errors import VehicleError
from carpool.privacy.spans import span
from carpool.privacy.wire import ContributionMessage, TaskMessage
from carpool.strategies.contract import Facts, LocalTask, Strategy


@dataclass(frozen=True)
class Vehicle:
    """One vehicle's part in a round: who it is on the wire, which generator it draws from, what it holds."""

    node: int
    index: int
    shard: Shard


def generator(seed: int, round_: int, index: int) -> np.random.Generator:
    """The generator of a vehicle in a round: batch order and augmentation; not for keys or noise."""
    return np.random.default_rng(np.random.SeedSequence((seed, round_, index), spawn_key=(0x7EA1,)))


def contribute(
    task: TaskMessage,
    vehicles: Sequence[Vehicle],
    *,
    model: FlatModel,
    strategy: Strategy[Any],
    settings: TrainSettings,
    lr: float,
    seed: int,
    stop: Callable[[], bool] | None = None,
) -> list[ContributionMessage]:
    """`contribute_all` for vehicles that must all succeed; raises the first one's VehicleError."""
    found = contribute_all(
        task, vehicles, model=model, strategy=strategy, settings=settings, lr=lr, seed=seed, stop=stop
    )
    for one in found:
        if isinstance(one, VehicleError):
            raise one
    return [one for one in found if isinstance(one, ContributionMessage)]


def contribute_all(
    task: TaskMessage,
    vehicles: Sequence[Vehicle],
    *,
    model: FlatModel,
    strategy: Strategy[Any],
    settings: TrainSettings,
    lr: float,
    seed: int,
    stop: Callable[[], bool] | None = None,
    trainer_type: type[LocalTrainer] = LocalTrainer,
) -> list[ContributionMessage | VehicleError]:
    """Train K vehicles from one task; one contribution each, or why there is none, in their order.

    lr: the round's step size; seed: of the experiment; stop: asked before every batch, true ends the
    work with nothing sent; trainer_type: one vehicle after another, or stacked. Raises VehicleError for a
    task that does not fit the model and for a vehicle without samples.
    """
    for name, vector in task.vectors.items():
        if vector.shape != (model.layout.size,):
            raise VehicleError(f"the task's {name} has {vector.size} numbers, this model {model.layout.size}")
    facts = Facts(task.round, task.version, task.population, task.cohort)
    rngs = [generator(seed, task.round, vehicle.index) for vehicle in vehicles]
    shards = [vehicle.shard for vehicle in vehicles]
    trainer = trainer_type(model, shards, settings, rngs, lr=lr, stop=stop, strict=False)
    tensors = {n: torch.from_numpy(v.copy()).to(model.device) for n, v in task.vectors.items()}
    with span("strategy"):
        stacks = strategy.local(LocalTask(tensors, task.scalars), trainer, facts)
    arrays, steps = {name: stack.cpu().numpy() for name, stack in stacks.items()}, trainer.steps.tolist()
    return [
        trainer.failed.get(k)
        or ContributionMessage(
            run=task.run,
            round=task.round,
            version=task.version,
            vehicle=vehicle.node,
            upload=f"{task.run[:16]}-{task.round}-{vehicle.node}",
            examples=trainer.examples[k],
            steps=steps[k],
            loss=trainer.losses[k],
            vectors={name: array[k] for name, array in arrays.items()},
        )
        for k, vehicle in enumerate(vehicles)
    ]
