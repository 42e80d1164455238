"""One norm over all channels, exact: proved by whole-number arithmetic on what comes out."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from carpool.privacy.dp.grid import STEPS, Grid
from carpool.privacy.dp.joint import MOST_NORM, PIECE, clip_jointly, squared, weigh
from carpool.privacy.errors import VehicleError

FLOATS = st.one_of(
    st.floats(-1, 1, width=32),
    st.floats(-(2.0**60), 2.0**60, width=32),
    st.sampled_from([0.0, -0.0, 2.0**-149, -(2.0**-127), 1e-30, 2.0**-60]),
)
CHANNELS = st.dictionaries(
    st.sampled_from(["delta", "control", "loss"]),
    arrays.arrays(np.float32, st.integers(1, 8), elements=FLOATS),
    min_size=1,
)


def exact_square(vectors):
    return sum(Fraction(value) ** 2 for vector in vectors.values() for value in vector.tolist())


@settings(deadline=None, max_examples=40)
@given(CHANNELS, st.floats(1e-12, 1e12))
def test_the_joint_norm_is_never_above_the_bound_not_even_by_a_rounding(vectors, clip_norm):
    found, clipped = clip_jointly(vectors, clip_norm)
    bound = Fraction(clip_norm) ** 2
    assert exact_square(found) <= bound
    assert all(vector.dtype == np.float32 for vector in found.values())
    assert clipped or all(found[name] is vectors[name] for name in vectors)
    assert exact_square(vectors) >= bound * Fraction(1 - 2.0**-35) if clipped else True
    grid = Grid({name: len(vector) for name, vector in found.items()}, clip_norm).whole(found)
    assert sum(int(step) ** 2 for step in grid) <= STEPS**2


@settings(deadline=None, max_examples=40)
@given(CHANNELS, st.floats(1e-12, 1e12))
def test_clipping_keeps_the_direction_and_clips_once(vectors, clip_norm):
    found, clipped = clip_jointly(vectors, clip_norm)
    again, twice = clip_jointly(found, clip_norm)
    assert not twice
    assert all(again[name] is found[name] for name in found)
    if clipped:
        # All channels by one factor, to just below the bound (but for denormal numbers, which are coarse).
        norm = math.sqrt(float(exact_square(vectors)))
        for name, vector in vectors.items():
            wanted = vector.astype(np.float64) * (clip_norm / norm)
            assert found[name] == pytest.approx(wanted, rel=1e-6, abs=1e-36)


@pytest.mark.parametrize("around", [1.0, 0.3, 7e-9, 12345.678])
def test_norms_around_the_bound_where_roundings_decide(around):
    """A thousand vectors within 2^-22 of the bound: clipped or not, none is above it."""
    rng = np.random.default_rng(3)
    kinds = set()
    for _ in range(1000):
        vector = rng.standard_normal(7).astype(np.float32)
        length = around * (1 + rng.uniform(-(2.0**-22), 2.0**-22))
        vectors = {"delta": (vector * (length / np.linalg.norm(vector))).astype(np.float32)}
        found, clipped = clip_jointly(vectors, around)
        kinds.add(clipped)
        assert exact_square(found) <= Fraction(around) ** 2
    assert kinds == {True, False}


def test_channels_share_one_bound():
    """Three channels of norm C each: clipped each by itself, they would come to sqrt(3) C."""
    vectors = {name: np.array([2.0, 0.0], np.float32) for name in "abc"}
    found, clipped = clip_jointly(vectors, 2.0)
    assert clipped
    assert found["a"].tolist() == pytest.approx([2 / math.sqrt(3), 0.0], rel=1e-6)
    assert math.sqrt(float(exact_square(found))) == pytest.approx(2.0, rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38, MOST_NORM])
def test_what_has_diverged_is_refused(bad):
    vectors = {"a": np.zeros(3, np.float32), "b": np.array([0.0, bad], np.float32)}
    with pytest.raises(VehicleError, match="send no update"):
        clip_jointly(vectors, 1.0)


def test_a_million_numbers_of_2_to_the_60_are_refused_together():
    with pytest.raises(VehicleError, match="diverged"):
        clip_jointly({"a": np.full(1 << 20, 2.0**60, np.float32)}, 1.0)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros(3),
        np.zeros(3, np.int64),
        np.zeros(3, np.float16),
        np.zeros((3, 1), np.float32),
        np.float32(1),
        np.zeros(6, np.float32)[::2],
        [1.0, 2.0],
        None,
        1e200,
    ],
)
def test_other_forms_are_refused(bad):
    with pytest.raises(VehicleError):
        clip_jointly({"a": np.zeros(3, np.float32), "b": bad}, 1.0)


def test_no_channel_is_refused():
    with pytest.raises(VehicleError, match="at least one channel"):
        clip_jointly({}, 1.0)


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, math.nan, math.inf, 1e-13, 1e13])
def test_a_clip_norm_that_cannot_be_meant(clip_norm):
    with pytest.raises(ValueError, match="clip norm"):
        clip_jointly({"a": np.zeros(3, np.float32)}, clip_norm)


def test_zeros_and_denormals_pass_unchanged():
    vectors = {"a": np.zeros(3, np.float32), "b": np.array([2.0**-149, -(2.0**-130)], np.float32)}
    found, clipped = clip_jointly(vectors, 1e-12)
    assert not clipped
    assert found["b"] is vectors["b"]


@given(st.floats(1e-6, 1e30), st.floats(1e-3, 1e3), st.floats(1e-6, 10))
def test_a_weight_moves_the_sum_by_no_more_than_the_clip_norm(weight, most, clip_norm):
    vectors = {"delta": np.array([3.0, -4.0], np.float32), "count": np.array([1.0], np.float32)}
    weighed = weigh(vectors, weight, most, {"delta"})
    assert weighed["delta"] == pytest.approx(vectors["delta"] * min(1.0, weight / most), rel=1e-6)
    assert weighed["count"] is vectors["count"]
    assert exact_square(clip_jointly(weighed, clip_norm)[0]) <= Fraction(clip_norm) ** 2


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
def test_weights_that_cannot_be_counted(weight):
    with pytest.raises(VehicleError, match="weight"):
        weigh({"a": np.ones(1, np.float32)}, weight, 1.0, {"a"})
    with pytest.raises(ValueError, match="largest weight"):
        weigh({"a": np.ones(1, np.float32)}, 1.0, weight, {"a"})


def test_long_sums_of_squares_are_within_their_bound():
    rng = np.random.default_rng(1)
    vector = (rng.standard_normal(3 * PIECE + 17) * 10.0 ** rng.integers(-6, 6, 3 * PIECE + 17)).astype("f4")
    exact = math.fsum(float(value) ** 2 for value in vector.tolist())  # squares of float32 are exact
    assert abs(squared(vector) / exact - 1) < 2.0**-38
