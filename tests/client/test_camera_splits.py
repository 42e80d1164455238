"""Laws of the splits: every sample goes to exactly one vehicle, none is empty, a group stays on one side."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carpool.client.camera import splits
from carpool.privacy.errors import DataError

FEW = settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def is_partition(parts: splits.Split, n: int, vehicles: int) -> None:
    assert len(parts) == vehicles
    assert all(part.dtype == np.int64 and len(part) > 0 for part in parts)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(n))


def same(one: splits.Split, other: splits.Split) -> None:
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left, right)


@FEW
@given(SEEDS, st.integers(1, 40), st.integers(0, 300), st.floats(0, 5))
def test_quantities_add_up_and_leave_nobody_empty(seed: int, vehicles: int, more: int, sigma: float) -> None:
    sizes = splits.quantities(vehicles + more, vehicles, sigma, generator(seed))
    assert sizes.sum() == vehicles + more
    assert sizes.min() >= 1
    if sigma == 0:
        assert sizes.max() - sizes.min() <= 1


@FEW
@given(SEEDS, st.integers(1, 12), st.integers(0, 80), st.sampled_from([0.0, 0.5, 3.0]))
def test_iid_is_a_partition(seed: int, vehicles: int, more: int, sigma: float) -> None:
    n = vehicles + more
    parts = splits.iid(n, vehicles, generator(seed), sigma)
    is_partition(parts, n, vehicles)
    same(parts, splits.iid(n, vehicles, generator(seed), sigma))


@FEW
@given(
    SEEDS,
    st.integers(1, 12),
    st.lists(st.integers(0, 6), min_size=12, max_size=90),
    st.sampled_from([5e-324, 1e-6, 1e-2, 0.3, 10.0, 1e6]),
    st.sampled_from([0.0, 1.0]),
)
def test_dirichlet_is_a_partition(
    seed: int, vehicles: int, labels: list[int], alpha: float, sigma: float
) -> None:
    column = np.array(labels, np.int64)
    parts = splits.dirichlet(column, vehicles, alpha, generator(seed), sigma)
    is_partition(parts, len(labels), vehicles)
    same(parts, splits.dirichlet(column, vehicles, alpha, generator(seed), sigma))


@FEW
@given(
    SEEDS,
    st.integers(1, 6),
    st.integers(1, 3),
    st.lists(st.integers(0, 4), min_size=18, max_size=80),
    st.sampled_from([0.0, 2.0]),
)
def test_shards_are_a_partition(
    seed: int, vehicles: int, per_vehicle: int, labels: list[int], sigma: float
) -> None:
    column = np.array(labels, np.int64)
    parts = splits.shards(column, vehicles, per_vehicle, generator(seed), sigma)
    is_partition(parts, len(labels), vehicles)
    same(parts, splits.shards(column, vehicles, per_vehicle, generator(seed), sigma))


@FEW
@given(SEEDS, st.integers(1, 8), st.lists(st.integers(-5, 30), min_size=40, max_size=120), st.floats(0, 2))
def test_whole_keys_stay_together(seed: int, vehicles: int, keys: list[int], sigma: float) -> None:
    column = np.array(keys, np.int64)
    vehicles = min(vehicles, len(set(keys)))
    parts = splits.whole(column, vehicles, generator(seed), sigma)
    is_partition(parts, len(keys), vehicles)
    assert sum(len(np.unique(column[part])) for part in parts) == len(set(keys))
    same(parts, splits.whole(column, vehicles, generator(seed), sigma))


@FEW
@given(
    SEEDS,
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), min_size=1, max_size=80),
    st.floats(0, 0.95),
    st.booleans(),
)
def test_a_group_never_straddles(
    seed: int, rows: list[tuple[int, int]], fraction: float, labelled: bool
) -> None:
    group, labels = np.array(rows, np.int64).T
    kept, held = splits.hold_out(group, fraction, generator(seed), labels if labelled else None)
    np.testing.assert_array_equal(np.sort(np.r_[kept, held]), np.arange(len(rows)))
    assert not set(group[kept]) & set(group[held])
    assert len(kept) > 0
    if fraction == 0:
        assert len(held) == 0
    elif len(set(group)) > 1:
        assert len(held) > 0


@FEW
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 99)), min_size=1, max_size=60), st.integers(1, 7))
def test_stride_keeps_the_first_and_every_kth_in_time(rows: list[tuple[int, int]], stride: int) -> None:
    group, order = np.array(rows, np.int64).T
    kept = splits.every_kth(group, order, stride)
    for one in set(group):
        times = sorted(order[group == one])
        assert sorted(order[kept][group[kept] == one]) == times[::stride]


def test_hold_out_is_stratified_and_keeps_every_class() -> None:
    group = np.arange(205, dtype=np.int64)
    labels = np.r_[np.zeros(100), np.ones(100), [2, 3, 4, 5, 6]].astype(np.int64)
    kept, held = splits.hold_out(group, 0.2, generator(1), labels)
    assert np.bincount(labels[held], minlength=7).tolist() == [20, 20, 0, 0, 0, 0, 0]
    assert set(labels[kept]) == set(range(7))


def test_many_classes_of_one_group_are_not_paid_for_by_the_next() -> None:
    labels = np.r_[np.arange(40), np.repeat(np.arange(40, 50), 6)].astype(np.int64)
    _, held = splits.hold_out(np.arange(100, dtype=np.int64), 0.2, generator(1), labels)
    assert 11 <= len(held) <= 13  # 0.2 of the 60 that can be held back


def test_majority_takes_the_most_frequent_and_the_lower_of_equals() -> None:
    index = np.array([0, 0, 0, 1, 1, 2])
    labels = np.array([5, 3, 5, 4, 2, 9], np.int64)
    assert splits.majority(index, labels, 3).tolist() == [5, 2, 9]


def test_dirichlet_gets_closer_to_iid_with_alpha() -> None:
    labels = np.repeat(np.arange(10, dtype=np.int64), 200)

    def skew(alpha: float) -> float:
        parts = splits.dirichlet(labels, 20, alpha, generator(3))
        mixtures = np.stack([np.bincount(labels[part], minlength=10) / len(part) for part in parts])
        return float(np.abs(mixtures - 0.1).sum(axis=1).mean() / 2)

    assert skew(0.3) > 0.65 > 0.55 > skew(10.0) > 0.3 > skew(100.0)


@pytest.mark.parametrize("alpha", [5e-324, 1e-9])
def test_the_smallest_alpha_gives_one_class_a_vehicle(alpha: float) -> None:
    labels = np.repeat(np.arange(10, dtype=np.int64), 200)
    parts = splits.dirichlet(labels, 20, alpha, generator(3))
    assert sum(len(np.unique(labels[part])) == 1 for part in parts) >= 6


def test_shards_give_few_classes_a_vehicle() -> None:
    labels = np.tile(np.arange(10, dtype=np.int64), 100)
    parts = splits.shards(labels, 50, 2, generator(3))
    assert all(len(part) == 20 for part in parts)
    assert all(len(np.unique(labels[part])) <= 2 for part in parts)


def test_whole_is_even() -> None:
    keys = np.repeat(np.arange(60, dtype=np.int64), 30)
    assert {len(part) for part in splits.whole(keys, 20, generator(2))} == {90}


@pytest.mark.parametrize("seed", range(5))
def test_nobody_is_empty_even_where_sizes_are_very_unequal(seed: int) -> None:
    keys = np.repeat(np.arange(4, dtype=np.int64), 100)
    is_partition(splits.whole(keys, 3, generator(seed), sigma=5.0), 400, 3)


def test_recorders_are_the_vehicles_in_order() -> None:
    parts = splits.by_recorder(np.array([9, 2, 9, 5], np.int64), 3, generator(0))
    assert [part.tolist() for part in parts] == [[1], [3], [0, 2]]


def test_more_recorders_than_vehicles_are_dealt_out_whole() -> None:
    recorder = np.repeat(np.arange(6, dtype=np.int64), 4)
    parts = splits.by_recorder(recorder, 3, generator(0))
    assert [len(np.unique(recorder[part])) for part in parts] == [2, 2, 2]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: splits.iid(3, 4, generator(0)), "fleet.vehicles is 4.*3 samples"),
        (lambda: splits.shards(np.zeros(5, np.int64), 3, 2, generator(0)), "data.shards is 6.*there are 5"),
        (lambda: splits.dirichlet(np.zeros(5, np.int64), 2, 0.0, generator(0)), "data.alpha is 0.0"),
        (lambda: splits.dirichlet(np.zeros(5, np.int64), 2, np.inf, generator(0)), "data.alpha is inf"),
        (lambda: splits.whole(np.array([1, 1, 2]), 3, generator(0)), "fleet.vehicles is 3.*data has 2"),
        (lambda: splits.every_kth(np.zeros(2, np.int64), np.arange(2), 0), "data.stride is 0"),
    ],
)
def test_what_cannot_be_split_is_refused(call: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        call()  # type: ignore[operator]
