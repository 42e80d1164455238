"""The matrix mechanism's plan: published figures, whole-number proofs, hostile updates."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from carpool.privacy.dp import toeplitz, tree
from carpool.privacy.dp.accounting import epsilon
from carpool.privacy.dp.grid import STEPS, from_grid, to_grid
from carpool.privacy.dp.matrix import (
    FRACTION,
    SLACK,
    Plan,
    delta_slack,
    event,
    raw_sigma,
    toeplitz_plan,
    tree_plan,
)
from carpool.privacy.dp.schema import Schema
from carpool.privacy.errors import RunError, VehicleError

YEAR = Schema(100, 10)


def test_errors_of_running_sums_at_equal_epsilon():
    """T = 1000, separation 100, 10 times: sensitivity x root of the MEAN variance over t."""
    independent = toeplitz_plan(1000, YEAR, 1)
    banded = toeplitz_plan(1000, YEAR, 100, optimise=False)
    assert independent.rms_error() == pytest.approx(70.8, abs=0.06)
    assert independent.rms_error() == pytest.approx(math.sqrt(10 * 1001 / 2))
    assert banded.rms_error() == pytest.approx(12.1, abs=0.01)
    assert toeplitz_plan(1000, YEAR, 100).rms_error() == pytest.approx(11.57, abs=0.01)


def test_errors_of_the_tree():
    """The 23.3 that is often quoted takes sqrt(k levels), too small: nodes see a vehicle several times."""
    plain = math.sqrt(tree.variances(1000, plain=True).mean())
    assert plain * math.sqrt(10 * 11) == pytest.approx(23.3, abs=0.05)
    assert plain * tree.sensitivity(1000, 100, 10) == pytest.approx(26.57, abs=0.01)
    assert tree_plan(1000, YEAR).rms_error() == pytest.approx(20.26, abs=0.01)


def test_fixed_point_costs_no_accuracy():
    plan = toeplitz_plan(1000, YEAR, 16)
    c = toeplitz.optimised(16, 1000)
    floating = math.sqrt(toeplitz.variances(c, 1000).mean()) * toeplitz.sensitivity(c, 1000, 100, 10)
    assert plan.rms_error() == pytest.approx(floating, rel=1e-4)
    assert max(abs(plan.column - c)) <= 2.0 ** -(FRACTION + 1)


def test_the_event_is_a_whole_training_and_its_mu_the_noise_multiplier():
    plan = toeplitz_plan(50, Schema(5, 4), 5)
    made = event(plan, plan.width(2.5))
    assert (made.mechanism, made.count, made.sampling_rate) == ("matrix", 1, 1.0)
    assert made.sensitivity == plan.sensitivity
    assert made.noise_multiplier / made.sensitivity == pytest.approx(2.5)


def test_a_training_costs_what_one_gaussian_release_of_its_noise_multiplier_does():
    for plan in (toeplitz_plan(1000, YEAR, 16), tree_plan(1000, YEAR)):
        found = epsilon([event(plan, plan.width(1.0))], 1e-5, "zero-out").epsilon
        assert 4.37718 - 0.002 <= found <= 4.37718 + 0.02


def test_more_bands_than_the_separation_fall_back_to_the_square_root():
    assert toeplitz_plan(30, Schema(3, 4), 8).coefficients[1] == 1 << (FRACTION - 1)
    for bands in (0, 31):
        with pytest.raises(ValueError, match="use 1 to 30"):
            toeplitz_plan(30, Schema(3, 4), bands)


@pytest.mark.parametrize("bands", [1, 3, 7])
def test_whole_numbers_move_as_far_as_the_sensitivity_says(bands):
    """A dG, in raw steps, for one vehicle in every third round with a whole clip norm: exactly the bound."""
    plan = toeplitz_plan(9, Schema(3, 3), bands)
    moved = np.zeros(9, np.int64)
    for start in (0, 3, 6):
        part = plan.coefficients[: 9 - start]
        moved[start : start + len(part)] += np.array(part) * STEPS
    length = math.sqrt(sum(int(m) ** 2 for m in moved))
    assert length <= plan.sensitivity * STEPS * (1 << FRACTION) * (1 + 1e-12)
    assert length >= 0.999 * plan.sensitivity * STEPS * (1 << FRACTION)


def test_a_plan_comes_back_from_its_facts():
    for plan in (toeplitz_plan(20, Schema(4, 3), 4), tree_plan(20, Schema(4, 3))):
        assert Plan.from_facts(plan.facts()) == plan


@pytest.mark.parametrize(
    "change",
    [
        {"rounds": 0},
        {"rounds": "20"},
        {"min_separation": 0},
        {"max_participations": 1.5},
        {"coefficients": [5000]},
        {"coefficients": [4096, 1.0]},
        {"coefficients": [4096, 1, 2, 3, 4, 5]},
        {"coefficients": None},
        {"coefficients": [4096] * 21},
        {"more": 1},
    ],
)
def test_damaged_facts_are_refused(change):
    facts = toeplitz_plan(20, Schema(4, 3), 4).facts() | change
    with pytest.raises(RunError, match="damaged"):
        Plan.from_facts(facts)


def total_variation(sigma):
    """Between rounded continuous noise and discrete noise, summed over where both have any mass."""
    k = np.arange(-int(12 * sigma) - 2, int(12 * sigma) + 3)
    discrete = np.exp(-(k**2) / (2 * sigma**2))
    edges = np.array([math.erf(x / (sigma * math.sqrt(2))) for x in np.append(k - 0.5, k[-1] + 0.5)])
    return 0.5 * np.abs(discrete / discrete.sum() - np.diff(edges) / 2).sum()


@pytest.mark.parametrize("sigma", [1.0, 3.0, 10.0, 60.0])
def test_a_discrete_number_is_as_close_to_a_rounded_one_as_the_slack_says(sigma):
    assert 0.38 / (24 * sigma**2) < total_variation(sigma) < 1 / (24 * sigma**2)


def test_slack_counts_every_draw():
    plan, other = toeplitz_plan(10, Schema(1, 1), 1), tree_plan(10, Schema(1, 1))
    assert delta_slack(plan, 1.0, 7) == pytest.approx(70 / (24 * raw_sigma(1.0) ** 2))
    assert delta_slack(other, 1.0, 7) == pytest.approx(140 / (24 * raw_sigma(1.0) ** 2))
    assert delta_slack(toeplitz_plan(1000, YEAR, 100), 5.0, 10**6) < SLACK


@settings(deadline=None, max_examples=30)
@given(
    arrays.arrays(np.float32, st.integers(1, 40), elements=st.floats(-1, 1, width=32)),
    st.floats(1e-3, 1e3),
    st.floats(0, 1.0000001),
)
def test_the_grid_never_exceeds_the_clip_norm(direction, clip_norm, length):
    norm = float(np.linalg.norm(direction.astype(np.float64)))
    update = direction.astype(np.float64) * (length * clip_norm / norm) if norm > 1e-6 else direction * 0
    grid = to_grid(update, clip_norm)
    assert grid.dtype == np.int64
    assert sum(int(g) ** 2 for g in grid) <= STEPS**2
    assert np.abs(from_grid(grid, clip_norm) - update).max() <= 1.01 * clip_norm / STEPS


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e200, 1e308, 1.01, -2.0])
def test_hostile_updates_are_dropped(bad):
    with pytest.raises(VehicleError, match="clip it first"):
        to_grid(np.array([0.0, bad]), 1.0)


def test_zero_denormal_and_integer_updates():
    assert to_grid(np.array([0.0, 5e-324, -1e-40]), 1.0).tolist() == [0, 0, 0]
    assert abs(to_grid(np.array([0, 1, 0], np.int32), 1.0)[1] - STEPS) <= 3
    assert to_grid(np.array([], np.float32), 1.0).tolist() == []


def test_a_clip_that_ends_a_rounding_error_above_its_bound_is_still_taken():
    for update in ([1.0, 1.0000001 / STEPS], [1 + 9e-7], [0.6 * (1 + 9e-7), 0.8 * (1 + 9e-7)]):
        grid = to_grid(np.array(update), 1.0)
        assert sum(int(g) ** 2 for g in grid) <= STEPS**2
