"""One step of DP-SGD without the model: who is in the batch, and noise for the sum of clipped gradients.

Unit: one example; neighbours: zero-out (its gradient is zero) or replace-one (the accountant counts twice).
Sensitivity: clip_norm in L2, rounding included. A float64 sum and its neighbour's, each rounded to whole
    steps, are apart by the clipped gradient and half a step a number for each: `bound_for` is clip_norm less
    these sqrt(n) steps, and less SLACK for float64. (Not each gradient but their sum is rounded, so that a
    linear layer's never need to be written out.)
Theorem: that of grid.py, noise in whole steps is post-processed Gaussian noise; under sampling by `poisson`
    the accountant's for the sampled Gaussian.
Event: "gaussian" with the batch's sampling rate, see example_level.py.
Not covered: how gradients came about: that no example's depends on another one is the trainer's business.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from carpool.privacy.dp.grid import STEPS, gaussian
from carpool.privacy.dp.joint import check_clip
from carpool.privacy.dp.randomness import Bits

SLACK = 2.0**-30
"""Of clip_norm: a sum of 2^20 clipped gradients in float64 errs by less."""
LARGEST = 2.0**31
"""Most clip norms in a number of a sum."""


def bound_for(clip_norm: float, numbers: int) -> float:
    """The L2 norm to clip gradients of n numbers to, in their unit, just below clip_norm; raises ValueError.

    >>> bound_for(1.0, 10_000)  # 100 of 2^20 steps less
    0.99990463...
    """
    check_clip(clip_norm)
    share = 1 - math.sqrt(numbers) / STEPS - SLACK
    if numbers < 1 or share < 0.5:
        raise ValueError(f"gradients of {numbers} numbers; use 1 to {STEPS**2 // 5}")
    return clip_norm * share


def noisy(
    total: NDArray[np.float64], clip_norm: float, noise_multiplier: float, bits: Bits
) -> NDArray[np.float64]:
    """The sum on the grid, with noise of standard deviation noise_multiplier x clip_norm: a new float64 [n].

    total: float64 [n], of gradients clipped to `bound_for`; noise_multiplier: as `grid.gaussian` takes it, or
    0 for a sum that is only rounded and NOT PRIVATE. Raises ValueError for NaN and Inf.
    """
    scale = clip_norm / STEPS
    steps = np.rint(total / scale)
    if not np.all(np.abs(steps) < LARGEST * STEPS):  # NaN, too
        raise ValueError("a sum of clipped gradients is finite and of a size that adding up can explain")
    whole = steps.astype(np.int64)
    if noise_multiplier:
        whole += gaussian(bits, noise_multiplier, len(whole))
    return np.multiply(whole, scale, dtype=np.float64)


def poisson(bits: Bits, n: int, rate: float) -> NDArray[np.int64]:
    """Which of n examples are in a batch, each by itself with a chance of `rate` (to 2^-64, never above).

    int64, positions in order, often none; n >= 0; 0 < rate <= 1. Raises ValueError.
    """
    if n < 0 or not 0 < rate <= 1:
        raise ValueError(f"{n} examples drawn at a rate of {rate}: use 0 or more, and a rate above 0 up to 1")
    if rate == 1:
        return np.arange(n, dtype=np.int64)
    # A chance below the one that is charged leaks less.
    return np.flatnonzero(bits.words(2 * n).view("<u8") < np.uint64(int(rate * 2.0**64)))
