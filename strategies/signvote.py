"""signSGD with majority vote. Bernstein et al. 2019, arXiv:1810.05291, Algorithm 1.

    x += server_lr * sign(sum_k sign(delta_k))

A vote is +1 (up), -1 (down) or 0 (no change); a tie gives 0. Departures: the sign of the delta of local
training; with one local step without momentum it is the paper's sign of the gradient. votes = "set": the
server takes the sign of what it was sent, so that nobody has more than one vote. votes = "sum": it sees the
sum alone, which goes with masks, but has to trust the vehicles to send signs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from carpool.privacy.vectors import Vector
from carpool.strategies.contract import Channel, Facts, LocalTask, Reduced, Sent, Strategy, Trainer
from carpool.strategies.fedavg import State, fedavg
from carpool.strategies.shared import in_range

if TYPE_CHECKING:
    from torch import Tensor as Stack


def signvote(*, server_lr: float = 1e-3, votes: Literal["set", "sum"] = "set") -> Strategy[State]:
    """server_lr > 0, every parameter's step in weight units; votes: "set" or "sum". Raises ValueError."""
    in_range("server_lr", server_lr, 0, open_low=True)
    if votes not in ("set", "sum"):
        raise ValueError(f"votes is {votes!r}; use 'set' or 'sum'")

    def local(task: LocalTask, memory: Mapping[str, Stack], trainer: Trainer, facts: Facts) -> Sent:
        start = task.vectors["params"]
        return Sent({"votes": (trainer.train(start) - start).sign()})

    def update(state: State, reduced: Reduced, facts: Facts) -> State:
        total = np.sign(reduced.sets["votes"]).sum(0) if votes == "set" else untied(reduced)
        majority: Vector = np.sign(total)
        return replace(state, params=state.params + np.float32(server_lr) * majority)

    return replace(
        fedavg(server_lr=server_lr, weighting="equal"),
        name="signvote",
        paper="Bernstein et al. 2019, arXiv:1810.05291",
        channels=(Channel("votes", votes, weight="one"),),
        local=local,
        update=update,
        robust=votes == "set",
    )


def untied(reduced: Reduced) -> Vector:
    """The sum of the votes, float32 [d], with ties at zero: under masks they are only near it.

    A vote counts 1, or less where votes of norm sqrt(d) were clipped; half a vote decides nothing.
    """
    total = reduced.sums["votes"]
    channel = reduced.channels.get("votes")
    clip = math.inf if channel is None or channel.clip is None else channel.clip
    vote = min(1.0, clip / math.sqrt(len(total)))
    return np.where(np.abs(total) < np.float32(0.5 * vote), np.float32(0), total)
