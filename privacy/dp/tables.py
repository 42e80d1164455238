"""Tables from which integer noise is looked up: cumulative probabilities as whole numbers of 2^-128.

    discrete Gaussian    P(k) = exp(-k^2 / 2 sigma^2) / sum    Canonne et al. 2020, arXiv:2004.00010
    Skellam              P(k) = exp(-v) I_k(v), variance v     Agarwal et al. 2021, arXiv:2110.04995

The weights are computed in whole numbers (parameters are floats, thus exact fractions): the Gaussian's by
w(k+1) = w(k) r(k), r(k+1) = r(k) q, the Skellam's by Miller's backward recurrence I(k-1) = I(k+1) + (2k/v)
I(k), which is stable and needs no exponential. Each threshold is rounded to 2^-128 and values that are rarer
are left out, so a table is within 2^-110 of its distribution in total variation (fewer than 2^18 values).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import MIN_EMIN, Context, Decimal
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

DEPTH = 128
"""Bits of a threshold."""
CELLS = 1 << 16
LARGEST = 8192.0
"""Largest standard deviation that a table is made for."""
_FIXED = 320
"""Bits after the point of a Gaussian weight."""
_STARTED = 288
"""Miller's recurrence starts where probabilities are below 2^-288: its start is forgotten by 2^-128."""


@dataclass(frozen=True)
class Table:
    """Values first, first + 1, ... by thresholds, and by the 2^16 cells of a draw's first 16 bits.

    thresholds: high and low uint64 halves, rising, [values - 1]: value i is drawn where exactly i thresholds
    are at most u, u uniform in 0..2^128. cells: the place among the thresholds of each cell, uint16 [2^16];
    the first `several` hold more than one threshold, those up to `open` one. guide: the value at the start of
    each cell, int32 [2^16]; cut: the 64 bits after the first 16 of the one threshold, uint64 [open].
    """

    first: int
    high: NDArray[np.uint64]
    low: NDArray[np.uint64]
    cells: NDArray[np.uint16]
    guide: NDArray[np.int32]
    cut: NDArray[np.uint64]
    several: int
    open: int

    def exact(self, u: int) -> int:
        """The value of a whole draw 0 <= u < 2^128, in Python's integers."""
        upper, lower = u >> 64, u & (2**64 - 1)
        found = int(np.searchsorted(self.high, np.uint64(upper), "left"))
        while found < len(self.high) and (int(self.high[found]), int(self.low[found])) <= (upper, lower):
            found += 1
        return self.first + found


@lru_cache(maxsize=32)
def gaussian_table(sigma: float) -> Table:
    """Of the discrete Gaussian; 0 < sigma <= LARGEST. About 30 ms for sigma = 1000."""
    _check(sigma)
    half = 1 / (2 * Fraction(sigma) ** 2)
    ratio, square = _exponential(-half), _exponential(-2 * half)
    weights, weight = [], 1 << _FIXED
    while weight >> (_FIXED - DEPTH - 2):
        weights.append(weight)
        weight = (weight * ratio) >> _FIXED
        ratio = (ratio * square) >> _FIXED
    return _table(weights)


@lru_cache(maxsize=32)
def skellam_table(variance: float) -> Table:
    """Of the difference of two Poisson numbers of mean variance / 2; 0 < variance <= LARGEST^2."""
    _check(math.sqrt(variance) if variance > 0 else variance)
    top, bottom = variance.as_integer_ratio()
    start = _reach(variance, _STARTED)
    after, weight = 0, 1 << 64
    weights = [weight]
    for k in range(start, 0, -1):
        after, weight = weight, after + 2 * k * bottom * weight // top
        weights.append(weight)
    weights.reverse()
    return _table(weights[: _reach(variance, DEPTH + 2)])


def _check(sigma: float) -> None:
    if not 0 < sigma <= LARGEST:
        raise ValueError(f"a table is made for standard deviations above 0 up to {LARGEST:g}, not {sigma}")


def _exponential(x: Fraction) -> int:
    """exp(x) for x <= 0 in units of 2^-_FIXED."""
    context = Context(prec=120, Emin=MIN_EMIN)
    power = context.exp(context.divide(Decimal(x.numerator), Decimal(x.denominator)))
    return int(context.multiply(power, Decimal(1 << _FIXED)))


def _reach(variance: float, bits: int) -> int:
    """A k beyond which a Skellam number lies with probability below 2^-bits (Chernoff), found by bisection.

    P(X >= k) <= exp(-(k asinh(k/v) - sqrt(k^2 + v^2) + v)). In floats: the table's ends need no exact place.
    """

    def enough(k: int) -> bool:
        # sqrt(k^2 + v^2) - v without cancellation.
        return (
            k * math.asinh(k / variance) - k * k / (math.hypot(k, variance) + variance)
            > bits * math.log(2) + 1
        )

    high = 1
    while not enough(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high + 1


def _table(weights: Sequence[int]) -> Table:
    """From weights of 0, 1, 2, ...; those of the negative values are the same."""
    total = weights[0] + 2 * sum(weights[1:])
    # Values below 2^-128 go to their neighbour: no threshold may round to 2^128.
    last = len(weights) - 1
    while last > 0 and (weights[last] << DEPTH) < total:
        last -= 1
    mass, parts = sum(weights[last + 1 :]), []
    for k in range(-last, last):
        mass += weights[abs(k)]
        threshold = ((mass << (DEPTH + 1)) + total) // (2 * total)
        parts.append(threshold.to_bytes(DEPTH // 8, "big"))
    halves = np.frombuffer(b"".join(parts), ">u8").astype(np.uint64).reshape(-1, 2)
    return _with_cells(-last, np.ascontiguousarray(halves[:, 0]), np.ascontiguousarray(halves[:, 1]))


def _with_cells(first: int, high: NDArray[np.uint64], low: NDArray[np.uint64]) -> Table:
    owner = (high >> np.uint64(48)).astype(np.int64)
    count = np.bincount(owner, minlength=CELLS)
    before = np.cumsum(count) - count
    several, single = np.flatnonzero(count > 1), np.flatnonzero(count == 1)
    order = np.concatenate([several, single, np.flatnonzero(count == 0)])
    held = before[order[: len(several) + len(single)]]
    cut = (high[held] << np.uint64(16)) | (low[held] >> np.uint64(48))
    return Table(
        first,
        high,
        low,
        order.astype(np.uint16),
        (first + before[order]).astype(np.int32),
        cut,
        len(several),
        len(held),
    )
