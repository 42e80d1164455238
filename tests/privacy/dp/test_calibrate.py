"""Noise for a target: never under, at most 1e-3 over; and how many rounds a budget has."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carpool.privacy.dp.accounting import epsilon
from carpool.privacy.dp.calibrate import MOST_ROUNDS, calibrate, largest_rounds, noise_for
from carpool.privacy.dp.events import Event
from carpool.privacy.errors import UsageError

DELTA = 1e-5
FINE = {"mechanism": "skellam", "l1": 3000.0, "step": 0.01, "sensitivity": 1.01}
COARSE = {"mechanism": "skellam", "l1": 40.0, "step": 0.5, "sensitivity": 1.2}


def cost(noise, rounds, rate, relation, mechanism="gaussian", sensitivity=1.0, l1=0.0, step=0.0, delta=DELTA):
    event = Event(mechanism, noise, rate, rounds, sensitivity, l1, step)
    return epsilon((event,), delta, relation).epsilon


def exact(target, rounds, rate=1.0, relation="zero-out", **facts):
    noise = calibrate(target, DELTA, rounds, rate, relation, **facts)
    assert cost(noise, rounds, rate, relation, **facts) <= target
    assert cost(noise / 1.001, rounds, rate, relation, **facts) > target
    return noise


@settings(max_examples=30, deadline=None)
@given(
    st.floats(0.01, 100), st.integers(1, 10_000), st.sampled_from(["zero-out", "add-remove", "replace-one"])
)
def test_without_sampling_it_is_exact(target, rounds, relation):
    noise = calibrate(target, DELTA, rounds, 1.0, relation)
    assert target * (1 - 1e-6) <= cost(noise, rounds, 1.0, relation) <= target


def test_known_values():
    assert exact(8.0, 100) == pytest.approx(6.00229, abs=1e-5)
    assert exact(4.37718, 25) == pytest.approx(5.0, abs=1e-5)
    assert exact(8.0, 100, relation="replace-one") == pytest.approx(12.00458, abs=1e-5)
    assert exact(8.0, 1, mechanism="matrix", sensitivity=4.0) == pytest.approx(4 * 0.600229, abs=1e-5)


@pytest.mark.parametrize("facts", [FINE, COARSE])
@pytest.mark.parametrize("target", [0.05, 1.0, 8.0, 50.0])
def test_skellam(target, facts):
    noise = exact(target, 100, **facts)
    gaussian = calibrate(target, DELTA, 100, sensitivity=facts["sensitivity"])
    assert noise > gaussian


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "rounds", "rate", "relation"),
    [(1.0, 500, 0.01, "zero-out"), (8.0, 100, 0.2, "replace-one"), (0.05, 100, 0.1, "zero-out")],
)
def test_with_sampling(target, rounds, rate, relation):
    exact(target, rounds, rate, relation)


def test_facts_that_depend_on_the_noise():
    def plan(noise):  # the steps are as fine as the noise allows
        return (Event("skellam", noise, count=50, l1=400.0, step=noise / 100),)

    noise = noise_for(plan, 2.0, DELTA, "zero-out")
    assert epsilon(plan(noise), DELTA, "zero-out").epsilon <= 2.0
    assert epsilon(plan(noise / 1.001), DELTA, "zero-out").epsilon > 2.0


@pytest.mark.parametrize(
    ("target", "delta", "match"),
    [
        (0.0, DELTA, "epsilon is 0.0; use a number above 0"),
        (-1.0, DELTA, "epsilon is -1.0"),
        (math.nan, DELTA, "epsilon is nan"),
        (math.inf, DELTA, "epsilon is inf"),
        (1e9, DELTA, "up to 1000"),
        (1.0, 0.0, "delta is 0.0"),
        (1.0, 1.0, "delta is 1.0"),
        (1.0, math.nan, "delta is nan"),
    ],
)
def test_a_target_that_is_none_is_refused(target, delta, match):
    for facts in ({}, FINE):
        with pytest.raises(UsageError, match=match):
            calibrate(target, delta, 10, **facts)
    with pytest.raises(UsageError, match=match):
        largest_rounds(target, delta, Event("gaussian", 1.0), "zero-out")


def test_a_target_that_no_noise_reaches_is_refused():
    bare = Event("gaussian", 0.01)
    with pytest.raises(UsageError, match="no noise up to 1e[+]12 keeps epsilon 1.0.*larger"):
        noise_for(lambda noise: (bare, Event("gaussian", noise)), 1.0, DELTA, "zero-out")
    with pytest.raises(UsageError, match="needs no noise at all"):
        noise_for(lambda noise: (Event("gaussian", 10.0),), 1000.0, DELTA, "zero-out")


@pytest.mark.parametrize(
    ("event", "others"),
    [
        (Event("gaussian", 10.0), ()),
        (Event("gaussian", 10.0, count=7), (Event("gaussian", 20.0, count=30),)),
        (Event("skellam", 10.0, l1=3000.0, step=0.01), (Event("gaussian", 20.0),)),
    ],
)
def test_the_largest_number_of_rounds(event, others):
    rounds = largest_rounds(4.0, DELTA, event, "zero-out", others)
    assert rounds > 5

    def spent(count):
        one = Event(event.mechanism, 10.0, count=count, l1=event.l1, step=event.step)
        return epsilon((*others, one), DELTA, "zero-out").epsilon

    assert spent(rounds) <= 4.0 < spent(rounds + 1)


@pytest.mark.slow
def test_the_largest_number_of_sampled_rounds():
    event = Event("gaussian", 1.0, 0.01)
    rounds = largest_rounds(1.82825, DELTA, event, "zero-out")
    assert rounds == 1000
    by_renyi = epsilon((Event("gaussian", 1.0, 0.01, rounds),), DELTA, "zero-out", accountant="rdp")
    assert by_renyi.epsilon > 2  # which would have stopped long before


def test_no_round_and_no_end():
    assert largest_rounds(1.0, DELTA, Event("gaussian", 1.0), "zero-out") == 0
    assert largest_rounds(1.0, DELTA, Event("gaussian", 9.0), "zero-out", [Event("gaussian", 1.0)]) == 0
    assert largest_rounds(1.0, DELTA, Event("gaussian", 1e9), "zero-out") == MOST_ROUNDS
