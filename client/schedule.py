"""The learning rate of a round: the same on every vehicle, a pure function of the round."""

from __future__ import annotations

import math
from typing import Literal


def learning_rate(
    lr: float,
    round_: int,
    rounds: int,
    *,
    schedule: Literal["constant", "cosine"] = "constant",
    final: float = 0.0,
    warmup: int = 0,
) -> float:
    """Step size in round 1..rounds: linear up to `lr` in round `warmup`, then constant or a half cosine.

    lr > 0, the peak; final: 0..1, the share of `lr` that the cosine comes down to after the last round.
    Loshchilov & Hutter 2017, arXiv:1608.03983, without restarts.

    >>> [round(learning_rate(1.0, r, 4, schedule="cosine"), 3) for r in (1, 3, 4)]
    [1.0, 0.5, 0.146]
    """
    if round_ < warmup:
        return lr * round_ / warmup
    if schedule == "constant":
        return lr
    first = max(warmup, 1)
    done = (round_ - first) / max(1, rounds + 1 - first)
    return lr * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done)))
