"""Whom to ask: a cohort drawn uniformly from the vehicles that are there."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


def asked_size(cohort: int, over_select: float) -> int:
    """How many vehicles to ask so that about `cohort` reply: cohort (1 + over_select), rounded up.

    cohort >= 1; over_select: share >= 0; raises ValueError.

    >>> asked_size(20, 0.5), asked_size(50, 0.1), asked_size(7, 0.0)
    (30, 55, 7)
    """
    if cohort < 1:
        raise ValueError(f"cohort is {cohort}; ask at least 1 vehicle")
    if not 0 <= over_select < math.inf:
        raise ValueError(f"over_select is {over_select}; it must be a number of at least 0")
    # 50 * 1.1 is 55.00000000000001 in binary: what is an integer up to rounding is that integer.
    return math.ceil(round(cohort * (1 + over_select), 6))


def uniform(present: Ids | range, size: int, rng: np.random.Generator) -> Ids:
    """Every set of `size` present vehicles with equal probability: int64 [min(size, present)], increasing.

    present: int64 [n], strictly increasing ids (so that the same fleet and generator give the same cohort),
    or a rising range, of which nothing is made but the cohort; size >= 0; raises ValueError.

    >>> uniform(range(1, 1_000_001), 3, np.random.default_rng(7)).tolist()
    [625095, 684180, 944904]
    """
    if size < 0:
        raise ValueError(f"cannot select {size} vehicles; the size must be at least 0")
    if not _increasing(present):
        raise ValueError("the ids of the present vehicles must be strictly increasing; sort them first")
    if size >= len(present):
        return np.array(present, np.int64)
    # The order inside the cohort is thrown away, so the shuffle is too.
    places = np.sort(rng.choice(len(present), size, replace=False, shuffle=False))
    if isinstance(present, range):
        return np.asarray(present.start + present.step * places, np.int64)
    return present[places]


def _increasing(present: Ids | range) -> bool:
    if isinstance(present, range):
        return present.step > 0
    return bool((present[1:] > present[:-1]).all())
