"""The distributed mechanism: norms that hold for any input, sums that do not wrap, noise that is there."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from carpool.privacy.dp import skellam
from carpool.privacy.dp.randomness import SeededBits, SystemBits
from carpool.privacy.dp.skellam import Plan, decode, encode, quantised
from carpool.privacy.errors import VehicleError

ROTATION = bytes(range(16))
FLOATS = st.floats(-(2.0**60), 2.0**60, width=32) | st.floats(width=32, allow_nan=False, allow_infinity=False)


def within(plan, whole):
    """Whether whole numbers keep every promise of the plan."""
    numbers = whole.astype(object) if plan.size < 3000 else whole.astype(np.int64)
    return (
        (numbers * numbers).sum() <= plan.l2_squared
        and np.abs(whole).sum() <= plan.l1
        and np.abs(whole).max() <= plan.levels
    )


def ring_sum(plan, rings):
    total = np.zeros(plan.padded, np.uint32)
    for ring in rings:
        total += ring
    return total & np.uint32(2**plan.bits - 1)


def spread(n, size, norm, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((n, size)).astype(np.float32)
    return (vectors * (norm / np.linalg.norm(vectors, axis=1, keepdims=True))).astype(np.float32)


@pytest.mark.slow
@settings(deadline=None)
@given(
    st.integers(1, 1500).flatmap(lambda size: arrays(np.float32, size, elements=FLOATS)),
    st.sampled_from([1e-9, 0.5, 1.0, 1e9]),
    st.sampled_from([16, 24, 32]),
    st.integers(0, 99),
)
@example(np.full(7, 1e-44, np.float32), 1e-9, 32, 0)
@example(np.full(7, 3e18, np.float32), 1.0, 32, 0)
@example(np.zeros(1, np.float32), 1.0, 16, 0)
def test_whatever_a_vehicle_has_its_numbers_keep_the_norms(vector, clip, bits, seed):
    plan = Plan(len(vector), clip, 1.0, 20, 25, bits)
    try:
        whole = quantised(plan, vector, ROTATION, SeededBits(seed))
    except VehicleError:
        assert np.linalg.norm(vector.astype(np.float64)) > 1e19
        return
    assert whole.dtype == np.int32
    assert within(plan, whole)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_a_vector_that_is_none_is_the_vehicles_fault(value):
    plan = Plan(4, 1.0, 1.0, 2, 3)
    bad = np.array([0, value, 0, 0], np.float32)
    for half in (quantised, encode):
        with pytest.raises(VehicleError, match="NaN or Inf"):
            half(plan, bad, ROTATION, SeededBits(0))
    for other in (
        np.full(4, 1e200),
        np.zeros(4, np.int64),
        np.zeros(5, np.float32),
        np.zeros(8, np.float32)[::2],
    ):
        with pytest.raises(VehicleError):
            encode(plan, other, ROTATION, SeededBits(0))


def test_denormal_and_zero_vectors_are_zeros_with_noise():
    plan = Plan(300, 1.0, 1.0, 2, 3)
    for vector in (np.zeros(300, np.float32), np.full(300, 1e-45, np.float32)):
        assert not quantised(plan, vector, ROTATION, SeededBits(1)).any()
        assert encode(plan, vector, ROTATION, SeededBits(1)).any()


@pytest.mark.slow
@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 12), st.sampled_from([16, 24, 32]), st.integers(0, 99))
def test_the_decoded_sum_is_the_clipped_sum_within_its_rounding(size, n, bits, seed):
    plan = Plan(size, 2.0, 0.5, n, n, bits)
    vectors = spread(n, size, 3.0, seed)
    total = ring_sum(
        plan, [quantised(plan, v, ROTATION, SeededBits(k)).view(np.uint32) for k, v in enumerate(vectors)]
    )
    error = decode(plan, total, ROTATION).astype(np.float64) - vectors.sum(0) * (2 / 3)
    # Rounding: at most 1/4 squared step a number and vehicle; five deviations, and float32's own error.
    assert np.linalg.norm(error) <= 5 * plan.step * math.sqrt(n * plan.padded / 4) + 1e-4 * n


@pytest.mark.parametrize("rotation", [ROTATION, bytes(16)])
def test_a_spike_comes_back(rotation):
    plan = Plan(2500, 1.0, 1.0, 10, 10, 24)
    spike = np.zeros(2500, np.float32)
    spike[2499] = -1
    back = decode(plan, quantised(plan, spike, rotation, SeededBits(0)).view(np.uint32), rotation)
    assert np.abs(back - spike).max() < 6 * plan.step


def test_rounding_is_unbiased_and_a_step_in_twenty_more_is_seen():
    """The mean error of 2^18 roundings, in 4.9 of their deviations (false positives 1e-6)."""
    plan = Plan(1 << 18, 1.0, 1.0, 100, 100)
    vector = spread(1, plan.size, 0.9)[0]
    exact = (vector * np.resize(skellam.signs(ROTATION, plan.block, plan.reach), plan.size)).astype(
        np.float32
    )
    skellam.hadamard_blocks(exact, plan.block)
    error = quantised(plan, vector, ROTATION, SeededBits(5)) - exact / math.sqrt(plan.block)
    limit = 4.9 * error.std() / math.sqrt(len(error))
    assert 0.25 < error.std() < 0.5
    assert abs(error.mean()) < limit < 0.05


class Upwards:
    """Words that round everything up: the worst that chance can do."""

    private = False

    def words(self, n):
        return np.full(n, 2**32 - 1, np.uint32)


def test_rounding_that_breaks_the_norm_is_tried_again_then_done_towards_zero(monkeypatch):
    monkeypatch.setattr(skellam, "TRIES", 2)
    plan = Plan(1 << 19, 1.0, 1.0, 100, 100)
    vector, tries = spread(1, plan.size, 1.0)[0], []
    rounded = skellam._rounded
    monkeypatch.setattr(skellam, "_rounded", lambda *given: tries.append(rounded(*given)) or tries[-1])
    whole = quantised(plan, vector, ROTATION, Upwards())
    assert len(tries) == 3
    assert min(tries[:2]) > plan.l2_squared >= tries[2]
    assert within(plan, whole)


def test_nothing_is_sent_that_breaks_its_norm(monkeypatch):
    monkeypatch.setattr(skellam, "_rounded", lambda plan, *_: plan.l2_squared + 1)
    with pytest.raises(VehicleError, match="could not be rounded within its bound"):
        quantised(Plan(4, 1.0, 1.0, 2, 3), np.ones(4, np.float32), ROTATION, SeededBits(0))


def test_the_squared_norm_is_exact_beyond_float64():
    part = np.full(1 << 15, (1 << 23) - 1, np.int32)
    assert skellam._squares(part, np.empty(1 << 15)) == (1 << 15) * ((1 << 23) - 1) ** 2


@pytest.mark.slow
@given(
    st.integers(1, 10**7),
    st.floats(0.01, 30),
    st.integers(1, 5000),
    st.floats(0.3, 1),
    st.sampled_from([16, 24, 32]),
)
def test_a_plan_never_wraps_and_is_as_fine_as_it_may_be(size, z, most, share, bits):
    try:
        plan = Plan(size, 1.0, z, max(1, int(share * most)), most, bits)
    except ValueError as refused:
        assert "use more bits, ask fewer vehicles" in str(refused)
        return

    def taken(reach):
        return most * plan._levels(plan.block, reach) + 8 * math.sqrt(most * (plan._variance(reach) + 0.25))

    assert taken(plan.reach) < 2 ** (bits - 1)
    enough = plan.reach == plan._enough(plan.block)
    assert enough or taken(plan.reach + 1) >= 2 ** (bits - 1) or plan._variance(plan.reach + 1) > 2**32
    assert plan.padded % plan.block == 0
    assert size <= plan.padded < size + plan.block
    assert plan.reach <= plan.l2 <= skellam.INFLATION * plan.reach
    assert plan.l2 <= plan.l1
    assert plan.l2_squared <= plan.reach**2 + plan.padded / 4 + plan.reach + math.sqrt(plan.padded) / 2
    if enough:
        assert plan.l2 < 1.0007 * plan.reach


def test_everybody_at_the_bound_does_not_wrap():
    plan = Plan(1, 1.0, 1.0, 100, 100, 16)
    assert plan.levels == plan.reach
    for sign in (1, -1):
        one = quantised(plan, np.array([sign], np.float32), bytes(16), SeededBits(0)).view(np.uint32)
        assert decode(plan, (100 * one) & np.uint32(0xFFFF), bytes(16))[0] == pytest.approx(
            100 * sign, rel=1e-6
        )


@pytest.mark.parametrize("sign", [1, -1])
def test_a_vector_made_against_the_rotation_is_clamped(sign):
    """Equal to the signs, it becomes one coordinate of the whole norm, which chance alone never does."""
    plan = Plan(1024, 1.0, 1.0, 10, 10)
    worst = sign * skellam.signs(ROTATION, 1024, 1 / 32)
    whole = quantised(plan, worst, ROTATION, SeededBits(0))
    assert plan.levels < plan.reach / 3
    assert whole[0] == sign * plan.levels
    assert within(plan, whole)


def test_the_bound_is_that_of_kairouz_et_al():
    plan = Plan(10**6, 1.0, 1.0, 1000, 1000)
    assert plan.l2_squared == 16_004**2 + 1_000_448 // 4 + 16_004 + 500
    assert plan.l1 == math.isqrt(1_000_448 * plan.l2_squared) + 1


def test_fewer_bits_take_larger_blocks_or_coarser_steps():
    wide, narrow = Plan(10**6, 1.0, 1.0, 1000, 1000, 32), Plan(10**6, 1.0, 1.0, 1000, 1000, 16)
    assert (wide.block, wide.padded, wide.reach) == (1024, 1_000_448, 16_004)
    assert narrow.block > wide.block
    assert narrow.reach < wide.reach
    assert Plan(20_000, 1.0, 1.0, 800, 1000, 24).padded == 20_480


@pytest.mark.slow
def test_the_noise_of_a_sum_is_what_the_event_says():
    """Variance of 4 vehicles' noise over 2^17 numbers within 4.9 deviations; 5 % less of it fails."""
    plan, rotation = Plan(1 << 17, 1.0, 1.3, 4, 4), ROTATION
    zero = np.zeros(plan.size, np.float32)
    total = ring_sum(plan, [encode(plan, zero, rotation, SeededBits(k)) for k in range(4)])
    whole = total.view(np.int32).astype(np.float64)
    wanted = 4 * plan.variance
    assert plan.target == pytest.approx(wanted)
    error = wanted * math.sqrt(2 / plan.padded)
    assert abs((whole**2).mean() - wanted) < 4.9 * error < 0.05 * wanted
    assert decode(plan, total, rotation).std() == pytest.approx(1.3, rel=0.02)
    event = plan.event(wanted)
    assert event.mechanism == "skellam"
    assert event.noise_multiplier == pytest.approx(1.3)
    assert event.step == 1 / plan.reach
    assert event.sensitivity * plan.reach == pytest.approx(math.sqrt(plan.l2_squared))
    assert event.l1 == plan.l1
    assert plan.event(0.75 * wanted).noise_multiplier == pytest.approx(1.3 * math.sqrt(0.75))


def test_noise_is_of_the_size_at_every_width():
    for bits in (16, 24, 32):
        plan = Plan(5000, 1.0, 1.0, 10, 20, bits)
        zero = np.zeros(5000, np.float32)
        ring = encode(plan, zero, ROTATION, SystemBits("test"))
        assert ring.max() < 2**bits
        noisy = decode(plan, ring, ROTATION)
        # 4.9 deviations of an estimate from 5,000: 5 %.
        assert noisy.std() == pytest.approx(math.sqrt(1 / 10), rel=0.05)


def test_a_plan_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="16 bits hold the sum of 5000 vehicles .* use more bits"):
        Plan(10**6, 1.0, 8.0, 4000, 5000, 16)
    for bad in ({"bits": 20}, {"honest": 0}, {"honest": 11}, {"size": 0}):
        with pytest.raises(ValueError, match="at least 1 honest"):
            Plan(**{"size": 9, "clip_norm": 1.0, "noise_multiplier": 1.0, "honest": 9, "most": 10} | bad)
    for bad in (0.0, -1.0, math.nan, math.inf, 1e200):
        with pytest.raises(ValueError, match="1e-12 to 1e12"):
            Plan(9, bad, 1.0, 9, 10)
        with pytest.raises(ValueError, match="1e-6 to 1e6"):
            Plan(9, 1.0, bad, 9, 10)
    for bad in (0.5, math.nan, math.inf):
        with pytest.raises(ValueError, match="a spread"):
            Plan(9, 1.0, 1.0, 9, 10, spread=bad)
    plan = Plan(9, 1.0, 1.0, 9, 10)
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="its variance is above 0"):
            plan.event(bad)
    with pytest.raises(ValueError, match="a sum is uint32"):
        decode(plan, np.zeros(9, np.uint32), ROTATION)
    with pytest.raises(ValueError, match="a sum is uint32"):
        decode(plan, np.zeros(plan.padded, np.int64), ROTATION)


def test_room_is_kept_for_what_others_add():
    plain = Plan(10**5, 1.0, 1.0, 2000, 4000, 16)
    assert Plan(10**5, 1.0, 1.0, 2000, 4000, 16, spread=2.0).reach < plain.reach
    assert Plan(10**5, 1.0, 1.0, 2000, 4000, 16, extra=160.0).reach < plain.reach
