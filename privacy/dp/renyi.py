"""Rényi divergences of what a release shows, order by order, and what they say about (epsilon, delta).

A curve is float64 [orders], one upper bound an order of ORDERS; curves of releases add up, whatever their
noise (Mironov 2017, arXiv:1702.07476, Proposition 1), so a history of any length is one curve.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Curve = npt.NDArray[np.float64]

ORDERS: Curve = np.array(
    [1 + tenth / 10 for tenth in range(1, 100)]
    + list(range(11, 64))
    + [round(64 * 2 ** (quarter / 4)) for quarter in range(57)],
    dtype=np.float64,
)
"""Orders above 1: fine where epsilon is large, up to 2^20 where it is tiny."""

POINTS = 1 << 11  # of one integral; an order that would need more falls back on the bound without sampling
TOGETHER = 16  # orders that share one grid
SIGMAS = 9.0  # how far the integrals reach beyond the outermost peak: 1e-19 of it is cut off
NOISES = (0.01, 1e9)  # between which there are integrals
ROUNDING = 1e-14  # added to each integral: what summation may lose


def gaussian(noise: float) -> Curve:
    """Curve of Gaussian noise of `noise` standard deviations a sensitivity; 0 gives inf."""
    with np.errstate(divide="ignore", over="ignore"):
        return ORDERS / (2 * np.float64(noise) ** 2)


@lru_cache(maxsize=8192)
def sampled_gaussian(noise: float, rate: float, replace: bool) -> Curve:
    """Curve of the Poisson-sampled Gaussian, by quadrature; the returned array is read-only.

    noise: standard deviation over the sensitivity (zero-out's), > 0; 0 < rate <= 1. Zero-out and add-remove:
    the mixture against the Gaussian (Mironov, Talwar and Zhang 2019, arXiv:1908.10530, Theorem 5: the larger
    of the two directions). `replace`: the mixture at +1 against that at -1, see `accounting`.
    """
    curve = gaussian(noise / 2 if replace else noise)  # sampling never costs privacy
    # The trapezoid rule on an integrand that is analytic within pi noise^2 of the axis, of Gaussian tails:
    # both errors, exp(-2 pi^2 noise^2 / step^2) and exp(-2 pi^2 noise^2 / step), are below 1e-16.
    step = min(0.6 * noise, 0.5 * noise * noise)
    for start in range(0, len(ORDERS) if NOISES[0] < noise < NOISES[1] else 0, TOGETHER):
        orders = ORDERS[start : start + TOGETHER]
        top = (2 if replace else 1) * orders[-1] + SIGMAS * noise
        if (top + SIGMAS * noise) / step > POINTS:
            break
        x = np.arange(-SIGMAS * noise, top + step, step)
        above = _log_mixture(x, noise, rate)
        logs = np.multiply.outer(orders, above) - (x / noise) ** 2 / 2
        if replace:
            logs -= np.multiply.outer(orders - 1, _log_mixture(-x, noise, rate))
        peak = logs.max(axis=1)
        sums = np.exp(logs - peak[:, None]).sum(axis=1) * step / (noise * math.sqrt(2 * math.pi))
        found = (np.maximum(peak + np.log(sums), 0.0) + ROUNDING) / (orders - 1)
        curve[start : start + TOGETHER] = np.minimum(curve[start : start + TOGETHER], found)
    curve.setflags(write=False)
    return curve


def _log_mixture(x: Curve, noise: float, rate: float) -> Curve:
    """Log of ((1 - rate) N(0) + rate N(1)) / N(0) at x."""
    shifted = (2 * x - 1) / (2 * noise * noise) + math.log(rate)
    return np.logaddexp(math.log1p(-rate), shifted) if rate < 1 else shifted


def epsilon_of(curve: Curve, delta: float) -> float:
    """Smallest epsilon that the curve proves; inf if none. 0 < delta < 1.

    Canonne, Kamath and Steinke 2020, arXiv:2004.00010, Proposition 12; and none at all where the
    divergence is so small that delta covers it (Bretagnolle and Huber), as in dp-accounting.
    """
    if bool(np.any(delta * delta > -np.expm1(-curve))):
        return 0.0
    proven = curve + np.log1p(-1 / ORDERS) - (math.log(delta) + np.log(ORDERS)) / (ORDERS - 1)
    return max(0.0, float(proven.min()))
