"""The exact price of Gaussian noise without sampling. Balle and Wang 2018, arXiv:1805.06530, Theorem 8.

Releases compose into one: mu = sqrt(sum of (sensitivity / noise)^2), and then

    delta(epsilon) = Phi(mu/2 - epsilon/mu) - exp(epsilon) Phi(-mu/2 - epsilon/mu)

Nothing here is approximated but by floating point, and every search returns its safe end: an epsilon that is
not too small, a mu that is not too large. All in logarithms, so that a delta of 1e-300 has its epsilon, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.special import log_ndtr

STEPS = 200  # of a bisection: more than doubles have bits


def log_delta(mu: float, epsilon: float) -> float:
    """Natural logarithm of the smallest delta that goes with `epsilon`; mu > 0, epsilon >= 0."""
    if epsilon == 0:
        return math.log(math.erf(mu / math.sqrt(8)))
    upper = float(log_ndtr(mu / 2 - epsilon / mu))
    gap = epsilon + float(log_ndtr(-mu / 2 - epsilon / mu)) - upper
    return upper + math.log(-math.expm1(gap)) if gap < 0 else -math.inf


def epsilon_of(mu: float, delta: float) -> float:
    """Smallest epsilon of a Gaussian composition of strength `mu`; inf where it is beyond floating point.

    mu >= 0 (0: nothing was released), 0 < delta < 1.
    """
    if mu == 0 or (mu < 1 and math.erf(mu / math.sqrt(8)) <= delta):
        return 0.0
    target = math.log(delta)
    # Bun and Steinke 2016, arXiv:1605.02065, Proposition 1.3: never below the truth.
    highest = mu * mu / 2 + mu * math.sqrt(-2 * target)
    if not math.isfinite(highest):
        return math.inf
    return smallest(lambda epsilon: log_delta(mu, epsilon) <= target, 0.0, highest)


def mu_of(epsilon: float, delta: float) -> float:
    """Largest mu that keeps (epsilon, delta); epsilon > 0, 0 < delta < 1."""
    target = math.log(delta)
    high = 1.0
    while log_delta(high, epsilon) <= target:
        high *= 2
    # As 1/mu falls, so does privacy: the search is for the smallest 1/mu that is safe.
    low = high
    while log_delta(low, epsilon) > target:
        low /= 2
    return 1 / smallest(lambda inverse: log_delta(1 / inverse, epsilon) <= target, 1 / high, 1 / low)


def smallest(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The smallest number at which `holds`, to the last bits; it must hold at `high` and stay so above."""
    if holds(low):
        return low
    for _ in range(STEPS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        if holds(middle):
            high = middle
        else:
            low = middle
    return high
