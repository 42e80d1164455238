"""Vectors and layouts: flatten is the inverse of views, and a bad vector is refused with a reason."""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carpool.privacy.errors import VehicleError
from carpool.privacy.vectors import Layout, check_vector, digest

LAYOUT = Layout(("weight", "bias", "scale"), ((2, 3), (2,), ()))

shapes = st.lists(st.lists(st.integers(1, 4), max_size=3).map(tuple), min_size=1, max_size=5)


def test_slices_lie_one_after_another_without_gap():
    assert LAYOUT.slices == {"weight": slice(0, 6), "bias": slice(6, 8), "scale": slice(8, 9)}
    assert LAYOUT.size == 9


def test_views_are_views_into_the_vector():
    vector = np.arange(9, dtype=np.float32)
    views = LAYOUT.views(vector)
    assert views["weight"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert views["scale"].shape == ()
    views["bias"][1] = -7
    assert vector[7] == -7


@settings(deadline=None, max_examples=15)
@given(shapes=shapes, seed=st.integers(0, 2**32 - 1))
def test_flatten_is_the_inverse_of_views(shapes, seed):
    layout = Layout(tuple(f"t{i}" for i in range(len(shapes))), tuple(shapes))
    vector = np.random.default_rng(seed).standard_normal(layout.size).astype(np.float32)
    again = layout.flatten(layout.views(vector))
    np.testing.assert_array_equal(again, vector)
    assert again.dtype == np.float32
    assert not np.shares_memory(again, vector)


def test_flatten_takes_strided_tensors_in_reading_order():
    layout = Layout(("t",), ((2, 2),))
    assert layout.flatten({"t": np.array([[1.0, 2.0], [3.0, 4.0]]).T}).tolist() == [1, 3, 2, 4]


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"weight": np.zeros((2, 3)), "bias": np.zeros(2)}, r"missing \['scale'\], unexpected \[\]"),
        (
            {"weight": np.zeros((2, 3)), "bias": np.zeros(2), "scale": np.zeros(()), "x": np.zeros(1)},
            r"missing \[\], unexpected \['x'\]",
        ),
        ({"weight": np.zeros((3, 2)), "bias": np.zeros(2), "scale": np.zeros(())}, "tensor weight has shape"),
        ({"weight": np.zeros((2, 3)), "bias": np.zeros(2), "scale": np.zeros(1)}, "tensor scale has shape"),
    ],
)
def test_flatten_refuses_what_does_not_fit(tensors, said):
    with pytest.raises(ValueError, match=said):
        LAYOUT.flatten(tensors)


def test_a_layout_needs_one_shape_a_name_and_distinct_names():
    with pytest.raises(ValueError, match="2 names, 1 shapes"):
        Layout(("a", "b"), ((1,),))
    with pytest.raises(ValueError, match="distinct"):
        Layout(("a", "a"), ((1,), (2,)))


def test_views_refuse_a_vector_of_another_size():
    with pytest.raises(VehicleError, match=r"must have shape \(9,\), not \(8,\)"):
        LAYOUT.views(np.zeros(8, np.float32))


STRIDED = np.zeros(6, np.float32)[::2]


@pytest.mark.parametrize(
    ("vector", "said"),
    [
        (np.zeros(3), "delta must be float32, not float64"),
        (np.zeros(3, ">f4"), "delta must be float32, not >f4"),
        ([0.0, 0.0, 0.0], "delta must be float32, not list"),
        (None, "delta must be float32, not NoneType"),
        (np.float32(1), "delta must be float32, not float32"),
        (np.zeros((3, 1), np.float32), r"shape \(3,\), not \(3, 1\)"),
        (np.zeros(4, np.float32), r"shape \(3,\), not \(4,\)"),
        (np.zeros((), np.float32), r"shape \(3,\), not \(\)"),
        (STRIDED, "delta must be contiguous"),
        (np.array([0, np.nan, 0], np.float32), "NaN or Inf"),
        (np.array([0, np.inf, 0], np.float32), "NaN or Inf"),
        (np.array([0, -np.inf, 0], np.float32), "NaN or Inf"),
        (np.array([np.inf, -np.inf, 0], np.float32), "NaN or Inf"),
    ],
)
def test_a_bad_vector_is_refused_with_the_reason(vector, said):
    with pytest.raises(VehicleError, match=said):
        check_vector(vector, 3, "delta")


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 63, 64, 65, 1000])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_number_is_found_wherever_it_stands(size, bad):
    for place in {0, size // 2, size - 1}:
        vector = np.zeros(size, np.float32)
        check_vector(vector, size, "delta")
        vector[place] = bad
        with pytest.raises(VehicleError, match="NaN or Inf"):
            check_vector(vector, size, "delta")


def test_a_signalling_nan_is_refused_like_any_other():
    # Its bit pattern raises the processor's "invalid" flag, which numpy turns into a warning.
    bits = struct.pack("<I", 0x7FA00000)
    vector = np.frombuffer(bits * 4, "<f4")
    with pytest.raises(VehicleError, match="NaN or Inf"):
        check_vector(vector, 4, "delta")


@pytest.mark.parametrize("value", [3e38, 2e19])
def test_numbers_that_would_overflow_a_weighted_sum_are_refused_without_a_warning(value):
    with pytest.raises(VehicleError, match="too large to add up"):
        check_vector(np.full(4, value, np.float32), 4, "delta")


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, -1e-38, 1e18, 0.1])
def test_every_usable_finite_number_is_accepted(value):
    check_vector(np.full(4, value, np.float32), 4, "delta")


def test_a_read_only_vector_is_accepted():
    check_vector(np.frombuffer(bytes(8), "<f4"), 2, "delta")


def test_digest_is_sha256_of_the_little_endian_bytes():
    assert (
        digest(np.array([1.0, -2.5], np.float32)) == hashlib.sha256(struct.pack("<2f", 1.0, -2.5)).hexdigest()
    )
    assert digest(np.zeros(2, np.float32)) != digest(np.zeros(3, np.float32))


def test_digest_reads_a_strided_vector_by_its_numbers():
    vector = np.arange(6, dtype=np.float32)
    assert digest(vector[::2]) == digest(np.array([0, 2, 4], np.float32))
