"""Poisson batches and the noise of one step of DP-SGD.

Statistics: false-positive rate 1e-6 (two-sided, 4.9 standard deviations); each test sees a planted error.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carpool.privacy.dp.example_sum import bound_for, noisy, poisson
from carpool.privacy.dp.grid import STEPS
from carpool.privacy.dp.randomness import SeededBits, SystemBits

SIGMAS = 4.9


def variance_fits(values, wanted: float) -> bool:
    """Whether the values' standard deviation is `wanted`, mean 0."""
    n = len(values)
    return abs(np.mean(np.square(values)) / wanted**2 - 1) < SIGMAS * math.sqrt(2 / n)


@pytest.mark.slow  # the samplers' tables
@pytest.mark.parametrize("noise", [0.3, 1.0, 7.0])
def test_noise_has_the_standard_deviation_that_is_claimed(noise):
    found = noisy(np.zeros(40_000), 0.25, noise, SeededBits(1))
    assert variance_fits(found, noise * 0.25)
    assert not variance_fits(found * 1.05, noise * 0.25)
    assert not variance_fits(found / 1.05, noise * 0.25)
    assert abs(found.mean()) < SIGMAS * noise * 0.25 / math.sqrt(len(found))


def test_noise_and_sum_lie_on_the_grid():
    steps = noisy(np.linspace(-1, 1, 100), 0.5, 1.0, SystemBits("test")) / (0.5 / STEPS)
    assert np.array_equal(steps, np.rint(steps))


@settings(max_examples=50)
@given(
    st.integers(1, 400),
    st.floats(1e-3, 1e3),
    st.integers(0, 2**32 - 1),
)
def test_a_clipped_gradient_moves_the_rounded_sum_by_at_most_clip_norm(n, clip_norm, seed):
    rng = np.random.default_rng(seed)
    others = rng.standard_normal(n) * clip_norm * rng.uniform(0, 30)
    one = rng.standard_normal(n)
    one *= bound_for(clip_norm, n) / np.linalg.norm(one)
    bits = SeededBits(0)
    moved = noisy(others + one, clip_norm, 0.0, bits) - noisy(others, clip_norm, 0.0, bits)
    assert np.linalg.norm(moved) <= clip_norm
    assert np.linalg.norm(moved) > 0.99 * clip_norm


def test_the_worst_rounding_is_within_the_bound_and_would_not_be_without_its_share():
    n, step = 1000, 1.0 / STEPS
    for bound, within in ((bound_for(1.0, n), True), (1.0, False)):
        whole = math.floor(bound / step / math.sqrt(n) - 1e-3)
        # From just below the middle of a step to just above one, in every number: a step more than it is.
        low = np.full(n, (0.5 - 1e-5) * step)
        one = np.full(n, (whole + 2e-5) * step)
        assert np.linalg.norm(one) <= bound
        bits = SeededBits(0)
        moved = noisy(low + one, 1.0, 0.0, bits) - noisy(low, 1.0, 0.0, bits)
        assert np.linalg.norm(moved) == pytest.approx((whole + 1) * step * math.sqrt(n), rel=1e-12)
        assert bool(np.linalg.norm(moved) <= 1.0) is within


@pytest.mark.parametrize("total", [math.nan, math.inf, 1e30])
def test_a_sum_that_cannot_be_is_refused(total):
    with pytest.raises(ValueError, match="finite"):
        noisy(np.array([0.0, total]), 1.0, 1.0, SeededBits(0))


@pytest.mark.parametrize(("clip", "n"), [(0.0, 5), (math.nan, 5), (-1.0, 5), (1.0, 0), (1.0, STEPS**2)])
def test_a_bound_that_cannot_be_meant_is_refused(clip, n):
    with pytest.raises(ValueError):
        bound_for(clip, n)


@pytest.mark.parametrize("rate", [0.002, 0.1, 0.5, 0.97])
def test_each_example_is_drawn_at_the_rate_that_is_charged(rate):
    n = 200_000 if rate > 0.05 else 4_000_000
    drawn = len(poisson(SeededBits(3), n, rate))
    spread = SIGMAS * math.sqrt(n * rate * (1 - rate))
    assert abs(drawn - n * rate) < spread
    assert abs(drawn * 1.06 - n * rate) > spread or rate > 0.95
    assert abs(drawn * 0.94 - n * rate) > spread


def test_batches_differ_in_size_as_poisson_batches_do_and_examples_are_independent():
    bits, n, rate, many = SeededBits(5), 40, 0.3, 4000
    members = np.zeros((many, n))
    for row in members:
        row[poisson(bits, n, rate)] = 1
    sizes = members.sum(1)
    # A batch of fixed size would have no variance at all; here it is n q (1 - q).
    spread = SIGMAS * math.sqrt(2 / many) * 1.1
    assert abs(sizes.var() / (n * rate * (1 - rate)) - 1) < spread
    together = np.mean(members[:, 0] * members[:, 1])
    assert abs(together - rate**2) < SIGMAS * math.sqrt(rate**2 * (1 - rate**2) / many)


def test_a_rate_of_one_takes_all_and_no_randomness():
    bits = SeededBits(0)
    assert poisson(bits, 5, 1.0).tolist() == [0, 1, 2, 3, 4]
    assert bits.place == 0
    assert poisson(bits, 0, 0.5).tolist() == []


@pytest.mark.parametrize(("n", "rate"), [(-1, 0.5), (3, 0.0), (3, 1.1), (3, math.nan)])
def test_a_rate_that_is_none_is_refused(n, rate):
    with pytest.raises(ValueError, match="rate"):
        poisson(SeededBits(0), n, rate)
