"""Correlated noise: covariance and mean by statistics, the whole-number argument, exact restarts."""

import copy
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, norm

from carpool.privacy.dp import matrix_noise
from carpool.privacy.dp.matrix import FRACTION, Plan, raw_sigma, toeplitz_plan, tree_plan
from carpool.privacy.dp.matrix_noise import MatrixNoise, ToeplitzState, TreeState
from carpool.privacy.dp.schema import Schema
from carpool.privacy.dp.tree import WEIGHT_BITS, levels, weights
from carpool.privacy.errors import PrivacyRefused, RunError
from tests.privacy.dp.test_toeplitz import matrix
from tests.privacy.dp.test_tree_noise import estimate_matrix

KEY = bytes(range(16))
T = 11
PLANS = [toeplitz_plan(T, Schema(3, 3), bands) for bands in (1, 2, 3, T)] + [tree_plan(T, Schema(3, 3))]
FALSE_ALARM = 1e-6


def covariance(plan):
    """Of the running sums, for raw noise of variance 1."""
    rounds = plan.rounds
    if plan.coefficients:
        b = np.tril(np.ones((rounds, rounds))) @ np.linalg.inv(matrix(plan.column, rounds))
    else:
        b = estimate_matrix(rounds)
    return b @ b.T


def suspicious(sums, wanted):
    """Whether running sums [T, d] are not independent columns of N(0, wanted); false alarm 1e-6 in all."""
    rounds, d = sums.shape
    white = np.linalg.solve(np.linalg.cholesky(wanted), sums)
    each = FALSE_ALARM / (rounds * (rounds + 3) / 2)
    low, high = chi2.ppf([each / 2, 1 - each / 2], d) / d
    found = white @ white.T / d
    off = found[np.triu_indices(rounds, 1)]
    # A product of two normals is heavier than normal; over d = 20,000 of them 1.1 covers the difference.
    limit = 1.1 * norm.isf(each / 2) / math.sqrt(d)
    means = np.abs(white.mean(axis=1))
    diagonal = np.diag(found)
    return bool(
        (diagonal < low).any()
        or (diagonal > high).any()
        or (np.abs(off) > limit).any()
        or means.max() > limit
    )


def running_sums(plan, d, secret=7):
    noise = MatrixNoise(plan, 2.0, d, secret)
    return np.cumsum([noise.next() for _ in range(plan.rounds)], axis=0) * 2.0**FRACTION / raw_sigma(2.0)


@pytest.mark.parametrize("plan", PLANS)
def test_running_sums_have_the_mean_and_covariance_of_the_plan(plan):
    sums, wanted = running_sums(plan, 20_000), covariance(plan)
    assert not suspicious(sums, wanted)
    assert np.allclose(np.diag(wanted), plan.variances())
    # Power: 5 % more or less of width, a mean of 5 % of a width, and another plan's correlations.
    assert suspicious(sums * 1.05, wanted)
    assert suspicious(sums / 1.05, wanted)
    assert suspicious(sums + 0.05 * np.sqrt(np.diag(wanted))[:, None], wanted)
    for other in PLANS:
        assert other == plan or suspicious(sums, covariance(other))


@pytest.mark.parametrize("plan", PLANS)
def test_a_restart_after_any_round_is_bit_exact(plan):
    whole = MatrixNoise(plan, 2.0, 50, KEY)
    rounds, digests = [], [whole.digest()]
    for _ in range(T):
        rounds.append(whole.next())
        digests.append(whole.digest())
    for stopped in range(T + 1):
        again = MatrixNoise(Plan.from_facts(plan.facts()), 2.0, 50, KEY)
        again.forward(stopped, digests[stopped])
        for number in range(stopped, T):
            assert (again.next() == rounds[number]).all()
        assert again.digest() == digests[T]
    assert whole.private


def test_a_restart_with_anything_else_is_refused(monkeypatch):
    plan = toeplitz_plan(T, Schema(3, 3), 3)
    first = MatrixNoise(plan, 2.0, 50, KEY)
    first.next()
    seen = first.digest()
    others = [
        MatrixNoise(plan, 2.0, 50, bytes(16)),
        MatrixNoise(plan, 2.5, 50, KEY),
        MatrixNoise(plan, 2.0, 51, KEY),
        MatrixNoise(toeplitz_plan(T, Schema(3, 3), 2), 2.0, 50, KEY),
        MatrixNoise(plan, 2.0, 50, 1),
    ]
    for other in others:
        with pytest.raises(RunError, match="not what it was"):
            other.forward(1, seen)
    real = matrix_noise.wide_gaussian
    monkeypatch.setattr(
        matrix_noise, "wide_gaussian", lambda *given: -real(*given)
    )  # another version's sampler
    with pytest.raises(RunError, match="not what it was"):
        MatrixNoise(plan, 2.0, 50, KEY).forward(1, seen)


def test_noise_only_goes_forward():
    noise = MatrixNoise(PLANS[0], 2.0, 5, KEY)
    noise.next()
    noise.next()
    for round_ in (1, T + 1):
        with pytest.raises(RunError, match="begin again from the key"):
            noise.forward(round_, noise.digest())


def test_there_is_no_noise_beyond_the_last_round():
    noise = MatrixNoise(PLANS[1], 2.0, 5, KEY)
    for _ in range(T):
        noise.next()
    with pytest.raises(PrivacyRefused, match="made for 11 rounds"):
        noise.next()
    assert noise.round == T


def test_no_two_rounds_keys_or_coordinates_share_noise():
    plan = toeplitz_plan(T, Schema(3, 3), 1)
    made = [MatrixNoise(plan, 4000.0, 200, secret) for secret in (KEY, bytes(16), 0, 1)]
    rows = np.array([noise.next() for noise in made for _ in range(T)])
    # 8,800 numbers of width 2^32: two are equal with a chance below 1e-2, and with this seed and key none.
    assert len(np.unique(rows[::11])) == rows[::11].size
    assert len(np.unique(rows)) == rows.size


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 12), st.lists(st.integers(-4096, 4096), max_size=5), st.data())
def test_toeplitz_noise_is_computed_from_a_whole_numbered_release(rounds, rest, data):
    """g + x comes out of M = A g + z alone, by the server's own recurrence: rounding reveals nothing."""
    a = (1 << FRACTION, *rest)
    numbers = st.lists(st.integers(-(2**24), 2**24), min_size=rounds, max_size=rounds)
    g, z = data.draw(numbers), data.draw(numbers)
    state, published, rebuilt = ToeplitzState(a, 1), [], []
    for t in range(rounds):
        raw = np.array([z[t]])
        published.append(g[t] + int(state.step(t + 1, lambda raw=raw: raw.copy())[0]))
        release = sum(a[j] * g[t - j] for j in range(min(t + 1, len(a)))) + z[t]
        known = sum(a[j] * rebuilt[t - j] for j in range(1, min(t + 1, len(a))))
        rebuilt.append((release - known + (1 << FRACTION - 1)) >> FRACTION)
    assert published == rebuilt


def tree_estimates(rounds, node_values):
    """The running sums as an analyst estimates them from noisy node sums alone (in 2^-FRACTION)."""
    weight = weights(levels(rounds))
    found, stack = [], []
    for t in range(1, rounds + 1):
        estimate, level = node_values[t, 0], 0
        while t >> level & 1 == 0:
            level += 1
            children, own = stack.pop() + estimate, node_values[t, level]
            estimate = own + (((children - own) * weight[level] + (1 << WEIGHT_BITS - 1)) >> WEIGHT_BITS)
        stack.append(estimate)
        found.append((sum(stack) + (1 << FRACTION - 1)) >> FRACTION)
    return found


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 20), st.data())
def test_tree_noise_is_computed_from_whole_numbered_node_sums(rounds, data):
    g = data.draw(st.lists(st.integers(-(2**20), 2**20), min_size=rounds, max_size=rounds))
    noisy, drawn = {}, {}
    for t in range(1, rounds + 1):
        for level in range((t & -t).bit_length()):
            drawn[t, level] = data.draw(st.integers(-(2**30), 2**30))
            noisy[t, level] = (sum(g[t - (1 << level) : t]) << FRACTION) + drawn[t, level]
    state, published = TreeState(rounds, 1), []
    for t in range(1, rounds + 1):
        order = iter([drawn[t, level] for level in range((t & -t).bit_length())])
        published.append(g[t - 1] + int(state.step(t, lambda order=order: np.array([next(order)]))[0]))
    assert np.cumsum(published).tolist() == tree_estimates(rounds, noisy)


@pytest.mark.parametrize("width", [0.0, -1.0, math.nan, math.inf, 1e-7, 1e9])
@pytest.mark.parametrize("plan", [PLANS[2], PLANS[-1]])
def test_widths_that_prove_nothing_or_overflow_are_refused(plan, width):
    with pytest.raises(ValueError, match="raw noise"):
        MatrixNoise(plan, width, 1000, KEY)


@pytest.mark.parametrize("plan", PLANS)
def test_the_widest_noise_that_is_taken_does_not_overflow(plan):
    """Raw noise of 16 widths, all of one sign or alternating, against Python's own integers."""
    width = 1.0
    while True:
        try:
            MatrixNoise(plan, width * 2, 1, KEY)
        except ValueError:
            break
        width *= 2
    limit = int(16 * raw_sigma(width))
    for signs in ([1], [1, -1], [1, 1, -1]):
        states = [
            ToeplitzState(plan.coefficients, 1) if plan.coefficients else TreeState(T, 1) for _ in range(2)
        ]
        for t in range(1, T + 1):
            z = limit * signs[t % len(signs)]
            small = states[0].step(t, lambda z=z: np.array([z >> 20]))
            large = states[1].step(t, lambda z=z: np.array([z]))
            # Linear but for rounding: an overflow would be off by 2^63.
            assert abs(int(large[0]) - (int(small[0]) << 20)) <= 2**26


def test_secrets_stay_inside():
    noise = MatrixNoise(PLANS[0], 2.0, 5, KEY)
    assert repr(noise) == "MatrixNoise(toeplitz, round 0 of 11, d=5)"
    with pytest.raises(TypeError, match="never copied"):
        copy.deepcopy(noise)
    assert not MatrixNoise(PLANS[0], 2.0, 5, 3).private
    for secret in (b"short", -1, 2**64):
        with pytest.raises(ValueError):
            MatrixNoise(PLANS[0], 2.0, 5, secret)
    with pytest.raises(ValueError, match="1 number or more"):
        MatrixNoise(PLANS[0], 2.0, 0, KEY)
