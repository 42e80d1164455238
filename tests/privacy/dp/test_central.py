"""The central mechanism: whose difference one contribution makes, and the noise on every number.

Statistics are at a false-positive rate of 1e-6 each (noises.py), with words from a seed or from the system.
"""

import math
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carpool.privacy.dp.accounting import epsilon
from carpool.privacy.dp.central import CentralPlan
from carpool.privacy.dp.grid import STEPS, GridSum
from carpool.privacy.dp.joint import clip_jointly
from carpool.privacy.dp.randomness import SeededBits, SystemBits
from carpool.privacy.errors import RoundError, VehicleError
from tests.privacy.dp.noises import fits, related, shape_p, width_p

SIZES = {"delta": 6, "control": 4, "loss": 1}
PLAN = CentralPlan(clip_norm=0.7, noise_multiplier=1.3, sizes=SIZES, denominator=40)
WIDE = CentralPlan(clip_norm=0.01, noise_multiplier=1.3, sizes={"a": 60_000, "b": 30_000}, denominator=40)


def contribution(seed, plan=PLAN, length=3.0):
    rng = np.random.default_rng(seed)
    made = {n: (length * rng.standard_normal(size)).astype(np.float32) for n, size in plan.sizes.items()}
    return clip_jointly(made, plan.clip_norm)[0]


def summed(contributions, plan=PLAN):
    total = plan.begin()
    for one in contributions:
        total.add(one)
    return total


def joined(vectors):
    return np.concatenate([vectors[name].astype(np.float64) for name in sorted(vectors)])


def noise_of(plan, bits):
    return plan.sums(plan.begin(), bits)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32), st.integers(0, 5), st.sampled_from([0.0, 1e-30, 0.1, 1.0, 1e9]))
def test_one_contribution_moves_a_sum_by_at_most_the_clip_norm(seed, others, length):
    """The same noise on neighbouring cohorts, in float64 and exactly on the grid: C, or 2 C for replaced."""
    rest = [contribution(seed + 1 + k) for k in range(others)]
    cohorts = [rest, [*rest, contribution(seed, length=length)], [*rest, contribution(seed + 99)]]
    without, with_it, replaced = (summed(cohort) for cohort in cohorts)
    exact = [total.take() for total in (without, with_it, replaced)]
    assert sum(int(x) ** 2 for x in exact[1] - exact[0]) <= STEPS**2
    assert sum(int(x) ** 2 for x in exact[2] - exact[1]) <= 4 * STEPS**2
    released = [joined(PLAN.sums(summed(cohort), SeededBits(seed))) for cohort in cohorts]
    assert np.linalg.norm(released[1] - released[0]) <= PLAN.clip_norm * (1 + 1e-5)
    assert np.linalg.norm(released[2] - released[1]) <= 2 * PLAN.clip_norm * (1 + 1e-5)


def test_a_release_is_the_exact_sum_its_noise_and_a_public_constant():
    cohort = [contribution(seed) for seed in range(5)]
    sums, mean = PLAN.sums(summed(cohort), SeededBits(4)), PLAN.release(summed(cohort), SeededBits(4))
    noise = noise_of(PLAN, SeededBits(4))
    for name in SIZES:
        assert sums[name].dtype == np.float32
        wanted = sum(one[name].astype(np.float64) for one in cohort)
        assert sums[name] - noise[name] == pytest.approx(wanted, abs=1e-5)
        assert mean[name] == pytest.approx(sums[name] / 40, rel=1e-6)


def test_the_denominator_does_not_know_how_many_replied():
    mean = PLAN.release(summed([contribution(0)]), SeededBits(4))
    assert mean["delta"] == pytest.approx(PLAN.sums(summed([contribution(0)]), SeededBits(4))["delta"] / 40)


def test_a_masked_sum_is_released_as_the_plain_one():
    cohort = [contribution(seed) for seed in range(5)]
    ring = np.zeros(PLAN.grid.size, np.uint32)
    for one in cohort:
        ring += PLAN.grid.whole(one).view(np.uint32)
    plain, masked = PLAN.sums(summed(cohort), SeededBits(4)), PLAN.sums(ring, SeededBits(4))
    assert all(np.array_equal(plain[name], masked[name]) for name in SIZES)
    with pytest.raises(RoundError, match="masked sum"):
        PLAN.sums(ring[:-1], SeededBits(4))


def test_what_is_not_clipped_does_not_get_in():
    total = PLAN.begin()
    with pytest.raises(VehicleError, match="clip it first"):
        total.add({name: np.ones(size, np.float32) for name, size in SIZES.items()})


@pytest.mark.parametrize("sizes", [{"delta": 6, "control": 4}, {**SIZES, "delta": 7}, {"all": 11}])
def test_a_sum_of_another_form_is_refused(sizes):
    with pytest.raises(RoundError, match="begin it with this plan"):
        PLAN.sums(GridSum(sizes, 0.7), SeededBits(0))
    with pytest.raises(RoundError, match="begin it with this plan"):
        PLAN.sums(GridSum(SIZES, 0.7000001), SeededBits(0))


def test_a_sum_is_released_once():
    total = summed([contribution(0)])
    PLAN.release(total, SeededBits(0))
    with pytest.raises(RoundError, match="released once"):
        PLAN.release(total, SeededBits(1))


@pytest.mark.parametrize("denominator", [0, -1, math.nan, math.inf])
def test_a_denominator_that_cannot_be_meant(denominator):
    with pytest.raises(ValueError, match="planned cohort"):
        CentralPlan(1.0, 1.0, SIZES, denominator)


@pytest.mark.parametrize(("clip_norm", "noise"), [(0.0, 1.0), (math.nan, 1.0), (1.0, 0.0), (1.0, math.nan)])
def test_norms_and_noise_that_cannot_be_meant(clip_norm, noise):
    with pytest.raises(ValueError, match="use"):
        CentralPlan(clip_norm, noise, SIZES, 10)


def test_what_is_charged():
    plan = CentralPlan(1.0, 1.0, SIZES, 10)
    assert epsilon([plan.event()], 1e-5, "zero-out").epsilon == pytest.approx(4.37718, abs=1e-4)
    five = CentralPlan(1.0, 5.0, SIZES, 10)
    assert epsilon([five.event(rounds=25)], 1e-5, "add-remove").epsilon == pytest.approx(4.37718, abs=1e-4)
    two = CentralPlan(1.0, 2.0, SIZES, 10)
    assert epsilon([two.event(rounds=10)], 1e-5, "replace-one").epsilon == pytest.approx(17.857, abs=1e-3)
    assert plan.event(0.01, 1000).sampling_rate == 0.01


def test_noise_on_every_channel_of_an_empty_sum():
    """Zeros in, noise of z C out, in each block of each channel; 5 % more or less is seen."""
    noise = noise_of(WIDE, SeededBits(7))
    assert pytest.approx(0.013) == WIDE.noise_std
    for vector in (noise["a"][:30_000], noise["a"][30_000:], noise["b"]):
        assert fits(vector, 0.013)
        for wrong in (0.95, 1.05):
            assert width_p(wrong * vector, 0.013) < 1e-6
            assert shape_p(wrong * vector, 0.013) < 1e-6


@pytest.mark.parametrize("noise_multiplier", [0.001, 1.0, 100.0])
def test_noise_of_any_width(noise_multiplier):
    plan = CentralPlan(2.0, noise_multiplier, {"a": 20_000}, 1)
    noise = noise_of(plan, SeededBits(8))["a"]
    assert fits(noise, 2 * noise_multiplier)
    assert not fits(noise, 2 * noise_multiplier * 1.05)


def test_noise_is_not_related_between_channels_or_rounds():
    """Nor with its neighbours; another's noise at a twentieth of its size is seen."""
    bits = SystemBits("test")
    first, second = noise_of(WIDE, bits), noise_of(WIDE, bits)
    a, b = first["a"], first["b"]
    assert not related(a[:30_000], b)
    assert not related(a, second["a"])
    assert not related(a[1:], a[:-1])
    assert not np.array_equal(a[:30_000], b)
    assert related(a, second["a"] + 0.05 * a)


def test_a_restart_does_not_repeat_noise():
    """Killed before the release and started anew, or forked: other noise; a fixed seed would repeat it."""
    bits = SystemBits("noise")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, noise_of(PLAN, bits)["delta"].tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    elsewhere = np.frombuffer(os.read(read, 1 << 12), np.float32)
    os.close(read)
    os.close(write)
    seen = [elsewhere, *(noise_of(PLAN, one)["delta"] for one in (bits, bits, SystemBits("noise")))]
    assert len({vector.tobytes() for vector in seen}) == 4
    repeated = [noise_of(PLAN, SeededBits(1))["delta"] for _ in range(2)]
    assert np.array_equal(*repeated)
