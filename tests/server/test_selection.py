"""Cohort selection: laws, uniformity at a stated error rate, and speed."""

import math
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool.server.selection import asked_size, uniform


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


@given(st.lists(st.integers(0, 10**6), unique=True, max_size=40), st.integers(0, 50), st.integers(0, 2**32))
def test_a_cohort_is_a_sorted_subset(ids: list[int], size: int, seed: int) -> None:
    present = np.array(sorted(ids), np.int64)
    chosen = uniform(present, size, generator(seed))
    assert chosen.dtype == np.int64
    assert len(chosen) == min(size, len(present))
    assert (np.diff(chosen) > 0).all()
    assert np.isin(chosen, present).all()
    assert np.array_equal(chosen, uniform(present, size, generator(seed)))


def test_fewer_present_than_asked_are_all_asked() -> None:
    present = np.array([3, 5, 9], np.int64)
    chosen = uniform(present, 30, generator(1))
    assert chosen.tolist() == [3, 5, 9]
    assert chosen is not present


@pytest.mark.parametrize("ids", [[2, 1], [1, 1]])
def test_unsorted_or_repeated_ids_are_refused(ids: list[int]) -> None:
    with pytest.raises(ValueError, match="strictly increasing"):
        uniform(np.array(ids, np.int64), 1, generator(1))


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        uniform(np.arange(3), -1, generator(1))


@pytest.mark.parametrize(
    ("cohort", "over", "size"),
    [(20, 0.5, 30), (50, 0.1, 55), (7, 0.0, 7), (1, 0.01, 2), (3, 0.5, 5), (10, 2.0, 30)],
)
def test_asked_size_rounds_up_but_not_for_binary_dust(cohort: int, over: float, size: int) -> None:
    assert asked_size(cohort, over) == size


@pytest.mark.parametrize(("cohort", "over"), [(0, 0.5), (5, -0.1), (5, math.nan), (5, math.inf)])
def test_impossible_sizes_are_refused(cohort: int, over: float) -> None:
    with pytest.raises(ValueError, match=r"must be|at least"):
        asked_size(cohort, over)


def rejects_uniformity(counts: np.ndarray, rounds: int, size: int) -> bool:
    """Chi-square of how often each id was chosen, false-positive rate at most 1e-6.

    Without replacement the plain statistic is too small by (n - size) / (n - 1). The threshold is Laurent &
    Massart 2000, Lemma 1: P(X > k + 2 sqrt(k x) + 2 x) <= exp(-x) with k degrees of freedom.
    """
    n = len(counts)
    expected = rounds * size / n
    statistic = float(((counts - expected) ** 2).sum()) / expected * (n - 1) / (n - size)
    x = math.log(1e6)
    return statistic > (n - 1) + 2 * math.sqrt((n - 1) * x) + 2 * x


ROUNDS, IDS, SIZE = 1500, 1000, 500


def test_everybody_is_chosen_equally_often() -> None:
    rng, present = generator(11), np.arange(IDS)
    counts = np.zeros(IDS)
    for _ in range(ROUNDS):
        counts[uniform(present, SIZE, rng)] += 1
    assert not rejects_uniformity(counts, ROUNDS, SIZE)


def test_the_uniformity_test_sees_a_five_percent_bias() -> None:
    # Weighted sampling without replacement (Efraimidis & Spirakis 2006): half of the ids weigh 10 % more, and
    # are then chosen 5 % more often.
    rng, weight = generator(12), np.where(np.arange(IDS) < IDS // 2, 1.1, 1.0)
    counts = np.zeros(IDS)
    for _ in range(ROUNDS):
        counts[np.argpartition(rng.exponential(size=IDS) / weight, SIZE)[:SIZE]] += 1
    share = counts[: IDS // 2].sum() / counts[IDS // 2 :].sum()
    assert 1.03 < share < 1.08
    assert rejects_uniformity(counts, ROUNDS, SIZE)


def test_a_million_vehicles_take_under_fifty_milliseconds() -> None:
    present, rng = np.arange(1_000_000), generator(3)
    best = math.inf
    for _ in range(3):
        begin = time.perf_counter()
        uniform(present, 30, rng)
        best = min(best, time.perf_counter() - begin)
    assert best < 0.05


@given(st.integers(-5, 5), st.integers(0, 60), st.integers(1, 3), st.integers(0, 70), st.integers(0, 2**32))
def test_a_range_gives_the_cohort_of_the_ids_in_it(
    start: int, count: int, step: int, size: int, seed: int
) -> None:
    present = range(start, start + count * step, step)
    chosen = uniform(present, size, generator(seed))
    assert chosen.dtype == np.int64
    assert np.array_equal(chosen, uniform(np.array(present, np.int64), size, generator(seed)))


def test_a_falling_range_is_refused() -> None:
    with pytest.raises(ValueError, match="strictly increasing"):
        uniform(range(9, 0, -1), 2, generator(1))


def test_a_million_in_a_range_cost_the_cohort_only() -> None:
    tracemalloc.start()
    try:
        chosen = uniform(range(1, 1_000_001), 100, generator(3))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(chosen) == 100
    assert peak < 100_000
