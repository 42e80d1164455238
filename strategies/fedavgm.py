"""Server momentum over the mean delta. Hsu et al. 2019, arXiv:1909.06335, Section 4.

Deltas are local - global, so the step is ADDED. beta = 0, server_lr = 1 gives FedAvg. A void round leaves
the velocity as it was.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from carpool.privacy.vectors import Vector
from carpool.strategies.contract import Channel, Facts, Reduced, Strategy, Task
from carpool.strategies.shared import Weighting, in_range, plain_local, weigh


@dataclass(frozen=True)
class State:
    """params, velocity: float32 [d]."""

    params: Vector
    velocity: Vector


def fedavgm(
    *, server_lr: float = 1.0, beta: float = 0.9, weighting: Weighting = "examples"
) -> Strategy[State]:
    """server_lr > 0; 0 <= beta < 1; both dimensionless. Raises ValueError."""
    in_range("server_lr", server_lr, 0, open_low=True)
    in_range("beta", beta, 0, 1)

    def init(vector: Vector, facts: Facts) -> State:
        return State(vector, np.zeros_like(vector))

    def task(state: State, facts: Facts) -> Task:
        return Task({"params": state.params})

    def update(state: State, reduced: Reduced, facts: Facts) -> State:
        velocity = np.float32(beta) * state.velocity + reduced.mean("delta")
        return replace(state, params=state.params + np.float32(server_lr) * velocity, velocity=velocity)

    return Strategy(
        name="fedavgm",
        paper="Hsu et al. 2019, arXiv:1909.06335",
        channels=(Channel("delta"),),
        state=State,
        init=init,
        task=task,
        local=plain_local,
        weight=weigh(weighting),
        update=update,
        model=lambda state: state.params,
    )
