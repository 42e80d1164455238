"""The Skellam bound: by hand, and against the divergence itself, summed over the integers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import ive, logsumexp

from carpool.privacy.dp import renyi, skellam_rdp


def exact(variance, shift, order):
    """D_order of Skellam noise shifted by a whole number against itself, by its mass function."""
    reach = math.ceil(14 * math.sqrt(variance)) + 14 * shift + 60
    k = np.arange(-reach, reach + 1)
    with np.errstate(divide="ignore"):
        p, q = np.log(ive(np.abs(k - shift), variance)), np.log(ive(np.abs(k), variance))
    seen = np.isfinite(p) & np.isfinite(q)
    return logsumexp((order * p - (order - 1) * q)[seen]) / (order - 1)


def at(order):
    return int(np.flatnonzero(np.isclose(renyi.ORDERS, order))[0])


def test_by_hand():
    curve = skellam_rdp.curve(100.0, l1=30.0, l2=10.0)
    assert curve[at(2)] == pytest.approx(2 * 100 / 200 + min((3 * 100 + 180) / 40_000, 90 / 200))
    coarse = skellam_rdp.curve(1.0, l1=9.0, l2=3.0)
    assert coarse[at(4)] == pytest.approx(4 * 9 / 2 + min((7 * 9 + 54) / 4, 27 / 2))
    assert coarse[at(4)] == pytest.approx(18 + 13.5)


@pytest.mark.parametrize(("variance", "shift"), [(0.5, 1), (4.0, 1), (4.0, 3), (50.0, 2), (400.0, 20)])
@pytest.mark.parametrize("order", [1.1, 1.5, 2, 2.5, 3, 4.4, 8, 16])
def test_it_bounds_the_divergence_closely(variance, shift, order):
    bound = skellam_rdp.curve(variance, l1=float(shift), l2=float(shift))[at(order)]
    true = exact(variance, shift, order)
    assert true <= bound * (1 + 1e-9)
    if order in (2, 3, 8) and variance >= 50:
        assert bound <= true * 1.1


def test_a_variance_ten_percent_too_large_would_be_seen():
    assert exact(400.0, 20, 2) > skellam_rdp.curve(440.0, 20.0, 20.0)[at(2)]


def test_coordinates_add_up():
    both = skellam_rdp.curve(50.0, l1=5.0, l2=math.sqrt(13))
    for order in (2, 5):
        assert exact(50.0, 2, order) + exact(50.0, 3, order) <= both[at(order)]


def test_fine_steps_cost_what_gaussian_noise_does():
    gaps = [
        skellam_rdp.curve(4 / step**2, 30 / step, 1 / step) - renyi.gaussian(2.0) for step in (1, 0.1, 0.01)
    ]
    assert np.all(gaps[0] > gaps[1])
    assert np.all(gaps[1] > gaps[2])
    assert np.all(gaps[2] >= 0)
    assert gaps[2][at(8)] < 1e-3


def test_without_noise_there_is_no_bound():
    assert np.all(np.isinf(skellam_rdp.curve(0.0, 1.0, 1.0)))
