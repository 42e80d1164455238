"""The closed form of Gaussian noise: against integrals of its densities, and at the ends of its ranges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool.privacy.dp import closed

MUS = st.floats(1e-3, 50)
DELTAS = st.floats(-30, -0.5).map(lambda power: 10**power)


def integrated(mu, epsilon):
    """Delta from its definition: the integral of max(0, p - e^epsilon q), N(mu, 1) against N(0, 1)."""
    x = np.linspace(-12, mu + 12, 400_001)
    p, q = (np.exp(-((x - centre) ** 2) / 2) / math.sqrt(2 * math.pi) for centre in (mu, 0.0))
    return np.maximum(p - math.exp(epsilon) * q, 0).sum() * (x[1] - x[0])


@pytest.mark.parametrize(("mu", "epsilon"), [(0.1, 0.0), (0.1, 0.2), (1.0, 1.0), (1.0, 4.37718), (3.0, 10.0)])
def test_delta_is_the_integral_of_its_definition(mu, epsilon):
    assert math.exp(closed.log_delta(mu, epsilon)) == pytest.approx(integrated(mu, epsilon), rel=1e-7)


@pytest.mark.parametrize(
    ("mu", "delta", "expected"),
    [(1, 1e-5, 4.37718), (math.sqrt(10) / 8, 1e-5, 1.53468), (2 * math.sqrt(10) / 2, 1e-5, 17.85659)],
)
def test_published_values(mu, delta, expected):
    assert closed.epsilon_of(mu, delta) == pytest.approx(expected, abs=1e-5)


@given(MUS, DELTAS)
def test_epsilon_is_the_smallest_that_holds(mu, delta):
    epsilon = closed.epsilon_of(mu, delta)
    assert closed.log_delta(mu, epsilon) <= math.log(delta)
    if epsilon > 0:
        assert closed.log_delta(mu, epsilon * (1 - 1e-6)) > math.log(delta)


@given(st.floats(1e-3, 1000), DELTAS)
def test_mu_is_the_largest_that_holds(epsilon, delta):
    mu = closed.mu_of(epsilon, delta)
    assert closed.epsilon_of(mu, delta) <= epsilon * (1 + 1e-9)
    assert closed.epsilon_of(mu * (1 + 1e-6), delta) > epsilon


@given(MUS, MUS, DELTAS)
def test_more_of_it_costs_more(one, more, delta):
    low, high = sorted((one, more))
    assert closed.epsilon_of(low, delta) <= closed.epsilon_of(high, delta)


@pytest.mark.parametrize(
    ("mu", "delta", "expected"),
    [
        (0.0, 1e-5, 0.0),
        (1e-9, 1e-5, 0.0),  # delta alone covers it
        (1.0, 0.999, 0.0),
        (math.inf, 1e-5, math.inf),
        (1e200, 1e-5, math.inf),
        (1.0, 1e-300, 37.44885),
        (1e5, 1e-5, 5_000_426_488),
    ],
)
def test_ends_of_the_range(mu, delta, expected):
    assert closed.epsilon_of(mu, delta) == pytest.approx(expected, rel=1e-6)
