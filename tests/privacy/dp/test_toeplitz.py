"""Toeplitz factorisations: hand values, brute force over every participation pattern, published figures."""

import math
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carpool.privacy.dp import toeplitz


def matrix(coefficients, rounds):
    c = np.zeros(rounds)
    c[: min(rounds, len(coefficients))] = coefficients[:rounds]
    return np.array([[c[t - s] if t >= s else 0.0 for s in range(rounds)] for t in range(rounds)])


def patterns(rounds, separation, most):
    for count in range(1, most + 1):
        for rows in combinations(range(rounds), count):
            if all(b - a >= separation for a, b in pairwise(rows)):
                yield list(rows)


def brute(coefficients, rounds, separation, most):
    c = matrix(coefficients, rounds)
    return max(np.linalg.norm(c[:, rows].sum(axis=1)) for rows in patterns(rounds, separation, most))


def test_the_square_root_squared_is_the_running_sum():
    c = matrix(toeplitz.square_root(9), 9)
    assert toeplitz.square_root(5).tolist() == [math.comb(2 * j, j) / 4**j for j in range(5)]
    assert np.allclose(c @ c, np.tril(np.ones((9, 9))))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_solving_undoes_multiplying(rounds, bands, data):
    rest = data.draw(st.lists(st.floats(-1, 1), min_size=bands - 1, max_size=bands - 1))
    x = np.array(data.draw(st.lists(st.floats(-9, 9), min_size=rounds, max_size=rounds)))
    c = [1.5, *rest]
    assert np.allclose(matrix(c, rounds) @ toeplitz.solve(c, x), x, atol=1e-6)


def test_variances_are_the_squared_rows_of_the_workload_times_the_inverse():
    c = toeplitz.square_root(4)
    b = np.tril(np.ones((10, 10))) @ np.linalg.inv(matrix(c, 10))
    assert np.allclose(toeplitz.variances(c, 10), (b**2).sum(axis=1))


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 9), st.integers(1, 5), st.integers(1, 4), st.lists(st.floats(0, 1), min_size=1, max_size=9)
)
def test_sensitivity_of_falling_coefficients_is_that_of_the_worst_pattern(rounds, separation, most, drawn):
    c = [1.0, *sorted(drawn, reverse=True)]
    assert toeplitz.sensitivity(c, rounds, separation, most) == pytest.approx(
        brute(c, rounds, separation, most)
    )


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 4), st.data())
def test_few_bands_of_any_sign_are_bounded(rounds, separation, most, data):
    rest = data.draw(st.lists(st.floats(-1, 1), max_size=separation - 1))
    c = [1.0, *rest]
    assert (
        brute(c, rounds, separation, most)
        <= toeplitz.sensitivity(c, rounds, separation, most) * (1 + 1e-12) + 1e-12
    )


def test_vectors_of_any_direction_move_no_further_than_aligned_ones():
    rng = np.random.default_rng(5)
    c = matrix(toeplitz.square_root(6), 12)
    limit = toeplitz.sensitivity(toeplitz.square_root(6), 12, 2, 4)
    for _ in range(200):
        g = np.zeros((12, 3))
        rows = [0, 2, 5, 9]
        g[rows] = rng.standard_normal((4, 3))
        g[rows] /= np.linalg.norm(g[rows], axis=1, keepdims=True)
        assert np.linalg.norm(c @ g) <= limit


def test_rising_or_negative_coefficients_above_the_separation_are_refused():
    for c in ([1.0, 0.2, 0.4], [1.0, -0.5, 0.0], [1.0, 0.0, -0.1]):
        with pytest.raises(ValueError, match="use at most 2 bands"):
            toeplitz.sensitivity(c, 10, 2, 3)


@pytest.mark.parametrize("c", [[], [0.0, 1.0], [-1.0], [1.0, math.nan], [math.inf], [[1.0]]])
def test_coefficients_that_are_none(c):
    with pytest.raises(ValueError, match="finite numbers"):
        toeplitz.sensitivity(c, 5, 1, 1)


def test_numbers_below_one_are_refused():
    for numbers in ((0, 1, 1), (5, 0, 1), (5, 1, 0)):
        with pytest.raises(ValueError, match="1 or more"):
            toeplitz.sensitivity([1.0], *numbers)
    with pytest.raises(ValueError, match="1 band or more"):
        toeplitz.square_root(0)


def test_participations_that_do_not_fit_do_not_count():
    assert toeplitz.sensitivity([1.0], 1000, 100, 50) == pytest.approx(math.sqrt(10))


def error(c, rounds):
    return float(toeplitz.variances(c, rounds).mean()) * float(c @ c)


def test_the_optimised_coefficients_are_a_minimum():
    rng = np.random.default_rng(3)
    best = toeplitz.optimised(6, 40)
    assert best[0] == 1
    assert error(best, 40) < 0.98 * error(toeplitz.square_root(6), 40)
    for _ in range(50):
        moved = best + 1e-2 * np.concatenate([[0], rng.standard_normal(5)])
        assert error(moved, 40) >= error(best, 40) * (1 - 1e-6)
    assert toeplitz.optimised(1, 40).tolist() == [1.0]
