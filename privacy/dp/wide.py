"""Discrete Gaussian noise of any width, from tables of a small one: x = x_0 + r x_1 + r^2 x_2 + ...

Given x_1, the numbers x_0 + r x_1 are as exp(-x^2 / 2 s^2) times a sum over whole shifts of a Gaussian of
width about base / r, which varies by less than 2 exp(-2 pi^2 (base / r)^2) relative to its mean (Poisson
summation; Micciancio and Walter 2017, eprint 2017/259, Section 4): below e^-250 here, a factor on every
probability.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from carpool.privacy.dp.randomness import Bits
from carpool.privacy.dp.samplers import discrete_gaussian

BASE = 2048.0
"""Widest table that is used."""
SMOOTH = 4
"""base / ratio is at least this."""


def layers(sigma: float) -> tuple[int, int, float]:
    """(count, ratio, base): sigma^2 = base^2 (1 + ratio^2 + ... + ratio^(2 (count - 1))), base <= BASE.

    Raises ValueError for a sigma that is not above 0 and below 2^56.
    """
    if not 0 < sigma < 2.0**56:
        raise ValueError(f"noise has a standard deviation above 0 and below 2^56 steps, not {sigma}")
    count = 1
    while True:
        most = int(BASE / SMOOTH / 1.01) if count > 1 else 1
        if _spread(most, count) * BASE >= sigma:
            break
        count += 1
    ratio = 1 if count == 1 else math.ceil((sigma / BASE) ** (1 / (count - 1)))
    while ratio > 1 and _spread(ratio - 1, count) * BASE >= sigma:
        ratio -= 1
    return count, ratio, sigma / _spread(ratio, count)


def _spread(ratio: int, count: int) -> float:
    return math.sqrt(sum(ratio ** (2 * power) for power in range(count)))


def wide_gaussian(bits: Bits, sigma: float, n: int) -> NDArray[np.int64]:
    """n numbers, int64 [n], P(k) as exp(-k^2 / 2 sigma^2); 0 < sigma < 2^56. Raises ValueError."""
    count, ratio, base = layers(sigma)
    total = discrete_gaussian(bits, base, n)
    for _ in range(count - 1):
        total *= ratio
        total += discrete_gaussian(bits, base, n)
    return total
