"""Mean and 95 % interval over seeds: Student's t, from its exact distribution for whole degrees of freedom.

The interval is mean ± t(0.975, n - 1) · s / √n. It treats the seeds' figures as independent draws of one
normal distribution; for a handful of seeds that is a rough guide, and for a single one there is no interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

METHOD = "mean ± t(0.975, n-1) · s/√n over seeds (Student's t)"


def inside(t: float, degrees: int) -> float:
    """P(|T| <= t) for Student's t, t >= 0, degrees >= 1. Abramowitz and Stegun 1964, 26.7.3 and 26.7.4."""
    angle = math.atan2(t, math.sqrt(degrees))
    square = math.cos(angle) ** 2
    odd = degrees % 2 == 1
    term = math.cos(angle) if odd else 1.0
    series = term if degrees > 1 else 0.0
    for step in range(3 if odd else 2, degrees - 1, 2):
        term *= square * ((step - 1) / step)
        series += term
    sine = math.sin(angle)
    return 2 / math.pi * (angle + sine * series) if odd else sine * series


@cache
def t_quantile(degrees: int) -> float:
    """t with P(|T| <= t) = 0.95 (the 0.975 quantile) for degrees >= 1, by bisection.

    >>> round(t_quantile(4), 3)
    2.776
    """
    if degrees < 1:
        raise ValueError(f"Student's t needs at least 1 degree of freedom, not {degrees}")
    low, high = 1.9, 13.0  # the quantile falls from 12.71 (one degree) to 1.96 (infinitely many)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle, degrees) < 0.95 else (low, middle)
    return (low + high) / 2


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` seeds, with half the width of its 95 % interval (None for one seed)."""

    n: int
    mean: float
    std: float | None
    half: float | None

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.half is not None and abs(self.mean) > self.half


def estimate(values: Sequence[float]) -> Estimate:
    """Mean, sample standard deviation and half of the 95 % interval of at least one value.

    >>> found = estimate([1.0, 2.0, 3.0])
    >>> found.mean, found.std, round(found.half, 3)
    (2.0, 1.0, 2.484)
    """
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(1, mean, None, None)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return Estimate(n, mean, std, t_quantile(n - 1) * std / math.sqrt(n))
