"""XNoise: what is taken off is what was added, and what stays is the target or more, whoever leaves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool.privacy.dp.noise_shares import component, part_variances, remaining, take_off, vehicle_noise
from carpool.privacy.dp.randomness import KeyedBits, SeededBits
from carpool.privacy.dp.samplers import skellam
from carpool.privacy.secagg.noise_levels import boundaries, revealed, shares

S = 40_000.0


def seeds(vehicle, count):
    return [bytes([vehicle, k]) * 8 for k in range(count)]


@pytest.mark.slow
@given(st.integers(2, 300), st.floats(0, 0.6), st.integers(1, 16), st.data())
def test_with_the_revealed_parts_off_the_target_stays_for_every_planned_loss(roster, delta, extras, data):
    parts, planned = shares(roster, delta, extras), boundaries(roster, delta, extras)[-1]
    lost = data.draw(st.integers(0, planned))
    off = revealed(roster, roster - lost, delta, extras)
    left = remaining(S, parts, roster - lost, off)
    assert left >= S * (1 - 1e-12)
    if lost < planned and off:  # one part more, and it would not be enough
        assert (
            remaining(S, parts, roster - lost, (off[0] - 1, *off) if off[0] > 1 else off) < S or off[0] == 1
        )
    # The next vehicle that leaves takes noise that nobody planned for.
    assert remaining(S, parts, roster - planned - 1, ()) < S


def test_a_round_ends_with_the_target_in_the_sum():
    """Six vehicles, one lost, two components taken off; variance within 4.9 deviations, 5 % less fails."""
    roster, d, delta, extras = 6, 60_000, 0.5, 3
    parts = shares(roster, delta, extras)
    off, counted = revealed(roster, 5, delta, extras), range(5)
    assert off == (2, 3)
    total = np.zeros(d, np.uint32)
    for vehicle in counted:
        noise = vehicle_noise(S, parts, seeds(vehicle, 3), SeededBits(vehicle), d)
        total += noise.astype(np.uint32)
    before = total.view(np.int32).astype(float)
    assert before.var() == pytest.approx(remaining(S, parts, 5, ()), rel=0.05)
    variances = part_variances(S, parts)
    for vehicle in counted:
        for k in off:
            take_off(total, seeds(vehicle, 3)[k - 1], variances[k])
    whole, left = total.view(np.int32).astype(float), remaining(S, parts, 5, off)
    assert left == pytest.approx(S)
    error = left * math.sqrt(2 / d)
    assert abs((whole**2).mean() - left) < 4.9 * error < 0.05 * left


def test_the_noise_is_the_base_and_its_components_exactly():
    parts, keys = (0.1, 0.02, 0.03), seeds(1, 2)
    noise = vehicle_noise(S, parts, keys, KeyedBits(bytes(16), "base"), 1000)
    base = skellam(KeyedBits(bytes(16), "base"), part_variances(S, parts)[0], 1000)
    pairs = zip(keys, part_variances(S, parts)[1:], strict=True)
    made = [component(key, variance, 1000) for key, variance in pairs]
    np.testing.assert_array_equal(noise, base + made[0] + made[1])
    assert noise.dtype == np.int64


@pytest.mark.slow
@given(st.binary(min_size=16, max_size=16), st.floats(0.01, 1e6), st.integers(0, 300))
def test_taking_off_undoes_adding_in_the_ring(seed, variance, d):
    start = np.arange(d, dtype=np.uint32) * np.uint32(2_654_435_761)
    total = start + component(seed, variance, d).astype(np.uint32)
    take_off(total, seed, variance)
    np.testing.assert_array_equal(total, start)


def test_another_seed_or_variance_is_other_noise():
    one = component(bytes(16), 1e4, 50)
    assert not np.array_equal(one, component(bytes(15) + b"1", 1e4, 50))
    assert not np.array_equal(one, component(bytes(16), 1.1e4, 50))


def test_seeds_and_shares_that_cannot_be_are_refused():
    bits, parts = SeededBits(0), (0.1, 0.02, 0.03)
    for keys in ([], seeds(1, 1), seeds(1, 3), [bytes(16)] * 2):
        with pytest.raises(ValueError, match="2 components need as many seeds"):
            vehicle_noise(S, parts, keys, bits, 5)
    with pytest.raises(ValueError, match="16 bytes, not 3"):
        component(b"abc", 1.0, 5)
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="a total variance of"):
            part_variances(bad, parts)
    for bad in ((), (0.1, -0.1), (math.nan,), (math.inf,)):
        with pytest.raises(ValueError, match="in shares"):
            part_variances(S, bad)
    for removed in ((0,), (3,)):
        with pytest.raises(ValueError, match="without the components"):
            remaining(S, parts, 3, removed)
