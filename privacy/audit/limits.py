"""The statistics of the gray-box replay: limits with a stated rate of false alarms, on Gaussian-like noise.

The noise of every mechanism here is Gaussian, or a sum of so many whole numbers that its fourth moment is
within 1e-3 of a Gaussian's; for noise of heavier tails (Laplace) the rates do not hold.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv

FALSE_ALARM = 1e-6
"""Of one check, however many tests it consists of (Bonferroni)."""
CORRELATION = 6.0
"""Limit on a correlation of d pairs, times sqrt(d)."""
MOST_PAIRS = 500
"""Correlations looked at in one check: two independent Gaussian vectors exceed the limit with probability
below 2e-9, as the cosine of two directions has lighter tails than a normal variable of its variance."""


def upper_std(square: float, d: int, alpha: float = FALSE_ALARM) -> float:
    """Upper confidence limit of the standard deviation of d numbers of mean 0: sqrt(square / chi2_alpha(d)).

    square: their sum of squares; d: 1 or more. It lies below the truth with probability alpha.
    """
    if d < 1 or not 0 < alpha < 1:
        raise ValueError(f"{d} numbers at alpha {alpha}: use 1 or more, and 0 to 1")
    return math.sqrt(square / (2 * float(gammaincinv(d / 2, alpha))))


def correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Cosine of two vectors [n], -1 to 1; 0 where one is all zeros."""
    norms = math.sqrt(float(one @ one)) * math.sqrt(float(other @ other))
    return float(one @ other) / norms if norms > 0 else 0.0


def correlation_limit(d: int) -> float:
    """What the correlation of two independent vectors of d numbers stays below: 6 / sqrt(d)."""
    return CORRELATION / math.sqrt(d)
