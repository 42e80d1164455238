"""The price of Skellam noise: a Rényi bound in the L1 and L2 sensitivity, both in whole steps.

Agarwal, Kairouz and Liu 2021, arXiv:2110.04995, Theorem 3.5 and Corollary 3.6: for whole orders a > 1 and
noise of variance v in each coordinate,

    D_a <= a l2^2 / (2 v) + min( ((2a - 1) l2^2 + 6 l1) / (4 v^2), 3 l1 / (2 v) )

The first term is the Gaussian's of the same variance; the rest is what integers cost, and vanishes as the
steps become fine. Orders between whole ones follow, since (a - 1) D_a is convex in a.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from carpool.privacy.dp.renyi import ORDERS, Curve


@lru_cache(maxsize=8192)
def curve(variance: float, l1: float, l2: float) -> Curve:
    """Curve over ORDERS of one release; float64 [orders], read-only, inf where variance is 0.

    variance: of the noise in the sum, in steps^2; l1, l2: sensitivities AFTER rounding, in steps.
    """
    low, high = np.floor(ORDERS), np.ceil(ORDERS)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        below = (low - 1) * np.where(low > 1, _whole(low, variance, l1, l2), 0.0)
        above = (high - 1) * _whole(high, variance, l1, l2)
        share = np.where(high > low, ORDERS - low, 1.0)
        bound = ((1 - share) * below + share * above) / (ORDERS - 1)
    bound = np.where(np.isnan(bound), np.inf, bound)
    bound.setflags(write=False)
    return bound


def _whole(order: Curve, variance: float, l1: float, l2: float) -> Curve:
    v, square = np.float64(variance), np.float64(l2) ** 2
    fine = ((2 * order - 1) * square + 6 * l1) / (4 * v**2)
    coarse = 3 * l1 / (2 * v)
    return order * square / (2 * v) + np.fmin(fine, coarse)
