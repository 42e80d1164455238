"""The binary tree on running sums: its sensitivity under repeated participation, and its streaming estimate.

C has a row for each node [j 2^l, (j+1) 2^l) that is complete within T rounds: the node's sum. Noise is drawn
once a node (Dwork et al. 2010; Chan, Shi and Song 2011); the running sum of t rounds is estimated from the
nodes complete by then, each combined with its children's estimates (Honaker 2015, "estimation from below"),
as DP-FTRL does (Kairouz et al. 2021, arXiv:2103.00039). `plain=True` is the sum of the nodes of t's binary
digits without Honaker.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Table = list[NDArray[np.int64]]
"""For c = 0, 1 ..: the largest sum of squared counts with c participations, int64 [b, b], by the rounds to be
left free at the block's start and at its end."""
WEIGHT_BITS = 12
_NEVER = -(1 << 40)
_MOST_SEPARATION = 128
_MOST_TIMES = 100


def levels(rounds: int) -> int:
    """How many levels have a complete node within `rounds`."""
    return rounds.bit_length()


@lru_cache
def weights(count: int) -> tuple[int, ...]:
    """What a node of each level gives to its children's estimate, in 2^-WEIGHT_BITS; 0 for leaves.

    A node of variance 1 and children's estimates of variance v each, 2v together: the weight is 1 / (1 + 2v),
    rounded. Any weight keeps the estimate unbiased, so rounding costs accuracy only.
    """
    found, variance = [0], 1.0
    for _ in range(1, count):
        found.append(round((1 << WEIGHT_BITS) / (1 + 2 * variance)))
        variance = 2 * variance / (1 + 2 * variance)
    return tuple(found[:count])


def variances(rounds: int, *, plain: bool = False) -> Numbers:
    """The variance of the noise on each running sum for node noise of variance 1, float64 [rounds]."""
    one = [1.0]
    for weight in weights(levels(rounds))[1:]:
        share = 0.0 if plain else weight / (1 << WEIGHT_BITS)
        one.append((1 - share) ** 2 + share**2 * 2 * one[-1])
    times = np.arange(1, rounds + 1)
    digits = np.array([(times >> level) & 1 for level in range(len(one))])
    return np.asarray(np.array(one) @ digits)


@lru_cache
def sensitivity(rounds: int, separation: int, participations: int) -> float:
    """How far the node sums can move, in L2, with one vehicle's vectors of norm up to 1.

    Its rounds are `separation` or more apart. A vehicle that took part c times below a node moves it by up to
    c, so it is the root of the largest sum of squared counts; sqrt(k levels) holds only where no node sees a
    vehicle twice. Exact (dynamic programming over blocks) up to separation 128 and 100 participations;
    beyond, an upper bound: rounds are grouped in units of 2^j with separation floor(b / 2^j), or every level
    is filled by itself. Raises ValueError for numbers below 1.
    """
    if min(rounds, separation, participations) < 1:
        raise ValueError(
            f"{rounds} rounds, separation {separation}, {participations} participations: each is 1 or more"
        )
    times = min(participations, -(-rounds // separation))
    if times > _MOST_TIMES:
        return math.sqrt(_bound(rounds, separation, times))
    skipped = max(0, (separation // (_MOST_SEPARATION + 1)).bit_length())
    units, apart = -(-rounds >> skipped), separation >> skipped
    found = _largest(units, apart, times)
    return math.sqrt(found + skipped * times)


def _bound(rounds: int, separation: int, times: int) -> int:
    """Each level by itself: as many nodes as can be hold as many participations as fit in one."""
    total = 0
    for level in range(levels(rounds)):
        most = min(times, -(-(1 << level) // separation))
        total += (times // most) * most**2 + (times % most) ** 2
    return total


def _largest(rounds: int, apart: int, times: int) -> int:
    """The largest sum of squared counts over the complete nodes within `rounds`."""
    leaf = np.full((apart, apart), _NEVER)
    leaf[0, 0] = 1
    block: Table = [np.zeros((apart, apart), np.int64), leaf]
    whole: Table = [block[0]]
    behind = 0
    for level in range(levels(rounds)):
        size = 1 << level
        if level:
            block = _joined(block, size // 2, block, size // 2, apart, times)
            block = [table + count**2 for count, table in enumerate(block)]
        if rounds & size:  # the small blocks of T's binary digits stand at the end
            whole = _joined(block, size, whole, behind, apart, times)
            behind += size
    return int(max(table[0, 0] for table in whole))


def _joined(left: Table, before: int, right: Table, behind: int, apart: int, times: int) -> Table:
    """Two blocks side by side, of `before` and `behind` rounds."""
    most = min(times, len(left) + len(right) - 2, -(-(before + behind) // apart))
    margins = np.arange(apart)
    found = [np.zeros((apart, apart), np.int64)]
    found += [np.full((apart, apart), _NEVER) for _ in range(most)]
    for first, one in enumerate(left):
        for second, other in enumerate(right[: most - first + 1]):
            if first + second == 0 or first > most:
                continue
            if not first:
                made = other[np.maximum(margins - before, 0)]
            elif not second:
                made = one[:, np.maximum(margins - behind, 0)]
            else:
                made = _apart(one, other)
            np.maximum(found[first + second], made, out=found[first + second])
    return [found[0]] + [np.maximum(table, _NEVER) for table in found[1:]]


def _apart(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """Both blocks used: what is free at the end of one and at the start of the other keeps the separation."""
    made = np.full_like(one, 2 * _NEVER)
    for free in range(len(one)):
        np.maximum(made, one[:, len(one) - 1 - free, None] + other[free], out=made)
    return made
