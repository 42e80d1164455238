"""Whole-number sums: exact, in any order, all or nothing; their noise, and what a ring does to both."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carpool.privacy.dp import grid as module
from carpool.privacy.dp.grid import (
    SMOOTH,
    STEPS,
    Grid,
    GridSum,
    from_grid,
    gaussian,
    most_in_ring,
    noised_ring,
    to_grid,
)
from carpool.privacy.dp.joint import PIECE, clip_jointly
from carpool.privacy.dp.randomness import SeededBits
from carpool.privacy.errors import RoundError, VehicleError

SIZES = {"delta": 5, "control": 3, "loss": 1}


def contribution(seed, clip_norm=1.0, sizes=SIZES):
    rng = np.random.default_rng(seed)
    made = {name: rng.standard_normal(size).astype(np.float32) for name, size in sizes.items()}
    return clip_jointly(made, clip_norm)[0]


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(8)), st.floats(1e-6, 1e6))
def test_a_sum_is_the_same_in_any_order_to_the_bit(order, clip_norm):
    first, other = GridSum(SIZES, clip_norm), GridSum(dict(reversed(SIZES.items())), clip_norm)
    for seed in range(8):
        first.add(contribution(seed, clip_norm))
    for seed in order:
        other.add(dict(reversed(contribution(seed, clip_norm).items())))
    assert first.grid == other.grid
    total = first.take()
    assert total.dtype == np.int64
    assert np.array_equal(total, other.take())
    wanted = {name: sum(contribution(seed, clip_norm)[name] for seed in range(8)) for name in SIZES}
    found = first.grid.floats(total)
    for name, vector in wanted.items():
        assert found[name].dtype == np.float32
        assert np.abs(found[name] - vector).max() <= 8 * 1.1 * clip_norm / STEPS + 1e-6 * clip_norm


def test_channels_lie_by_name_and_vectors_longer_than_a_piece_are_whole():
    sizes = {"z": 2, "a": 2 * PIECE + 3}
    one = contribution(0, 0.5, sizes)
    grid = Grid(sizes, 0.5)
    whole = grid.whole(one)
    assert list(grid.slices) == ["a", "z"]
    assert np.array_equal(whole, to_grid(np.concatenate([one["a"], one["z"]]), 0.5))
    assert grid.floats(from_whole := whole.astype(np.int64))["z"] == pytest.approx(one["z"], abs=1e-6)
    assert from_grid(from_whole, 0.5)[-2:] == pytest.approx(one["z"], abs=1e-6)
    assert grid.floats(from_whole, 4.0)["z"] == pytest.approx(one["z"] / 4, abs=1e-6)


HOSTILE = {
    "nan": {"loss": np.array([math.nan], np.float32)},
    "inf": {"loss": np.array([-math.inf], np.float32)},
    "huge": {"loss": np.array([3e38], np.float32)},
    "too long": {"loss": np.array([1.00001], np.float32)},
    "too long together": {name: np.full(n, 0.9 / math.sqrt(n), np.float32) for name, n in SIZES.items()},
    "whole numbers": {"loss": np.array([1])},
    "double": {"loss": np.array([0.5])},
    "short": {"delta": np.zeros(4, np.float32)},
    "long": {"delta": np.zeros(6, np.float32)},
    "matrix": {"delta": np.zeros((5, 1), np.float32)},
    "list": {"loss": [0.5]},
    "unknown": {"other": np.zeros(1, np.float32)},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_refused_adds_nothing(case):
    total = GridSum(SIZES, 1.0)
    total.add(contribution(1))
    zeros = {name: np.zeros(size, np.float32) for name, size in SIZES.items()}
    # The rest of it is good, and written before the bad channel is looked at.
    with pytest.raises(VehicleError):
        total.add({**zeros, "delta": np.full(5, 0.1, np.float32), **HOSTILE[case]})
    missing = {name: zeros[name] for name in SIZES if name != "control"}
    with pytest.raises(VehicleError, match="carries"):
        total.add(missing)
    assert np.array_equal(total.take(), Grid(SIZES, 1.0).whole(contribution(1)))


def test_zeros_and_denormals_add_nothing_and_are_taken():
    total = GridSum({"a": 2}, 1.0)
    total.add({"a": np.array([2.0**-149, -0.0], np.float32)})
    assert total.take().tolist() == [0, 0]


def test_a_sum_is_given_out_once_and_takes_no_more_then():
    total = GridSum(SIZES, 1.0)
    total.take()
    with pytest.raises(RoundError, match="released once"):
        total.take()
    with pytest.raises(RoundError, match="begin a new one"):
        total.add(contribution(0))


def test_a_full_sum_takes_no_more(monkeypatch):
    monkeypatch.setattr(module, "MOST", 2)
    total = GridSum(SIZES, 1.0)
    total.add(contribution(0))
    total.add(contribution(1))
    with pytest.raises(RoundError, match="2 contributions"):
        total.add(contribution(2))


def test_nothing_of_a_sum_is_in_its_repr():
    total = GridSum({"a": 1}, 1.0)
    before = repr(total)
    total.add({"a": np.array([0.5], np.float32)})
    assert repr(total) == before


@pytest.mark.parametrize("sizes", [{}, {"a": 0}, {"a": -1}, {"a": 1.0}, {"a": True}])
def test_grids_that_cannot_be(sizes):
    with pytest.raises(ValueError, match="1 number or more"):
        Grid(sizes, 1.0)


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, math.nan, math.inf])
def test_clip_norms_that_cannot_be(clip_norm):
    with pytest.raises(ValueError, match="clip norm"):
        GridSum(SIZES, clip_norm)


def test_a_clip_that_ends_a_rounding_above_its_bound_is_taken_and_kept_to_the_bound():
    for last in (2.0**-24, 9e-7):
        whole = Grid({"a": 1}, 1.0).whole({"a": np.array([1 + last], np.float32)})
        assert 0.999998 * STEPS < int(whole[0]) <= STEPS


def test_rounding_is_towards_zero_and_never_lengthens():
    """A million numbers of 1048.57 steps each: rounded to 1049, they would be above the clip norm."""
    one = {"a": np.full(1_000_000, (1 - 1e-7) / 1000, np.float32)}
    one["a"][::2] *= -1
    assert set(Grid({"a": 1_000_000}, 1.0).whole(one).tolist()) == {1048, -1048}


def test_the_last_check_is_in_whole_numbers(monkeypatch):
    """Were the margin forgotten, a vector a rounding above the bound would be refused, not summed."""
    monkeypatch.setattr(module, "_MARGIN", 1.0)
    with pytest.raises(VehicleError, match="squared clip norm"):
        Grid({"a": 1}, 1.0).whole({"a": np.array([1 + 2.0**-20], np.float32)})


@pytest.mark.parametrize("noise", [0.0, -1.0, math.nan, math.inf, 1e-5, 1e7])
def test_noise_that_cannot_be_meant(noise):
    with pytest.raises(ValueError, match="noise multiplier"):
        gaussian(SeededBits(0), noise, 1)


@pytest.mark.parametrize("noise", [1e-4, 1.0, 7.9, 8.1, 300.0])
def test_noise_is_as_wide_as_charged_and_rounded_within_it(noise, monkeypatch):
    """Variance (z STEPS)^2 + SMOOTH^2 is what is drawn, from either sampler."""
    asked = []
    for name in ("discrete_gaussian", "wide_gaussian"):
        monkeypatch.setattr(module, name, lambda bits, sigma, n: asked.append(sigma))
    gaussian(SeededBits(0), noise, 1)
    (sigma,) = asked
    assert sigma >= noise * STEPS
    assert sigma**2 == pytest.approx((noise * STEPS) ** 2 + SMOOTH**2, rel=1e-12)


def test_discrete_noise_is_rounded_continuous_noise():
    """The theorem that grid.py rests on, in numbers: the density of continuous noise, rounded at random.

    At SMOOTH = 1.5 the share is exp(-44), beyond doubles; at 0.5 it is 2 exp(-5) = 1.4 %, and is seen.
    """

    def largest_difference(smooth, sigma=3.0, offset=4):
        points = np.arange(-40, 41)
        x = np.linspace(-40, 40, 20001)
        rest = math.sqrt(sigma**2 - smooth**2)
        density = np.exp(-((x - offset) ** 2) / (2 * rest**2)) / (rest * math.sqrt(2 * math.pi))
        rounding = np.exp(-((points[:, None] - x) ** 2) / (2 * smooth**2))
        chances = (rounding / rounding.sum(0)) @ density * (x[1] - x[0])
        wanted = np.exp(-((points - offset) ** 2) / (2 * sigma**2))
        seen = wanted > 1e-6
        return np.abs(chances / (wanted / wanted.sum()) - 1)[seen].max()

    assert largest_difference(1.5) < 1e-9
    assert 1e-4 < largest_difference(0.5) < 2 * 2 * math.exp(-2 * math.pi**2 / 4)


@settings(deadline=None)
@given(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31), st.sampled_from([16, 24, 32]))
def test_a_ring_is_noised_before_its_numbers_are_signed(sum_, noise, width):
    """(S + Z) mod 2^width, whatever multiple of it S had lost: so no wrap of the sum alone can show."""
    ring = np.array([sum_ % (1 << width)], np.uint32)
    found = noised_ring(ring, np.array([noise], np.int64), width)
    half = 1 << (width - 1)
    assert int(found[0]) == (sum_ + noise + half) % (1 << width) - half


def test_at_the_edge_of_the_ring_a_step_stays_a_step():
    """Vehicles that send what they like bring a sum to 2^31 - 1; an honest one adds 1."""
    noise = np.array([12345], np.int64)
    low, high = (noised_ring(np.array([2**31 - 1 + k], np.uint32), noise, 32) for k in (0, 1))
    assert int(high[0] - low[0]) == 1


def test_malformed_masked_sums():
    noise = np.zeros(2, np.int64)
    for bad in (np.zeros(2, np.int64), np.zeros(3, np.uint32), np.zeros((2, 1), np.uint32)):
        with pytest.raises(RoundError, match="masked sum"):
            noised_ring(bad, noise, 32)
    with pytest.raises(ValueError, match="ring"):
        noised_ring(np.zeros(2, np.uint32), noise, 33)


def test_sums_that_fit_a_ring_do_so_with_their_noise():
    for z in (0.1, 1.0, 20.0):
        most = most_in_ring(z)
        assert most * STEPS + 10 * z * STEPS < 2**31 <= (most + 2) * STEPS + 10 * z * STEPS
