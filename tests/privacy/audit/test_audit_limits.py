"""The limits have the error rates that they state, and the power that is needed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import chi2, norm

from carpool.privacy.audit.limits import FALSE_ALARM, correlation, correlation_limit, upper_std


@pytest.mark.parametrize("d", [1, 2, 10, 1000, 10**6])
@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 0.5])
def test_the_upper_limit_is_the_chi_square_one(d, alpha):
    assert upper_std(4.0 * d, d, alpha) == pytest.approx(2 * math.sqrt(d / chi2.ppf(alpha, d)), rel=1e-6)


def test_it_lies_below_the_truth_as_often_as_it_says():
    """20,000 trials at alpha = 0.1: within 4.9 deviations of 2,000."""
    squares = np.random.default_rng(1).chisquare(50, 20_000)
    below = sum(upper_std(square, 50, 0.1) < 1 for square in squares)
    assert abs(below - 2000) < 4.9 * math.sqrt(20_000 * 0.09)


def test_power_against_noise_that_is_five_percent_short():
    """With 20,000 numbers the limit of 0.95 is below 1 but for one draw in a million."""
    d = 20_000
    worst = 0.95 * math.sqrt(chi2.isf(FALSE_ALARM, d) / d)
    assert upper_std(worst**2 * d, d) < 1


def test_no_noise_has_no_upper_limit_above_zero():
    assert upper_std(0.0, 1) == 0.0


@pytest.mark.parametrize(("d", "alpha"), [(0, 0.1), (5, 0.0), (5, 1.0), (5, math.nan)])
def test_limits_of_nothing_are_refused(d, alpha):
    with pytest.raises(ValueError, match="use 1 or more"):
        upper_std(1.0, d, alpha)


def test_correlation_and_its_limit():
    rng = np.random.default_rng(2)
    one, other = rng.standard_normal((2, 10_000))
    assert correlation(one, one) == pytest.approx(1)
    assert correlation(one, -3 * one) == pytest.approx(-1)
    assert abs(correlation(one, other)) < correlation_limit(10_000) == 0.06
    # Power: two streams that share a hundredth of their variance.
    shared = 0.1 * rng.standard_normal(1_000_000)
    first, second = (shared + math.sqrt(0.99) * rng.standard_normal(1_000_000) for _ in range(2))
    assert correlation(first, second) > correlation_limit(1_000_000)
    assert correlation(np.zeros(3), one[:3]) == 0
    assert 2 * norm.sf(6) < 2e-9
