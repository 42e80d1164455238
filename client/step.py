"""The vehicle's half of a round: task -> local training -> contribution. What leaves is in privacy/wire.py.

bytes - decode -> task, memory -> strategy.local -> clip -> memory staged -> contribution - encode -> bytes
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carpool.client.camera.samples import Shard
from carpool.client.flat import FlatModel
from carpool.client.generators import generators
from carpool.client.memory import VehicleMemory
from carpool.client.protect import Protector
from carpool.client.soundness import check_finite, check_memory
from carpool.client.trainer import LocalTrainer, TrainSettings
from carpool.privacy.blame import called
from carpool.privacy.errors import StrategyError, VehicleError
from carpool.privacy.packing import PLAIN
from carpool.privacy.spans import span
from carpool.privacy.vectors import Vector
from carpool.privacy.wire import ContributionMessage, TaskMessage
from carpool.strategies.contract import Channel, Facts, LocalTask, Sent, Strategy, Trainer
from carpool.strategies.fold import shrink


@dataclass(frozen=True)
class Vehicle:
    """One vehicle's part in a round.

    node: who it is on the wire; index: which generator it draws from; shard: what it holds; memory: where its
    memory lies (strategies with memory, and rounds of several passes); ticket: the number of its task;
    counted: the ticket of its last contribution that was counted, 0 for none.
    """

    node: int
    index: int
    shard: Shard
    memory: VehicleMemory | None = None
    ticket: int = 0
    counted: int = 0


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
    local: LocalTask | None = None,
    protector: Protector | None = None,
) -> list[ContributionMessage | VehicleError]:
    """Train K vehicles from one task; one contribution each, or why there is none, in their order.

    lr: the round's step size; seed: of the experiment; stop: asked before every batch, true ends the
    work with nothing sent; trainer_type: one vehicle after another, or stacked; local: `local_task(task)`, if
    it is there already; protector: what makes contributions private. A vehicle whose memory is lost is
    refused by itself. Raises VehicleError for a task that does not fit the model and for a vehicle without
    samples, StrategyError where the strategy breaks its contract.
    """
    sharing = strategy.sharing(model.layout)
    check_task(task, sharing.size, model.layout.size)
    facts = Facts(task.round, task.version, task.population, task.cohort, task.pass_number, sharing)
    local = local or local_task(task, model.device)
    memory, lost = recall(strategy, vehicles, local, facts, model.device)
    able = [vehicle for k, vehicle in enumerate(vehicles) if k not in lost]
    if not able:
        return list(lost.values())
    rngs = generators(seed, task.round, [vehicle.index for vehicle in able])
    shards = [vehicle.shard for vehicle in able]
    trainer = trainer_type(model, shards, settings, rngs, lr=lr, stop=stop, strict=False)
    sent = half(strategy, local, memory, trainer, facts)
    arrays = checked(strategy, sent, sharing.size, len(able))
    check_memory(strategy, sent, memory, len(able))
    check_finite(strategy, arrays, trainer.failed)
    if protector is not None:
        arrays = protector.rows(arrays, trainer.failed, task.round, [one.index for one in able])
    remember(able, sent, trainer.failed)
    done = iter(answers(task, able, trainer, arrays, strategy.channels, told=protector is None))
    return [lost.get(k) or next(done) for k in range(len(vehicles))]


def local_task(task: TaskMessage, device: torch.device) -> LocalTask:
    """The task as tensors of their own on a device; `half` sees to it that they stay as they are."""
    return LocalTask(on({n: v.copy() for n, v in task.vectors.items()}, device), task.scalars)


def half(
    strategy: Strategy[Any],
    task: LocalTask,
    memory: Mapping[str, Tensor],
    trainer: Trainer,
    facts: Facts,
) -> Sent:
    """The strategy's half on the vehicle, held to its contract: raises StrategyError for changed input."""
    tensors = (*task.vectors.items(), *memory.items())
    given = [tensor._version for _, tensor in tensors]
    hint = f" (it was given the task {sorted(task.vectors)} and the memory {sorted(memory)})"
    with span("strategy"):
        sent = called(strategy.name, "local", lambda: strategy.local(task, memory, trainer, facts), hint)
    for (name, tensor), version in zip(tensors, given, strict=True):
        if tensor._version != version:
            raise StrategyError(f"{strategy.name}: local changed {name} in place; work on a copy")
    return sent


def answers(
    task: TaskMessage,
    vehicles: Sequence[Vehicle],
    trainer: LocalTrainer,
    arrays: Mapping[str, Vector],
    channels: Sequence[Channel],
    *,
    told: bool = True,
) -> list[ContributionMessage | VehicleError]:
    """What each trained vehicle sends, or why its training came to nothing.

    told: whether it says how many samples and steps it took, and its loss; under differential privacy it does
    not.
    """
    packings = {channel.name: channel.packing for channel in channels if channel.packing != PLAIN}
    steps = trainer.steps.tolist()
    return [
        trainer.failed.get(k)
        or ContributionMessage(
            run=task.run,
            round=task.round,
            version=task.version,
            pass_number=task.pass_number,
            vehicle=vehicle.node,
            upload=f"{task.run[:16]}-{vehicle.ticket or task.round}-{task.pass_number}-{vehicle.node}",
            examples=trainer.examples[k] if told else 1,
            steps=steps[k] if told else 1,
            loss=trainer.losses[k] if steps[k] and told else 0.0,  # a later pass of a round trains nothing
            vectors={name: array[k] for name, array in arrays.items()},
            packings=packings,
        )
        for k, vehicle in enumerate(vehicles)
    ]


def check_task(task: TaskMessage, shared: int, size: int) -> None:
    """Refuse a task whose model does not fit this one; raises VehicleError."""
    for name, vector in task.vectors.items():
        if not vector.size or vector.size not in (shared, size, size - shared):
            raise VehicleError(f"the task's {name} has {vector.size} numbers, this model {size}")


def recall(
    strategy: Strategy[Any],
    vehicles: Sequence[Vehicle],
    task: LocalTask,
    facts: Facts,
    device: torch.device,
) -> tuple[dict[str, Tensor], dict[int, VehicleError]]:
    """What the vehicles remember, settled by their tasks: float32 [K, m] by name, and who lost it, by place.

    K counts those that remember; nobody's memory is made up.
    """
    rows: list[dict[str, Tensor]] = []
    lost: dict[int, VehicleError] = {}
    first: Mapping[str, Tensor] = {}
    if (memory := strategy.memory) is not None:
        hint = f" (it was given the task {sorted(task.vectors)})"
        first = called(strategy.name, "memory.begin", lambda: memory.begin(task, facts), hint)
    for k, vehicle in enumerate(vehicles):
        try:
            rows.append(recalled(strategy, vehicle, first, facts, device))
        except VehicleError as error:
            lost[k] = error
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]} if rows else {}, lost


def recalled(
    strategy: Strategy[Any],
    vehicle: Vehicle,
    first: Mapping[str, Tensor],
    facts: Facts,
    device: torch.device,
) -> dict[str, Tensor]:
    """What one vehicle remembers, `first` where it never contributed: float32 [m] by name; VehicleError."""
    row: dict[str, Tensor] = {}
    if strategy.memory is not None:
        store = memory_of(strategy, vehicle)
        store.settle(vehicle.counted)
        known = store.read()
        row = dict(first) if known is None else on(known, device)
        if {n: t.shape for n, t in row.items()} != {n: t.shape for n, t in first.items()}:
            raise VehicleError(f"the memory of vehicle {vehicle.index} does not fit {strategy.name}")
    if facts.pass_number > 1:
        row |= on(memory_of(strategy, vehicle).kept(vehicle.ticket), device)
    return row


def on(arrays: Mapping[str, Vector], device: torch.device) -> dict[str, Tensor]:
    """Arrays as tensors on a device."""
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}


def memory_of(strategy: Strategy[Any], vehicle: Vehicle) -> VehicleMemory:
    """Where the vehicle's memory lies; raises VehicleError where it has no place for one."""
    if vehicle.memory is None or vehicle.ticket < 1:
        raise VehicleError(f"{strategy.name} needs a memory, and the task a ticket; vehicle {vehicle.index}")
    return vehicle.memory


def checked(strategy: Strategy[Any], sent: Sent, shared: int, count: int) -> dict[str, Vector]:
    """The channels as contiguous float32 [K, n], clipped to their norms; raises StrategyError."""
    sizes = strategy.sizes(shared)
    if not isinstance(sent, Sent) or set(sent.vectors) != set(sizes):
        got = sorted(sent.vectors) if isinstance(sent, Sent) else type(sent).__name__
        raise StrategyError(f"{strategy.name}: local sent {got}; it declared the channels {sorted(sizes)}")
    arrays: dict[str, Vector] = {}
    for channel in strategy.channels:
        stack = sent.vectors[channel.name]
        if not isinstance(stack, Tensor):
            kind = type(stack).__name__
            raise StrategyError(f"{strategy.name}: channel {channel.name!r} is {kind}; it must be a tensor")
        if tuple(stack.shape) != (count, sizes[channel.name]) or stack.dtype != torch.float32:
            raise StrategyError(
                f"{strategy.name}: channel {channel.name!r} is {stack.dtype} {tuple(stack.shape)}; it must "
                f"be float32 {(count, sizes[channel.name])}"
            )
        array = np.ascontiguousarray(stack.detach().cpu().numpy())
        if channel.clip is not None:
            factors = [shrink(row, channel.clip) for row in array]
            array = array * np.array(factors, np.float32)[:, None]
        arrays[channel.name] = array
    return arrays


def remember(vehicles: Sequence[Vehicle], sent: Sent, failed: Mapping[int, VehicleError]) -> None:
    """Stage each vehicle's new memory and keep what later passes need; a failed vehicle keeps the old."""
    if not (sent.memory or sent.kept):
        return
    memory = {name: stack.detach().cpu().numpy() for name, stack in sent.memory.items()}
    kept = {name: stack.detach().cpu().numpy() for name, stack in sent.kept.items()}
    for k, vehicle in enumerate(vehicles):
        if k in failed or vehicle.memory is None:
            continue
        if memory:
            vehicle.memory.stage(vehicle.ticket, {name: stack[k] for name, stack in memory.items()})
        if kept:
            vehicle.memory.keep(vehicle.ticket, {name: stack[k] for name, stack in kept.items()})
