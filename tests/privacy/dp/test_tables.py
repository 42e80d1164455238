"""Thresholds against a second implementation (mpmath at 60 digits), and the cells against the thresholds."""

from __future__ import annotations

import bisect
from functools import lru_cache

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carpool.privacy.dp.tables import CELLS, gaussian_table, skellam_table

ONE = 1 << 128


def thresholds(table):
    return [(int(high) << 64) | int(low) for high, low in zip(table.high, table.low, strict=True)]


def gaussian(sigma):
    reach = int(14 * sigma) + 20
    weights = [mpmath.exp(-(mpmath.mpf(k) ** 2) / (2 * mpmath.mpf(sigma) ** 2)) for k in range(reach)]
    total = weights[0] + 2 * sum(weights[1:])
    return [weight / total for weight in weights]


def skellam(variance):
    v = mpmath.mpf(variance)
    return [mpmath.exp(-v) * mpmath.besseli(k, v) for k in range(int(14 * variance**0.5) + 60)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("made", "reference", "parameter"),
    [
        (gaussian_table, gaussian, 0.05),
        (gaussian_table, gaussian, 0.7),
        (gaussian_table, gaussian, 3.1),
        (gaussian_table, gaussian, 40.0),
        (skellam_table, skellam, 0.01),
        (skellam_table, skellam, 1.7),
        (skellam_table, skellam, 9.0),
        (skellam_table, skellam, 1234.5),
    ],
)
def test_thresholds_are_the_distribution_to_126_bits(made, reference, parameter):
    with mpmath.workdps(60):
        table, chances = made(parameter), reference(parameter)
        below, worst = mpmath.mpf(0), 0.0
        found = dict(zip(range(table.first, -table.first), thresholds(table), strict=True))
        for k in range(1 - len(chances), len(chances)):
            below += chances[abs(k)]
            at = found.get(k, 0 if k < table.first else ONE)
            worst = max(worst, abs(float(below * ONE - at)))
    assert worst < 4
    if parameter > 0.1:  # an error of 10^-9 in the parameter is far outside
        other = thresholds(made(parameter * (1 + 1e-9)))
        assert abs(other[len(other) // 2] - thresholds(table)[len(table.high) // 2]) > 2**60


@pytest.mark.parametrize(
    "table", [gaussian_table(0.3), gaussian_table(77.7), skellam_table(2.0), skellam_table(1e6)]
)
def test_tables_are_symmetric_and_rising(table):
    found = thresholds(table)
    assert table.first == -(len(found) // 2)
    assert len(found) % 2 == 0
    assert found == sorted(found)
    assert all(abs(a + b - ONE) <= 1 for a, b in zip(found, reversed(found), strict=True))


@lru_cache
def made_of(kind, parameter):
    table = kind(parameter)
    return table, thresholds(table)


TABLES = [
    (gaussian_table, 0.4),
    (gaussian_table, 250.0),
    (gaussian_table, 2000.0),
    (skellam_table, 9.0),
    (skellam_table, 4e5),
]


@pytest.mark.slow
@settings(deadline=None)
@given(st.sampled_from(TABLES), st.integers(0, CELLS - 1) | st.integers(0, 300))
def test_a_cell_tells_its_values(which, place):
    (table, found) = made_of(*which)
    cell = int(table.cells[place])
    start, end = cell << 112, ((cell + 1) << 112) - 1
    low, high = (bisect.bisect_right(found, u) for u in (start - 1, end))
    assert int(table.guide[place]) == table.first + low
    assert (high - low > 1) == (place < table.several)
    assert (high - low > 0) == (place < table.open)
    if high - low == 1:
        assert int(table.cut[place]) == (found[low] >> 48) & (2**64 - 1)


def test_every_cell_stands_once():
    assert len(np.unique(gaussian_table(100.0).cells)) == CELLS


@pytest.mark.slow
@given(st.integers(0, ONE - 1))
def test_a_whole_draw_counts_the_thresholds_below_it(u):
    table = gaussian_table(12.0)
    assert table.exact(u) == table.first + bisect.bisect_right(thresholds(table), u)
    one = thresholds(table)[u % len(table.high)]
    assert table.exact(one) > table.exact(one - 1)


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf"), 8192.1])
def test_what_has_no_table_is_refused(sigma):
    with pytest.raises(ValueError, match="standard deviations above 0 up to 8192"):
        gaussian_table(sigma)
    with pytest.raises(ValueError, match="standard deviations above 0 up to 8192"):
        skellam_table(sigma * abs(sigma))
