"""Adam on the server, the mean delta as its gradient. Reddi et al. 2021, arXiv:2003.00295, Algorithm 2.

Departures, both as Flower's FedAdam has them: v starts at 0 (the paper: at least tau**2), and the step is
bias-corrected by alpha_t of Kingma & Ba 2015, arXiv:1412.6980, Section 2, with t counted from 2.
Deltas are local - global, so the step is ADDED. A void round leaves moments and t as they were.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from carpool.privacy.vectors import Vector
from carpool.strategies.contract import Channel, Facts, Reduced, Strategy, Task
from carpool.strategies.shared import Weighting, in_range, plain_local, weigh


@dataclass(frozen=True)
class State:
    """params, first and second moment: float32 [d]; updates: rounds counted so far."""

    params: Vector
    moment: Vector
    variance: Vector
    updates: int


def fedadam(
    *,
    server_lr: float = 0.01,
    beta1: float = 0.9,
    beta2: float = 0.99,
    tau: float = 1e-3,
    weighting: Weighting = "examples",
) -> Strategy[State]:
    """server_lr > 0; 0 <= beta1, beta2 < 1; tau > 0 in weight units (adaptivity). Raises ValueError."""
    in_range("server_lr", server_lr, 0, open_low=True)
    in_range("beta1", beta1, 0, 1)
    in_range("beta2", beta2, 0, 1)
    in_range("tau", tau, 0, open_low=True)
    b1, b2 = np.float32(beta1), np.float32(beta2)
    rest1, rest2 = np.float32(1 - beta1), np.float32(1 - beta2)

    def init(vector: Vector, facts: Facts) -> State:
        return State(vector, np.zeros_like(vector), np.zeros_like(vector), 0)

    def task(state: State, facts: Facts) -> Task:
        return Task({"params": state.params})

    def update(state: State, reduced: Reduced, facts: Facts) -> State:
        delta = reduced.mean("delta")
        moment = b1 * state.moment + rest1 * delta
        variance = b2 * state.variance + rest2 * (delta * delta)
        t = state.updates + 2
        rate = np.float32(server_lr * math.sqrt(1 - beta2**t) / (1 - beta1**t))
        root: Vector = np.sqrt(variance)
        step = rate * (moment / (root + np.float32(tau)))
        return State(state.params + step, moment, variance, state.updates + 1)

    return Strategy(
        name="fedadam",
        paper="Reddi et al. 2021, arXiv:2003.00295",
        channels=(Channel("delta"),),
        state=State,
        init=init,
        task=task,
        local=plain_local,
        weight=weigh(weighting),
        update=update,
        model=lambda state: state.params,
    )
