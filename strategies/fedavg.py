"""Federated averaging. McMahan et al. 2017, arXiv:1602.05629, Algorithm 1.

Departures: the mean is over deltas (local - global) and is ADDED with `server_lr`; server_lr = 1 is the
paper's average of models. The denominator is the weight of those who replied, not of those who were asked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from carpool.privacy.vectors import Vector
from carpool.strategies.contract import Channel, Facts, Reduced, Strategy, Task
from carpool.strategies.shared import Weighting, in_range, plain_local, weigh


@dataclass(frozen=True)
class State:
    """params: float32 [d]."""

    params: Vector


def fedavg(*, server_lr: float = 1.0, weighting: Weighting = "examples") -> Strategy[State]:
    """server_lr > 0, dimensionless; weighting: "examples" or "equal". Raises ValueError."""
    in_range("server_lr", server_lr, 0, open_low=True)

    def init(vector: Vector, facts: Facts) -> State:
        return State(vector)

    def task(state: State, facts: Facts) -> Task:
        return Task({"params": state.params})

    def update(state: State, reduced: Reduced, facts: Facts) -> State:
        return replace(state, params=state.params + np.float32(server_lr) * reduced.mean("delta"))

    return Strategy(
        name="fedavg",
        paper="McMahan et al. 2017, arXiv:1602.05629",
        channels=(Channel("delta"),),
        state=State,
        init=init,
        task=task,
        local=plain_local,
        weight=weigh(weighting),
        update=update,
        model=lambda state: state.params,
    )
