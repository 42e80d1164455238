"""Rényi curves: against dp-accounting's series, against plain integrals, and their conversion."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting import rdp
from dp_accounting.rdp import rdp_privacy_accountant
from hypothesis import given, settings
from hypothesis import strategies as st

from carpool.privacy.dp import renyi

SHORT = [2.0, 3.0, 4.0, 8.0, 20.0, 40.0]
AT = [int(np.flatnonzero(order == renyi.ORDERS)[0]) for order in SHORT]


@pytest.mark.parametrize(
    ("noise", "rate"), [(1.0, 0.01), (0.7, 0.3), (1.5, 0.04), (4.0, 0.9), (30.0, 1e-3), (0.4, 0.05)]
)
def test_sampled_curve_is_that_of_mironovs_series(noise, rate):
    theirs = rdp_privacy_accountant._compute_rdp_poisson_subsampled_gaussian(rate, noise, SHORT)
    curve = renyi.sampled_gaussian(noise, rate, False)
    assert curve[AT] == pytest.approx(theirs, rel=1e-9, abs=1e-13)
    # Between whole orders their series may not converge; (a - 1) D_a is convex, and D_a grows.
    moments = (renyi.ORDERS - 1) * curve
    assert np.all(np.diff(moments[:99], 2) >= -1e-12)


@pytest.mark.parametrize(("noise", "rate"), [(1.0, 0.01), (0.7, 0.3), (2.0, 0.9)])
def test_replaced_curve_is_the_integral_of_its_definition(noise, rate):
    x = np.linspace(-12 * noise, 12 * noise + 40, 100_001)
    zero, up, down = (-(((x - at) / noise) ** 2) / 2 for at in (0, 1, -1))
    p, q = (np.logaddexp(math.log1p(-rate) + zero, math.log(rate) + moved) for moved in (up, down))
    for at, order in zip(AT[:4], SHORT[:4], strict=True):
        moment = np.exp(order * p - (order - 1) * q).sum() * (x[1] - x[0]) / noise / math.sqrt(2 * math.pi)
        expected = math.log(moment) / (order - 1)
        assert renyi.sampled_gaussian(noise, rate, True)[at] == pytest.approx(expected, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.02, 100), st.floats(1e-6, 1))
def test_sampling_never_costs_and_a_curve_never_falls(noise, rate):
    for replaced in (False, True):
        found = renyi.sampled_gaussian(noise, rate, replaced)
        assert np.all(found <= renyi.gaussian(noise / 2 if replaced else noise))
        assert np.all(np.diff(found) >= -1e-9 * (1 + found[:-1]))
        assert np.all(found > 0)
        with pytest.raises(ValueError):
            found[0] = 0.0


def test_a_rate_of_one_is_no_sampling():
    assert renyi.sampled_gaussian(2.0, 1.0, False) == pytest.approx(renyi.gaussian(2.0), rel=1e-12)
    assert renyi.sampled_gaussian(2.0, 1.0, True) == pytest.approx(renyi.gaussian(1.0), rel=1e-12)


def test_without_noise_there_is_no_bound():
    assert np.all(np.isinf(renyi.gaussian(0.0)))
    assert renyi.epsilon_of(renyi.gaussian(0.0), 1e-5) == math.inf


@settings(max_examples=40)
@given(st.floats(1e-7, 100), st.floats(-200, -0.05))
def test_conversion_is_that_of_dp_accounting(strength, power):
    curve = strength * renyi.ORDERS
    theirs, _ = rdp.compute_epsilon(renyi.ORDERS, curve, 10**power)
    assert renyi.epsilon_of(curve, 10**power) == pytest.approx(theirs, rel=1e-9, abs=1e-12)
