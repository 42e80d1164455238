"""Draws against the distribution: bit by bit at the thresholds, and by statistics that a 5 % error fails.

Statistics are at a false-positive rate of 1e-6 each; words come from a seed, so they pass or fail for good.
"""

from __future__ import annotations

import bisect
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from carpool.privacy.dp import samplers
from carpool.privacy.dp.randomness import KeyedBits, SeededBits
from carpool.privacy.dp.samplers import add_skellam, discrete_gaussian, skellam
from carpool.privacy.dp.tables import gaussian_table, skellam_table

RATE = 1e-6


def gaussian_chances(sigma, values):
    everything = np.arange(-int(40 * sigma) - 40, int(40 * sigma) + 41)
    weights = np.exp(-(everything**2) / (2 * sigma**2))
    return np.exp(-(values**2) / (2 * sigma**2)) / weights.sum()


def skellam_chances(sigma, values):
    return special.ive(np.abs(values), sigma**2)


def draw_gaussian(sigma, n, seed=1):
    return discrete_gaussian(SeededBits(seed), sigma, n)


def draw_skellam(sigma, n, seed=1):
    return skellam(SeededBits(seed), sigma**2, n)


KINDS = [(draw_gaussian, gaussian_chances), (draw_skellam, skellam_chances)]


def p_value(drawn, sigma, chances):
    """Of the chi-square test, values grouped to about 200 groups of at least 20 expected."""
    edge, n = int(6 * sigma) + 6, len(drawn)
    values = np.arange(-edge, edge + 1)
    expected = n * chances(sigma, values)
    seen = np.bincount(np.clip(drawn, -edge, edge) + edge, minlength=len(values))
    group = np.minimum(np.cumsum(expected) // max(20.0, n / 200), n // max(20.0, n / 200)).astype(int)
    group = np.unique(group, return_inverse=True)[1]
    wanted, got = np.bincount(group, expected), np.bincount(group, seen)
    keep = wanted >= 20
    rest = n - got[keep].sum(), n - wanted[keep].sum()
    if rest[1] >= 20:
        wanted, got = np.append(wanted[keep], rest[1]), np.append(got[keep], rest[0])
    else:
        wanted, got = wanted[keep], got[keep]
    return stats.chi2.sf(((got - wanted) ** 2 / wanted).sum(), max(1, len(wanted) - 1))


@pytest.mark.parametrize("sigma", [0.6, 3.0, 25.0, pytest.param(1000.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("draw", "chances"), KINDS)
def test_draws_fit_and_a_deviation_5_percent_off_does_not(draw, chances, sigma):
    assert p_value(draw(sigma, 200_000), sigma, chances) > RATE
    assert p_value(draw(1.05 * sigma, 200_000), sigma, chances) < RATE
    assert p_value(draw(0.95 * sigma, 200_000), sigma, chances) < RATE


@pytest.mark.parametrize(("draw", "chances"), KINDS)
def test_a_mean_a_tenth_of_a_deviation_off_is_seen(draw, chances):
    assert p_value(draw(10.0, 200_000) + 1, 10.0, chances) < RATE


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.3, 8.5, 100.0, 3000.0, 8192.0])
@pytest.mark.parametrize(("draw", "chances"), KINDS)
def test_two_million_draws_fit_and_1_percent_off_does_not(draw, chances, sigma):
    assert p_value(draw(sigma, 2_000_000), sigma, chances) > RATE
    if sigma > 1:
        assert p_value(draw(1.01 * sigma, 2_000_000), sigma, chances) < RATE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draw", "sigma"), [(draw_gaussian, 20_000.0), (draw_skellam, 12_000.0), (draw_gaussian, 8e6)]
)
def test_beyond_a_table_draws_fit_too(draw, sigma):
    """Against the normal distribution by Kolmogorov and Smirnov: there they differ by less than 1e-4."""
    drawn = draw(sigma, 100_000)
    assert stats.kstest(drawn / sigma, "norm").pvalue > RATE
    assert stats.kstest(drawn / (1.05 * sigma), "norm").pvalue < RATE
    if draw is draw_gaussian:
        # Neighbours too: the last digit in the factor k of the convolution is even.
        k = math.ceil(2 * sigma / 8192)
        counts = np.bincount(drawn % k, minlength=k) if k < 100 else np.bincount(drawn % k * 50 // k)
        assert stats.chisquare(counts[counts > 0]).pvalue > RATE or k >= 100


@given(st.floats(8192.01, 2.0**23))
def test_a_large_gaussian_is_made_of_two_that_fit(sigma):
    """The parts' parameters: their squares add up, and the fine one is three factors wide (2^-250)."""
    asked = []

    def note(parameter):
        asked.append(parameter)
        return gaussian_table(3.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samplers, "gaussian_table", note)
        discrete_gaussian(SeededBits(0), sigma, 1)
    coarse, fine = asked
    k = math.ceil(sigma / 4096)
    assert fine == 3 * k <= 8192
    assert 1000 < coarse <= 8192
    assert math.hypot(fine, k * coarse) == pytest.approx(sigma, rel=1e-12)


@pytest.mark.parametrize("draw", [draw_gaussian, draw_skellam])
def test_moments(draw):
    """Mean and variance of 500,000 draws within 4.9 errors each; 5 % more deviation is 70 errors away."""
    sigma, n = 50.0, 500_000
    drawn = draw(sigma, n)
    assert abs(drawn.mean()) < 4.9 * sigma / math.sqrt(n)
    error = sigma**2 * math.sqrt((2 + 1 / sigma**2) / n)
    assert abs(drawn.var() - sigma**2) < 4.9 * error
    assert (1.05**2 - 1) * sigma**2 > 50 * error
    assert abs(stats.skew(drawn)) < 4.9 * math.sqrt(6 / n)
    assert abs(stats.kurtosis(drawn) - (1 / sigma**2 if draw is draw_skellam else 0)) < 4.9 * math.sqrt(
        24 / n
    )


@pytest.mark.parametrize(("draw", "chances"), KINDS)
def test_tails_are_neither_cut_nor_fat(draw, chances):
    """Beyond 4 deviations lie 63 of 10^6 draws: a Poisson count at 1e-6; 20 % of sigma off fails."""
    sigma, n = 30.0, 1_000_000
    edge = int(4 * sigma)
    wanted = n * (1 - chances(sigma, np.arange(-edge, edge + 1)).sum())

    def beyond(drawn):
        seen = int(np.count_nonzero(np.abs(drawn) > edge))
        return min(stats.poisson.cdf(seen, wanted), stats.poisson.sf(seen - 1, wanted))

    assert beyond(draw(sigma, n)) > RATE
    assert beyond(draw(sigma * 1.2, n)) < RATE
    assert beyond(draw(sigma * 0.8, n)) < RATE


def test_calls_blocks_and_neighbours_are_independent():
    """Correlations of 200,000 pairs within 4.9 errors; a stream that repeats has correlation 1."""
    bits, n = SeededBits(3), 200_000
    first, second = skellam(bits, 900.0, n), skellam(bits, 900.0, n)
    other = skellam(SeededBits(4), 900.0, n)
    pairs = [(first, second), (first, other), (first[1:], first[:-1]), (first[65536:], first[:-65536])]
    pairs.append((np.abs(first[1:]), np.abs(first[:-1])))
    for a, b in pairs:
        assert abs(np.corrcoef(a, b)[0, 1]) < 4.9 / math.sqrt(len(a))
    np.testing.assert_array_equal(skellam(SeededBits(3), 900.0, n), first)


class Written:
    """Words as they were written down."""

    private = False

    def __init__(self, *parts):
        self.parts = [np.asarray(part, "<u4") for part in parts]

    def words(self, n):
        part = self.parts.pop(0)
        assert len(part) == n
        return part


def drawn_from(table, u):
    """What the sampler makes of the 128 bits u, given to it as it asks for them."""
    cell = (u >> 112) & 0xFFFF
    place = int(np.flatnonzero(table.cells == cell)[0])
    more, last = (u >> 48) & (2**64 - 1), (u & (2**48 - 1)) << 16
    script = Written([place], [more & 0xFFFFFFFF, more >> 32], [last & 0xFFFFFFFF, last >> 32])
    out = np.empty(1, np.int32)
    samplers._draw(table, script, out)
    return int(out[0]), 3 - len(script.parts)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "of"), [(gaussian_table, 3.0), (skellam_table, 6e4), (gaussian_table, 8192.0)]
)
def test_draws_are_decided_by_the_last_bit_of_a_threshold(kind, of):
    table = kind(of)
    found = [(int(high) << 64) | int(low) for high, low in zip(table.high, table.low, strict=True)]
    rng = np.random.default_rng(0)
    for i in {0, len(found) // 2, *rng.integers(0, len(found), 40).tolist()}:
        for u in (found[i] - 1, found[i], found[i] + 1):
            assert drawn_from(table, u)[0] == table.first + bisect.bisect_right(found, u)
    assert drawn_from(table, found[len(found) // 2])[1] == 3


@pytest.mark.slow
@settings(deadline=None)
@given(st.integers(0, 2**128 - 1), st.sampled_from([0.5, 20.0, 700.0, 4000.0]))
def test_any_128_bits_are_drawn_as_inversion_says(u, sigma):
    table = gaussian_table(sigma)
    assert drawn_from(table, u)[0] == table.exact(u)


def test_the_same_key_gives_the_same_noise_for_ever():
    """Golden: both ends of XNoise must make these numbers, on every machine and version."""
    key = bytes(range(16))
    assert skellam(KeyedBits(key, "test"), 1e4, 6).tolist() == [-41, -76, 18, -86, -129, -51]
    assert discrete_gaussian(KeyedBits(key, "test"), 100.0, 6).tolist() == [-41, -76, 18, -86, -129, -51]
    assert int(skellam(KeyedBits(key, "test"), 1e6, 200_000).sum()) == -286547


def test_noise_is_added_alike_to_every_kind_of_whole_number():
    wanted = skellam(SeededBits(1), 400.0, 70_001)
    for kind in (np.int32, np.int64, np.uint32):
        vector = np.full(70_001, 3, kind)
        add_skellam(SeededBits(1), 400.0, vector)
        np.testing.assert_array_equal(
            (vector - np.asarray(3, kind)).astype(np.uint32), wanted.astype(np.uint32)
        )
    with pytest.raises(ValueError, match="whole numbers, not to float64"):
        add_skellam(SeededBits(1), 1.0, np.zeros(3))


def test_no_deviation_is_no_noise():
    assert (
        skellam(SeededBits(1), 0.0, 5).tolist()
        == [0] * 5
        == discrete_gaussian(SeededBits(1), 0.0, 5).tolist()
    )
    assert skellam(SeededBits(1), 5.0, 0).shape == (0,)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf"), 1e20, -0.5])
def test_deviations_that_are_none_are_refused(bad):
    with pytest.raises(ValueError, match="sigma"):
        discrete_gaussian(SeededBits(1), bad, 3)
    with pytest.raises(ValueError, match="Skellam variance"):
        skellam(SeededBits(1), bad, 3)
    with pytest.raises(ValueError, match="draws is 0 or more"):
        skellam(SeededBits(1), 1.0, -1)
