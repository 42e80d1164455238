"""Adaptive clipping: the paper's formulas, one joint bound for vectors and bit, and where the norm ends."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carpool.privacy.dp.accounting import strength
from carpool.privacy.dp.adaptive import BIT, Split, next_clip, noisy_fraction, with_bit
from carpool.privacy.dp.central import CentralPlan
from carpool.privacy.dp.events import Event
from carpool.privacy.dp.grid import STEPS, Grid
from carpool.privacy.dp.joint import clip_jointly
from carpool.privacy.dp.randomness import SeededBits
from carpool.privacy.errors import RoundError, VehicleError

SPLITS = st.floats(1e-3, 1e3).flatmap(
    lambda z: st.floats(z / math.sqrt(3) * 1.0001, 8192 * z).map(lambda bits_noise: Split(z, bits_noise))
)


def test_the_paper_s_split_by_hand():
    """z = 1 and a cohort of 100, noise 5 on the count: (1 - 1/100)^(-1/2)."""
    split = Split(1.0, 5.0)
    assert split.delta_noise == pytest.approx(1 / math.sqrt(0.99))
    assert Split(2.0, 2.0).delta_noise == pytest.approx((1 / 4 - 1 / 16) ** -0.5)


@given(SPLITS, st.floats(1e-3, 1e3))
def test_one_joint_mechanism_has_the_noise_and_the_price_of_both(split, clip_norm):
    """Theorem 1: noise z on the joint norm is delta_noise on C and bits_noise on the count."""
    z = split.noise_multiplier
    parts = [Event("gaussian", split.delta_noise), Event("gaussian", 2 * split.bits_noise)]
    assert strength(parts, "zero-out") == pytest.approx(1 / z)
    std = CentralPlan(split.joint_norm(clip_norm), z, {"a": 1, BIT: 1}, 1).noise_std
    assert std == pytest.approx(split.delta_noise * clip_norm)
    assert std / (2 * split.bit(clip_norm)) == pytest.approx(split.bits_noise)
    assert math.hypot(clip_norm, split.bit(clip_norm)) == pytest.approx(split.joint_norm(clip_norm))


@settings(deadline=None, max_examples=25)
@given(SPLITS, st.floats(1e-9, 1e9), st.floats(1e-12, 1e12), st.integers(0, 99))
def test_vectors_with_their_bit_always_keep_the_joint_bound(split, clip_norm, length, seed):
    vector = np.random.default_rng(seed).standard_normal(9)
    vectors = {"a": (vector * (length / np.linalg.norm(vector))).astype(np.float32)}
    clipped, was = clip_jointly(vectors, clip_norm)
    grid = Grid({"a": 9, BIT: 1}, split.joint_norm(clip_norm))
    whole = grid.whole(with_bit(clipped, was, clip_norm, split))
    assert sum(int(step) ** 2 for step in whole) <= STEPS**2
    bit = int(whole[grid.slices[BIT]][0])
    assert (bit < 0) == was
    assert abs(bit) == pytest.approx(
        STEPS * split.bit(clip_norm) / split.joint_norm(clip_norm),
        rel=1e-4,
        abs=1.2,  # truncated, and a part in 2^19 smaller
    )


def mechanism_round(norms, clip_norm, split, cohort, seed):
    """A round in which vehicles of these update norms reply; returns the noisy fraction."""
    plan = CentralPlan(split.joint_norm(clip_norm), split.noise_multiplier, {"a": 2, BIT: 1}, cohort)
    total = plan.begin()
    for norm in norms:
        vectors, clipped = clip_jointly({"a": np.array([norm, 0], np.float32)}, clip_norm)
        total.add(with_bit(vectors, clipped, clip_norm, split))
    bits = float(plan.sums(total, SeededBits(seed))[BIT][0])
    return noisy_fraction(bits, clip_norm, split, cohort)


@pytest.mark.slow
def test_the_fraction_is_that_of_unclipped_contributions():
    """100 vehicles, 30 of them below the norm, noise of 1 vehicle on the count: within 4.9 deviations."""
    split = Split(0.1, 1.0)
    norms = [0.5] * 30 + [2.0] * 70
    found = [mechanism_round(norms, 1.0, split, 100, seed) for seed in range(40)]
    assert all(abs(fraction - 0.3) < 4.9 / 100 for fraction in found)
    assert abs(np.mean(found) - 0.3) < 4.9 / 100 / math.sqrt(40)
    assert 0.004 < np.std(found) < 0.02


def test_lost_replies_pull_the_fraction_towards_one_half():
    """The denominator is the planned cohort: of 100 asked, 50 reply, all unclipped: 1/2 + 1/4."""
    fraction = mechanism_round([0.1] * 50, 1.0, Split(0.01, 0.1), 100, 0)
    assert fraction == pytest.approx(0.75, abs=0.01)


def test_a_step_by_hand():
    """All clipped, gamma = 1/2, eta = 0.2: C grows by e^0.1; none clipped: it shrinks by as much."""
    assert next_clip(2.0, 0.0) == pytest.approx(2 * math.exp(0.1))
    assert next_clip(2.0, 1.0) == pytest.approx(2 * math.exp(-0.1))
    assert next_clip(2.0, 0.9, target=0.9, rate=3.0) == 2.0


@pytest.mark.parametrize("target", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("start", [0.1, 50.0])
def test_without_noise_the_norm_ends_at_the_quantile(target, start):
    norms = np.random.default_rng(5).lognormal(0.5, 0.7, 10_001)
    clip_norm = start
    for _ in range(400):
        clip_norm = next_clip(clip_norm, float((norms <= clip_norm).mean()), target=target)
    assert clip_norm == pytest.approx(np.quantile(norms, target), rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("target", [0.25, 0.5, 0.75])
def test_with_noise_the_norm_stays_about_the_quantile(target):
    """60 vehicles a round with the paper's cohort / 20 of noise on the count, through the whole mechanism."""
    rng, split, clip_norm, seen = np.random.default_rng(6), Split(1.0, 3.0), 0.1, []
    for round_ in range(150):
        fraction = mechanism_round(rng.lognormal(0.5, 0.7, 60), clip_norm, split, 60, round_)
        clip_norm = next_clip(clip_norm, fraction, target=target)
        seen.append(clip_norm)
    reached = np.mean(np.log(seen[-60:]))
    # The part of a lognormal below exp(reached).
    part = 0.5 * (1 + math.erf((reached - 0.5) / 0.7 / math.sqrt(2)))
    assert part == pytest.approx(target, abs=0.05)


@pytest.mark.parametrize("bits_noise", [0.0, 0.5, 0.577, 8193.0, -5.0, math.nan, math.inf])
def test_too_little_or_too_much_noise_on_the_bits_is_refused_with_what_would_do(bits_noise):
    with pytest.raises(ValueError, match=r"use 0\.5774 to 8192"):
        Split(1.0, bits_noise)


def test_at_the_least_noise_on_the_bits_that_on_the_vectors_doubles():
    assert Split(3.0, 3.0 / math.sqrt(3)).delta_noise == pytest.approx(6.0)


def test_hostile_values():
    split = Split(1.0, 5.0)
    with pytest.raises(RoundError, match="void"):
        noisy_fraction(math.nan, 1.0, split, 10)
    with pytest.raises(VehicleError, match="rename"):
        with_bit({BIT: np.zeros(1, np.float32)}, True, 1.0, split)
    for step in ((0.0, 0.5), (1.0, math.nan), (1.0, math.inf), (math.inf, 0.5)):
        with pytest.raises(ValueError, match="use"):
            next_clip(*step)
    with pytest.raises(ValueError, match="rate"):
        next_clip(1.0, 0.5, rate=0.0)
    with pytest.raises(ValueError, match="target"):
        next_clip(1.0, 0.5, target=1.5)


def test_the_norm_stays_where_a_plan_can_be_made():
    for fraction, rate in ((1e30, 1e30), (-1e30, 1e30)):
        clip_norm = 1.0
        for _ in range(5):
            clip_norm = next_clip(clip_norm, fraction, rate=rate)
        split = Split(1.0, 0.58)
        CentralPlan(split.joint_norm(clip_norm), 1.0, {BIT: 1}, 1)
