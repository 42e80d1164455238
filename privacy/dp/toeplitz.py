"""Banded Toeplitz factorisations of running sums: their error, their sensitivity, and good coefficients.

The workload A (lower-triangular ones, T x T) is written A = B C with C lower-triangular Toeplitz of first
column c_0 .. c_(bands-1). Adding C^-1 z to the rounds, z independent of width 1, puts B z on their running
sums. Choquette-Choo et al. 2023, arXiv:2306.08153; Kalinin and Lampert 2024, arXiv:2405.13763.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize

Numbers = NDArray[np.float64]


def square_root(bands: int) -> Numbers:
    """The first coefficients of the square root of the running sum, float64 [bands]: binom(2j, j) / 4^j.

    They start at 1 and fall; all of them are the optimum of the largest error under one participation
    (Fichtenberger, Henzinger and Upadhyay 2022, arXiv:2202.11205). Raises ValueError for fewer than 1.

    >>> square_root(3).tolist()
    [1.0, 0.5, 0.375]
    """
    if bands < 1:
        raise ValueError(f"a factorisation has 1 band or more, not {bands}")
    steps = np.arange(1, bands)
    return np.concatenate([[1.0], np.cumprod(1 - 0.5 / steps)])


def solve(coefficients: ArrayLike, right: ArrayLike) -> Numbers:
    """The x with C x = right, float64 [T], in O(bands T)."""
    c = _checked(coefficients)
    x = np.array(right, np.float64)
    tail = c[:0:-1]
    for t in range(len(x)):
        known = x[max(0, t - len(tail)) : t]
        x[t] = (x[t] - tail[len(tail) - len(known) :] @ known) / c[0]
    return x


def inverse(coefficients: ArrayLike, rounds: int) -> Numbers:
    """The first column of C^-1, float64 [rounds]."""
    first = np.zeros(rounds)
    first[0] = 1
    return solve(coefficients, first)


def variances(coefficients: ArrayLike, rounds: int) -> Numbers:
    """The variance of each running sum's noise for raw noise of variance 1: squared rows of B, [rounds]."""
    return np.cumsum(np.cumsum(inverse(coefficients, rounds)) ** 2)


def sensitivity(coefficients: ArrayLike, rounds: int, separation: int, participations: int) -> float:
    """How far C G can move, in L2, with one vehicle's vectors of norm up to 1, `separation` or more apart.

    Non-negative coefficients that never rise: exact, and the worst rounds are 0, b, 2b ... (Kalinin and
    Lampert 2024, Theorem 2). Others only where bands <= separation, since then no two of the vehicle's
    columns overlap: sqrt(k) |c|, which ignores that the last column may be cut off. `participations` beyond
    what fits in `rounds` count as what fits. Raises ValueError where neither holds.
    """
    c = _checked(coefficients)[:rounds]
    if min(rounds, separation, participations) < 1:
        raise ValueError(
            f"{rounds} rounds, separation {separation}, {participations} participations: each is 1 or more"
        )
    times = min(participations, -(-rounds // separation))
    if np.all(c >= 0) and np.all(np.diff(c) <= 0):
        column = np.zeros(rounds)
        for start in range(0, times * separation, separation):
            column[start : start + len(c)] += c[: rounds - start]
        return float(np.linalg.norm(column))
    if len(c) <= separation:
        return math.sqrt(times) * float(np.linalg.norm(c))
    raise ValueError(
        f"{len(c)} bands above a separation of {separation} need coefficients of 0 or more that never rise; "
        f"use at most {separation} bands"
    )


def optimised(bands: int, rounds: int) -> Numbers:
    """Coefficients of least mean squared error at equal sensitivity, float64 [bands], the first 1.

    For a separation of `bands` or more, where the sensitivity is sqrt(k) |c|: L-BFGS on log(|c|^2 mean
    variance) from `square_root` (Choquette-Choo et al. 2023, Section 4; McKenna 2024, arXiv:2405.15913). The
    result may differ in its last digits between machines, so a training keeps the coefficients that it began
    with.
    """
    start = square_root(bands)[:rounds]
    if len(start) == 1:
        return start
    weights = (rounds - np.arange(rounds)) / rounds  # the mean over t of the sum of squares up to t
    ones = np.ones(rounds)

    def loss(rest: Numbers) -> tuple[float, Numbers]:
        c = np.concatenate([[1.0], rest])
        prefix = solve(c, ones)
        error, norm = float(weights @ prefix**2), float(c @ c)
        # C prefix = 1, so d prefix = -C^-1 dC prefix; the adjoint is one more solve, on the reversed vector.
        adjoint = solve(c, (2 * weights * prefix)[::-1])[::-1]
        moved = np.array([adjoint[j:] @ prefix[: rounds - j] for j in range(len(c))])
        return math.log(error * norm), (2 * c / norm - moved / error)[1:]

    found = minimize(loss, start[1:], jac=True, method="L-BFGS-B", options={"maxiter": 200})
    return np.concatenate([[1.0], found.x])


def _checked(coefficients: ArrayLike) -> Numbers:
    c = np.array(coefficients, np.float64)
    if c.ndim != 1 or not len(c) or not np.isfinite(c).all() or c[0] <= 0:
        raise ValueError("coefficients are a list of finite numbers of which the first is above 0")
    return c
