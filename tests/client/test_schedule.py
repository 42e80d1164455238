"""The learning rate is a pure function of the round."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carpool.client.schedule import learning_rate


def test_constant():
    assert [learning_rate(0.1, r, 5) for r in range(1, 6)] == [0.1] * 5


def test_cosine_by_hand():
    rates = [learning_rate(2.0, r, 4, schedule="cosine") for r in range(1, 5)]
    wanted = [1 + math.cos(math.pi * k / 4) for k in range(4)]
    assert rates == pytest.approx(wanted)


def test_the_cosine_comes_down_to_the_final_share_after_the_last_round():
    assert learning_rate(2.0, 11, 10, schedule="cosine", final=0.25) == pytest.approx(0.5)
    assert learning_rate(2.0, 6, 10, schedule="cosine", final=0.25) == pytest.approx(0.5 + 1.5 / 2)
    assert learning_rate(2.0, 3, 10, schedule="cosine", final=1.0) == pytest.approx(2.0)


def test_warm_up_is_linear_and_reaches_the_peak_in_its_last_round():
    rates = [learning_rate(0.4, r, 10, warmup=4) for r in range(1, 7)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


def test_the_cosine_begins_at_the_peak_where_the_warm_up_ends():
    warm = [learning_rate(1.0, r, 10, schedule="cosine", warmup=3) for r in range(1, 11)]
    falling = [0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(8)]
    assert warm == pytest.approx([1 / 3, 2 / 3, *falling])
    assert warm[2] == 1.0


@settings(deadline=None, max_examples=50)
@given(
    lr=st.floats(1e-6, 10),
    rounds=st.integers(1, 300),
    final=st.floats(0, 1),
    warmup=st.integers(0, 50),
    data=st.data(),
)
def test_the_rate_is_positive_and_never_above_the_peak(lr, rounds, final, warmup, data):
    round_ = data.draw(st.integers(1, rounds))
    for schedule in ("constant", "cosine"):
        rate = learning_rate(lr, round_, rounds, schedule=schedule, final=final, warmup=warmup)
        assert 0 < rate <= lr * (1 + 1e-12)


@settings(deadline=None, max_examples=50)
@given(rounds=st.integers(2, 100), final=st.floats(0, 0.99))
def test_the_cosine_never_rises(rounds, final):
    rates = [learning_rate(1.0, r, rounds, schedule="cosine", final=final) for r in range(1, rounds + 1)]
    assert all(a > b for a, b in pairwise(rates))
