"""The local mechanism: each vehicle's own noise, calibrated exactly; statistics at a rate of 1e-6 each."""

import math

import numpy as np
import pytest

from carpool.privacy.dp.accounting import epsilon
from carpool.privacy.dp.joint import clip_jointly
from carpool.privacy.dp.local import LocalPlan, calibrated
from carpool.privacy.dp.randomness import SeededBits, SystemBits
from carpool.privacy.errors import UsageError, VehicleError
from tests.privacy.dp.noises import fits, related

SIZES = {"delta": 12_000, "loss": 8_000}
PLAN = LocalPlan(0.5, 2.0, SIZES)


def contribution(seed):
    rng = np.random.default_rng(seed)
    return clip_jointly({n: rng.standard_normal(size).astype("f4") for n, size in SIZES.items()}, 0.5)[0]


def test_a_contribution_leaves_with_noise_on_every_channel():
    """Noise of z C; 5 % more or less is seen."""
    one = contribution(0)
    sent = PLAN.noised(one, SeededBits(0))
    assert PLAN.noise_std() == 1.0
    for name in SIZES:
        noise = sent[name] - one[name]
        assert sent[name].dtype == np.float32
        assert fits(noise, 1.0)
        assert not fits(noise, 1.05)
        assert not fits(noise, 0.95)
    assert not related(sent["delta"][:8000], sent["loss"])


def test_a_sum_has_the_noise_of_all():
    one, bits = contribution(0), SystemBits("test")
    sent = [PLAN.noised(one, bits) for _ in range(9)]
    total = np.sum([vectors["delta"] for vectors in sent], axis=0)
    assert PLAN.noise_std(9) == 3.0
    assert fits(total - 9 * one["delta"], 3.0)
    assert not related(sent[0]["delta"] - one["delta"], sent[1]["delta"] - one["delta"])


def test_the_same_noise_shows_a_difference_of_at_most_the_clip_norm():
    sent = PLAN.noised(contribution(1), SeededBits(0))
    zero = PLAN.noised({name: np.zeros(size, np.float32) for name, size in SIZES.items()}, SeededBits(0))
    square = sum(float(np.sum((sent[n].astype(float) - zero[n]) ** 2)) for n in SIZES)
    assert math.sqrt(square) == pytest.approx(0.5, rel=1e-3)
    assert math.sqrt(square) <= 0.5 * (1 + 1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 3e38, 0.6])
def test_what_is_not_clipped_or_finite_does_not_leave(bad):
    vectors = contribution(0) | {"loss": np.full(8000, bad, np.float32)}
    with pytest.raises(VehicleError):
        PLAN.noised(vectors, SeededBits(0))


def test_noise_that_cannot_be_meant():
    for noise in (0.0, math.nan, -1.0):
        with pytest.raises(ValueError, match="noise multiplier"):
            LocalPlan(1.0, noise, SIZES)


def test_calibration_is_that_of_the_analytic_gaussian():
    """Its own epsilon comes back; composition is exact: 25 participations need 5 times the noise of one."""
    assert calibrated(4.37718, 1e-5, 1) == pytest.approx(1.0, abs=1e-5)
    assert calibrated(4.37718, 1e-5, 25) == pytest.approx(5.0, abs=1e-4)
    assert calibrated(4.37718, 1e-5, 1, "replace-one") == pytest.approx(2.0, abs=1e-4)
    for target in (0.1, 1.0, 8.0):
        noise = calibrated(target, 1e-6, 30)
        spent = epsilon([LocalPlan(1.0, noise, SIZES).event(30)], 1e-6, "zero-out").epsilon
        assert target * (1 - 1e-6) <= spent <= target


def test_the_textbook_formula_is_too_much_below_1_and_too_little_far_above():
    def textbook(target):
        return math.sqrt(2 * math.log(1.25 / 1e-5)) / target

    assert textbook(0.5) > 1.2 * calibrated(0.5, 1e-5, 1)
    spent = epsilon([LocalPlan(1.0, textbook(16.0), SIZES).event()], 1e-5, "zero-out").epsilon
    assert spent > 16.5


def test_a_target_that_cannot_be_meant():
    with pytest.raises(UsageError):
        calibrated(0.0, 1e-5, 1)
