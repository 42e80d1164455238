"""Wide discrete Gaussians: the convolution itself in floats, then the sampler by statistics."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from carpool.privacy.dp import wide
from carpool.privacy.dp.randomness import SeededBits

FALSE_ALARM = 1e-6


@settings(deadline=None, max_examples=60)
@given(st.floats(1e-3, 2.0**55))
def test_layers_add_up_and_overlap(sigma):
    count, ratio, base = wide.layers(sigma)
    assert base <= wide.BASE * (1 + 1e-12)
    assert base * math.sqrt(sum(ratio ** (2 * i) for i in range(count))) == pytest.approx(sigma)
    assert count == 1 or (ratio >= 2 and base / ratio >= wide.SMOOTH)


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf, 2.0**56])
def test_widths_that_are_none(sigma):
    with pytest.raises(ValueError, match="2\\^56"):
        wide.layers(sigma)


def gaussian(sigma):
    k = np.arange(-int(14 * sigma), int(14 * sigma) + 1)
    weight = np.exp(-(k**2) / (2 * sigma**2))
    return k, weight / weight.sum()


@pytest.mark.parametrize(("ratio", "smooth"), [(3, 0.9), (7, 0.8), (5, 0.7)])
def test_the_sum_of_two_layers_is_a_discrete_gaussian(ratio, smooth):
    """In floats the deviation shows only where layers overlap little; the bound holds, and is near."""
    base = ratio * smooth
    low, p = gaussian(base)
    spread = np.zeros(2 * ratio * low[-1] + 1)
    spread[::ratio] = p
    both = np.convolve(spread, p)
    sigma = base * math.sqrt(1 + ratio**2)
    k = np.arange(len(both)) - len(both) // 2
    want = np.exp(-(k**2) / (2 * sigma**2))
    inside = np.abs(k) < 5 * sigma
    off = np.abs(both / (want / want.sum()) - 1)[inside].max()
    inner = base / math.sqrt(1 + ratio**2)  # of the sum over shifts
    bound = 2 * math.exp(-2 * math.pi**2 * inner**2)
    assert bound / 2 < off < 2.1 * bound


def suspicious(values, sigma, ratio):
    """Whether mean, variance or last digit differ from a wide Gaussian's; false alarm 1e-6 in all."""
    n, each = len(values), FALSE_ALARM / 3
    variance = chi2.ppf([each / 2, 1 - each / 2], n) / n
    mean_limit = math.sqrt(chi2.isf(each, 1) / n)
    digits = np.bincount(values % ratio, minlength=ratio)
    uneven = ((digits - n / ratio) ** 2 / (n / ratio)).sum()
    scaled = values / sigma
    return (
        not variance[0] < (scaled**2).mean() < variance[1]
        or abs(scaled.mean()) > mean_limit
        or uneven > chi2.isf(each, ratio - 1)
    )


def test_the_wide_sampler_passes_and_errors_of_5_percent_do_not():
    sigma, n = 2.0**34.3, 40_000
    count, ratio, base = wide.layers(sigma)
    assert count == 4
    values = wide.wide_gaussian(SeededBits(11), sigma, n)
    assert values.dtype == np.int64
    assert not suspicious(values, sigma, ratio)
    assert suspicious(values, sigma * 1.05, ratio)
    assert suspicious(values, sigma / 1.05, ratio)
    assert suspicious(values // ratio * ratio, sigma, ratio)  # the lowest layer forgotten


def test_small_widths_are_one_table():
    assert np.abs(wide.wide_gaussian(SeededBits(1), 3.0, 1000)).max() < 30


def test_every_layer_counts_ratio_times_the_one_below(monkeypatch):
    digits = iter([5, 3, 2, 1])
    monkeypatch.setattr(wide, "discrete_gaussian", lambda bits, base, n: np.full(n, next(digits)))
    count, ratio, _ = wide.layers(2.0**34.3)
    assert count == 4
    made = wide.wide_gaussian(SeededBits(1), 2.0**34.3, 2)
    assert made.tolist() == [5 * ratio**3 + 3 * ratio**2 + 2 * ratio + 1] * 2
