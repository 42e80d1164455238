"""The contract of an aggregation strategy: named channels and a handful of pure functions.

One contract serves the synchronous server, a buffer, a relay and a gossip peer. What a strategy declares
decides what it may be combined with: all channels `sum` means that the server never needs to see a single
vehicle's update, so secure aggregation and O(d) server memory are possible.

The server's half is numpy on vectors float32 [d]; the vehicle's half is torch on stacks [K, d], K vehicles
at once in the simulator and K = 1 on a real vehicle. `Stack` stands for torch.Tensor, so that the server
never has to import torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

import numpy as np

from carpool.privacy.vectors import Vector
from carpool.strategies.deadline import Decision, Policy, Progress, decide

if TYPE_CHECKING:
    from torch import Tensor as Stack

State = TypeVar("State")
Correction = Callable[["Stack", "Stack"], "Stack"]
"""(weights [K, d], gradients [K, d]) -> gradients to step with, [K, d]."""


@dataclass(frozen=True)
class Channel:
    """What a contribution carries: a vector like the model, added up (`sum`) or kept apart (`set`)."""

    name: str
    reduce: Literal["sum", "set"] = "sum"


@dataclass(frozen=True)
class Facts:
    """What both halves know of a round; public.

    round: 1, 2, ...; version: updates of the model so far; population: vehicles of the fleet, N;
    cohort: replies that the experiment plans for.
    """

    round: int
    version: int
    population: int
    cohort: int


@dataclass(frozen=True)
class Header:
    """What a contribution says of itself in the clear: samples trained on, steps taken, start version."""

    examples: int
    steps: int
    version: int


@dataclass(frozen=True)
class Task:
    """What every asked vehicle is sent: vectors float32 [d] and scalars, each by name."""

    vectors: Mapping[str, Vector]
    scalars: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LocalTask:
    """The task on the vehicle: the same vectors as torch float32 [d]."""

    vectors: Mapping[str, Stack]
    scalars: Mapping[str, float]


class Trainer(Protocol):
    """What the vehicle's half of a strategy may ask for; K vehicles at once."""

    @property
    def steps(self) -> Stack:
        """Local steps of each vehicle, int64 [K]."""

    def train(self, start: Stack, *, correction: Correction | None = None) -> Stack:
        """Weights after local training from `start` ([d] or [K, d]): float32 [K, d].

        `correction` sees weights and gradients [K, d] of every step and returns the gradient to use.
        """


@dataclass(frozen=True)
class Reduced:
    """What the server is given: per channel the weighted sum, the total weight, or the set; never a reply.

    sums: float32 [d] a `sum` channel; sets: float32 [n, d] a `set` channel; weight: the denominator that
    the runner chose (total weight in the clear, a public constant under differential privacy); count: how
    many contributions are in it.
    """

    sums: Mapping[str, Vector]
    sets: Mapping[str, Vector]
    weight: float
    count: int

    def mean(self, channel: str) -> Vector:
        """The weighted mean of a `sum` channel, float32 [d]; a new array."""
        return self.sums[channel] * np.float32(1.0 / self.weight)


@dataclass(frozen=True)
class Strategy(Generic[State]):
    """An aggregation algorithm as pure functions over a frozen state.

    init(vector, facts) -> state                     first state from the first model
    task(state, facts) -> Task                       what every asked vehicle is sent
    local(task, trainer, facts) -> {channel: [K, d]} the vehicle's half
    weight(header, facts) -> float > 0               from public facts only; 0 is refused
    update(state, reduced, facts) -> state           the paper's server step
    model(state) -> vector                           what is evaluated and deployed
    ready(policy, progress) -> Decision              when a round closes, and whether it counts
    """

    name: str
    paper: str
    channels: tuple[Channel, ...]
    state: type[State]
    init: Callable[[Vector, Facts], State]
    task: Callable[[State, Facts], Task]
    local: Callable[[LocalTask, Trainer, Facts], Mapping[str, Stack]]
    weight: Callable[[Header, Facts], float]
    update: Callable[[State, Reduced, Facts], State]
    model: Callable[[State], Vector]
    ready: Callable[[Policy, Progress], Decision] = decide

    @property
    def needs_set(self) -> bool:
        """True where some channel must be seen vehicle by vehicle, which secure aggregation forbids."""
        return any(channel.reduce == "set" for channel in self.channels)


def dump(state: object) -> tuple[dict[str, Vector], dict[str, float]]:
    """A state as (vectors by field, scalars by field), for the checkpoint; `load` is its inverse."""
    if not dataclasses.is_dataclass(state):
        raise TypeError(f"a strategy's state is a frozen dataclass, not {type(state).__name__}")
    vectors: dict[str, Vector] = {}
    scalars: dict[str, float] = {}
    for part in dataclasses.fields(state):
        value = getattr(state, part.name)
        if isinstance(value, np.ndarray):
            vectors[part.name] = value
        elif isinstance(value, int | float):
            scalars[part.name] = value
        else:
            raise TypeError(
                f"state field {part.name} is {type(value).__name__}; use a float32 vector or a number"
            )
    return vectors, scalars


def load(kind: type[State], vectors: Mapping[str, Vector], scalars: Mapping[str, float]) -> State:
    """The state again; raises ValueError where a field is missing or unknown."""
    values: dict[str, Any] = {**vectors, **scalars}
    names = {part.name for part in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if set(values) != names:
        raise ValueError(f"checkpoint has {sorted(values)}, {kind.__name__} needs {sorted(names)}")
    return kind(**values)
