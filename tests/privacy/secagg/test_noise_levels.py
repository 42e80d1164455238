"""Noise in parts: what stays is never less than planned, and hardly more."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carpool.privacy.secagg.noise_levels import boundaries, realised, revealed, shares

cases = st.tuples(st.integers(1, 400), st.floats(0, 0.9), st.integers(0, 16))


def test_a_hand_example():
    """Ten vehicles, three may leave, a level a loss: variances 1/10, 1/9 - 1/10, 1/8 - 1/9, 1/7 - 1/8."""
    assert boundaries(10, 0.3, 16) == (0, 1, 2, 3)
    assert shares(10, 0.3, 16) == pytest.approx((1 / 10, 1 / 90, 1 / 72, 1 / 56), rel=1e-12)
    assert [revealed(10, 10 - lost, 0.3, 16) for lost in range(5)] == [(1, 2, 3), (2, 3), (3,), (), ()]
    assert [realised(10, 10 - lost, 0.3, 16) for lost in range(4)] == [1.0] * 4
    assert realised(10, 6, 0.3, 16) == pytest.approx(6 / 7)


def test_fewer_levels_than_losses_round_the_noise_up():
    assert boundaries(10, 0.3, 1) == (0, 3)
    assert [revealed(10, 10 - lost, 0.3, 1) for lost in range(4)] == [(1,), (), (), ()]
    assert [realised(10, 10 - lost, 0.3, 1) for lost in range(4)] == [1.0, 9 / 7, 8 / 7, 1.0]


@settings(max_examples=40)
@given(cases)
def test_every_planned_loss_leaves_the_target_or_more_and_never_more_than_a_level(case):
    at, planned = boundaries(*case), boundaries(*case)[-1]
    levels = len(at) - 1
    assert levels == min(case[2], min(math.floor(case[1] * case[0] + 1e-9), case[0] - 1))
    assert list(at) == sorted(set(at))
    for lost in range(planned + 1):
        stays = realised(case[0], case[0] - lost, *case[1:])
        assert stays >= 1.0
        above = next(limit for limit in at if limit >= lost)
        assert stays == (case[0] - lost) / (case[0] - above)
        assert above - lost < math.ceil(planned / levels) if levels else lost == 0


@settings(max_examples=40)
@given(cases, st.data())
def test_what_is_kept_of_the_parts_is_what_is_realised(case, data):
    counted = data.draw(st.integers(0, case[0]))
    base, *parts = shares(*case)
    gone = revealed(case[0], counted, *case[1:])
    assert all(part > 0 for part in parts)
    assert base == 1 / case[0]
    kept = math.fsum([base, *(part for j, part in enumerate(parts, 1) if j not in gone)])
    assert counted * kept == pytest.approx(realised(case[0], counted, *case[1:]), rel=1e-12)
    assert gone == tuple(range(len(parts) - len(gone) + 1, len(parts) + 1))  # always the last ones


@settings(max_examples=40)
@given(cases)
def test_more_losses_than_planned_open_nothing(case):
    planned = boundaries(*case)[-1]
    for lost in range(planned + 1, case[0] + 1):
        assert revealed(case[0], case[0] - lost, *case[1:]) == ()
        if planned:
            assert realised(case[0], case[0] - lost, *case[1:]) < 1


def test_what_makes_no_sense_is_refused():
    for bad in ((0, 0.1, 1), (5, 1.0, 1), (5, -0.1, 1), (5, math.nan, 1), (5, 0.1, 17), (5, 0.1, -1)):
        with pytest.raises(ValueError, match="from 0 to below 1"):
            boundaries(*bad)
    for counted in (-1, 6):
        with pytest.raises(ValueError, match="but 5 in the roster"):
            realised(5, counted, 0.2, 1)
