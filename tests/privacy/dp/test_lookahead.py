"""One more release: the answer is that of the value reported, and it is quick."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carpool.privacy.dp import accounting, lookahead
from carpool.privacy.dp.calibrate import calibrate
from carpool.privacy.dp.events import Event
from carpool.privacy.dp.lookahead import Composer, would_exceed
from carpool.privacy.errors import PrivacyRefused, UsageError

DELTA = 1e-5
SKELLAM = {"l1": 3000.0, "step": 0.01}

events = st.one_of(
    st.builds(Event, st.just("gaussian"), st.floats(1, 50), count=st.integers(1, 5)),
    st.builds(Event, st.just("matrix"), st.floats(1, 50), sensitivity=st.floats(0.5, 4)),
    st.builds(
        Event,
        st.just("skellam"),
        st.floats(1, 50),
        l1=st.just(3000.0),
        step=st.just(0.01),
        count=st.integers(1, 5),
    ),
)


@settings(deadline=None)
@given(
    st.lists(events, max_size=6), events, st.floats(0.1, 100), st.sampled_from(["zero-out", "replace-one"])
)
def test_it_says_what_the_reported_value_says(history, event, budget, relation):
    composer = Composer(relation, history)
    reported = accounting.epsilon([*history, event], DELTA, relation).epsilon
    if reported != pytest.approx(budget, rel=1e-6):
        assert would_exceed(composer, event, budget, DELTA) == (reported > budget)
    assert composer.epsilon(DELTA) == accounting.epsilon(history, DELTA, relation)
    assert composer.bound(DELTA) == pytest.approx(composer.epsilon(DELTA).epsilon, rel=1e-9, abs=1e-12)


def test_alike_events_are_kept_as_one():
    composer = Composer("zero-out", [Event("gaussian", 2.0, count=3)])
    composer.add(Event("gaussian", 5.0))
    composer.add(Event("gaussian", 2.0))
    assert composer.events == (Event("gaussian", 2.0, count=4), Event("gaussian", 5.0))


@pytest.mark.parametrize("facts", [{}, {"mechanism": "skellam", **SKELLAM}])
def test_a_calibrated_run_may_do_all_its_rounds_and_no_more(facts):
    noise = calibrate(8.0, DELTA, 100, **facts)
    event = Event(**{"mechanism": "gaussian", **facts}, noise_multiplier=noise)
    composer = Composer("zero-out")
    for _ in range(100):
        assert not composer.would_exceed(event, 8.0, DELTA)
        composer.add(event)
    assert composer.would_exceed(event, 8.0, DELTA)


@pytest.mark.slow
def test_a_sampled_run_stops_where_the_reported_value_does():
    event = Event("gaussian", 1.0, 0.01)
    composer = Composer("zero-out", [Event("gaussian", 1.0, 0.01, 995)])
    done = 0
    while not composer.would_exceed(event, 1.82825, DELTA):
        composer.add(event)
        done += 1
    assert done == 5  # 1000 rounds give 1.82824
    assert composer.bound(DELTA) > 2


def test_pld_is_asked_once(monkeypatch):
    asked = []

    def counted(*arguments):
        asked.append(arguments)
        return 7

    monkeypatch.setattr(lookahead, "largest_rounds", counted)
    event = Event("gaussian", 1.0, 0.1)
    composer = Composer("zero-out", [Event("gaussian", 9.0)])
    while not composer.would_exceed(event, 1.0, DELTA):
        composer.add(event)
    assert composer.events == (Event("gaussian", 9.0), Event("gaussian", 1.0, 0.1, 7))
    assert len(asked) == 1
    composer.add(Event("gaussian", 9.0))  # another history: another question
    assert composer.would_exceed(event, 1.0, DELTA)
    assert len(asked) == 2


def test_without_noise_every_budget_is_exceeded():
    bare = Event("gaussian", 0.0)
    assert Composer("zero-out").would_exceed(bare, 1e300, DELTA)
    assert Composer("zero-out", [bare]).would_exceed(Event("gaussian", 1e9), 1e300, DELTA)


def test_what_no_theorem_covers_is_refused():
    sampled = Event("skellam", 1.0, 0.5, **SKELLAM)
    composer = Composer("zero-out")
    for refuse in (composer.add, lambda event: composer.would_exceed(event, 8.0, DELTA)):
        with pytest.raises(PrivacyRefused, match="sampling"):
            refuse(sampled)
    assert composer.events == ()
    with pytest.raises(UsageError, match="relation"):
        Composer("swap")
    with pytest.raises(UsageError, match="delta"):
        composer.would_exceed(Event("gaussian", 1.0), 8.0, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [1.0, 0.01])
def test_a_look_ahead_is_quick_after_a_thousand_rounds(rate):
    composer = Composer("zero-out", [Event("gaussian", 50 + number / 100, rate) for number in range(1000)])
    took = []
    for number in range(30):
        event = Event("gaussian", 70 + number / 100, rate)
        start = time.process_time()
        assert not composer.would_exceed(event, 8.0, DELTA)
        composer.add(event)
        took.append(time.process_time() - start)
    assert sorted(took)[15] < 0.02  # 0.001 s on a quiet machine
