"""From facts to epsilon: published values, laws, refusals, and a second implementation."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carpool.privacy.dp import accounting
from carpool.privacy.dp.accounting import epsilon
from carpool.privacy.dp.events import Event
from carpool.privacy.errors import PrivacyRefused, UsageError

DELTA = 1e-5
SKELLAM = Event("skellam", 10.0, count=10, sensitivity=1.01, l1=3000.0, step=0.01)


def gaussian(noise, rate=1.0, count=1, **more):
    return Event("gaussian", noise, rate, count, **more)


def near(tight):
    """Within the allowance of what the tool prints: [tight - 0.002, tight + 0.02]."""
    return pytest.approx(tight + 0.009, abs=0.011)


@pytest.mark.parametrize(
    ("event", "relation", "delta", "tight"),
    [
        (gaussian(1.0), "zero-out", DELTA, 4.37718),
        (gaussian(1.0), "add-remove", DELTA, 4.37718),
        (gaussian(5.0, count=25), "zero-out", DELTA, 4.37718),
        (gaussian(8.0, count=10), "zero-out", DELTA, 1.53468),
        (gaussian(2.0, count=10), "replace-one", DELTA, 17.857),
        (Event("matrix", 5.0, sensitivity=5.0), "zero-out", DELTA, 4.37718),
        (gaussian(22.36, count=100), "zero-out", 1e-6, 1.995),
        (gaussian(22.36 * math.sqrt(0.7), count=100), "zero-out", 1e-6, 2.426),
    ],
)
def test_published_values_without_sampling(event, relation, delta, tight):
    found = epsilon((event,), delta, relation)
    assert found.epsilon == near(tight)
    assert (found.accountant, found.delta, found.gaussian) == ("closed", delta, None)


def test_a_replacement_moves_the_sum_twice_as_far():
    event = gaussian(2.0, count=10)
    trap = 8.079  # of dp-accounting's Rényi accountant, which ignores the relation
    assert epsilon((event,), DELTA, "zero-out", accountant="rdp").epsilon == pytest.approx(trap, abs=1e-3)
    assert epsilon((event,), DELTA, "replace-one", accountant="rdp").epsilon == pytest.approx(
        19.054, abs=1e-3
    )
    half = gaussian(1.0, count=10)
    assert epsilon((event,), DELTA, "replace-one") == epsilon((half,), DELTA, "zero-out")


@pytest.mark.slow
def test_published_values_with_sampling():
    event = gaussian(1.0, 0.01, 1000)
    assert epsilon((event,), DELTA, "zero-out").epsilon == near(1.82824)
    assert epsilon((event,), DELTA, "zero-out").accountant == "pld"
    assert epsilon((event,), DELTA, "zero-out", accountant="rdp").epsilon == near(2.10137)
    opacus = epsilon((gaussian(1.5, 0.04, 2250),), DELTA, "zero-out", accountant="rdp")
    assert opacus.epsilon == near(7.32911)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("noise", "rate", "count"), [(1.0, 0.01, 1000), (0.8, 0.02, 300), (5.0, 0.5, 200)])
def test_opacus_agrees(noise, rate, count):
    from opacus.accountants import PRVAccountant

    second = PRVAccountant()
    second.history = [(noise, rate, count)]
    theirs = second.get_epsilon(DELTA, eps_error=0.005)  # its upper end
    found = epsilon((gaussian(noise, rate, count),), DELTA, "add-remove").epsilon
    assert theirs - 0.012 <= found <= theirs + 0.001


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_opacus_agrees_on_a_mixed_history():
    from opacus.accountants import PRVAccountant

    second = PRVAccountant()
    second.history = [(1.2, 0.02, 200), (2.0, 0.05, 100)]
    theirs = second.get_epsilon(DELTA, eps_error=0.005)
    events = (gaussian(1.2, 0.02, 120), gaussian(2.0, 0.05, 100), gaussian(1.2, 0.02, 80))
    assert theirs - 0.012 <= epsilon(events, DELTA, "zero-out").epsilon <= theirs + 0.001


@pytest.mark.slow
def test_pld_agrees_with_the_closed_form():
    events = (gaussian(6.0, count=12), Event("matrix", 9.0, sensitivity=4.0))
    exact = epsilon(events, DELTA, "replace-one").epsilon
    by_pld = epsilon(events, DELTA, "replace-one", accountant="pld")
    assert by_pld.accountant == "pld"
    assert exact <= by_pld.epsilon + 1e-9
    assert by_pld.epsilon == pytest.approx(exact, abs=1e-4)
    assert epsilon(events, DELTA, "replace-one", accountant="rdp").epsilon > exact


@pytest.mark.slow
def test_sampled_and_plain_releases_add_up():
    plain, sampled = gaussian(5.0, count=4), gaussian(1.0, 0.01, 200)
    both = epsilon((plain, sampled), DELTA, "zero-out")
    assert both.accountant == "pld"
    each = [epsilon((one,), DELTA, "zero-out").epsilon for one in (plain, sampled)]
    assert max(each) < both.epsilon < sum(each)
    assert both == epsilon((sampled, plain), DELTA, "zero-out")


def profile(noise, rate, loss, *, shift=1.0):
    """Delta at an epsilon of one sampled release under replace-one, by integration on a line."""
    x = np.linspace(-15 * noise - 1, 15 * noise + 1, 200_001)
    zero, up, down = (np.exp(-(((x - at) / noise) ** 2) / 2) for at in (0, shift, -shift))
    p, q = (1 - rate) * zero + rate * up, (1 - rate) * zero + rate * down
    gap = np.maximum(p - math.exp(loss) * q, 0)
    return gap.sum() * (x[1] - x[0]) / noise / math.sqrt(2 * math.pi)


@pytest.mark.slow
def test_a_sampled_replacement_is_what_its_densities_say():
    found = epsilon((gaussian(0.8, 0.2),), DELTA, "replace-one")
    assert found.accountant == "pld"
    assert profile(0.8, 0.2, found.epsilon) == pytest.approx(DELTA, rel=2e-3)
    zero_out = epsilon((gaussian(0.8, 0.2),), DELTA, "zero-out").epsilon
    whole = epsilon((gaussian(0.8),), DELTA, "replace-one").epsilon
    assert zero_out < found.epsilon < whole


@pytest.mark.slow
@pytest.mark.parametrize("loss", [0.0, 0.3, 1.5])
def test_no_other_pair_of_neighbours_is_worse_than_opposite_ones(loss):
    noise, rate = 0.8, 0.2
    worst = profile(noise, rate, loss)
    axis = np.linspace(-9, 9, 601)
    first, second = np.meshgrid(axis, axis)

    def density(x, y):
        return np.exp(-((first - x) ** 2 + (second - y) ** 2) / (2 * noise**2))

    cell = (axis[1] - axis[0]) ** 2 / (2 * math.pi * noise**2)
    found = []
    for length in (0.0, 0.5, 1.0):
        for angle in np.linspace(0, math.pi, 7):
            other = density(length * math.cos(angle), length * math.sin(angle))
            p = (1 - rate) * density(0, 0) + rate * density(1, 0)
            q = (1 - rate) * density(0, 0) + rate * other
            found += [np.maximum(one - math.exp(loss) * two, 0).sum() * cell for one, two in ((p, q), (q, p))]
    assert max(found) <= worst * (1 + 1e-3)  # what this grid errs by
    assert max(found) > profile(noise, rate, loss, shift=0.95)


def test_skellam_is_charged_above_the_gaussian_of_its_variance():
    found = epsilon((SKELLAM,), DELTA, "zero-out")
    assert found.accountant == "rdp"
    assert found.gaussian < found.epsilon < found.gaussian * 1.001
    coarse = dataclasses.replace(SKELLAM, step=1.0, l1=30.0)
    worse = epsilon((coarse,), DELTA, "zero-out")
    assert worse.epsilon > found.epsilon
    assert worse.gaussian == found.gaussian
    twin = Event("gaussian", 10.0, count=10, sensitivity=1.01)
    assert epsilon((twin,), DELTA, "zero-out", accountant="rdp").epsilon == pytest.approx(found.gaussian)
    twice = dataclasses.replace(coarse, sensitivity=2 * coarse.sensitivity, l1=2 * coarse.l1)
    assert epsilon((coarse,), DELTA, "replace-one") == epsilon((twice,), DELTA, "zero-out")


def test_a_mixed_ledger_adds_up_by_renyi():
    parts = (
        SKELLAM,
        gaussian(20.0, count=5),
        gaussian(2.0, 0.01, 50),
        Event("matrix", 30.0, sensitivity=3.0),
    )
    found = epsilon(parts, DELTA, "zero-out")
    assert found.accountant == "rdp"
    assert max(epsilon((one,), DELTA, "zero-out", accountant="rdp").epsilon for one in parts) < found.epsilon
    assert found == epsilon(parts[::-1], DELTA, "zero-out") or found.epsilon == pytest.approx(
        epsilon(parts[::-1], DELTA, "zero-out").epsilon, rel=1e-12
    )


@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(0.5, 50), st.integers(1, 100)), min_size=1, max_size=6))
def test_order_and_grouping_do_not_matter(parts):
    events = [gaussian(noise, count=count) for noise, count in parts]
    split = [gaussian(noise) for noise, count in reversed(parts) for _ in range(count)]
    one, other = epsilon(events, DELTA, "zero-out"), epsilon(split, DELTA, "zero-out")
    assert one.epsilon == pytest.approx(other.epsilon, rel=1e-12)
    assert epsilon(events[1:], DELTA, "zero-out").epsilon <= one.epsilon


def test_nothing_released_costs_nothing_and_no_noise_everything():
    assert epsilon((), DELTA, "zero-out").epsilon == 0
    for bare in (gaussian(0.0), gaussian(0.0, 0.01), dataclasses.replace(SKELLAM, noise_multiplier=0.0)):
        assert epsilon((gaussian(9.0), bare), DELTA, "zero-out").epsilon == math.inf


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, 2.0, math.nan, math.inf])
def test_a_delta_that_is_none_is_refused(delta):
    with pytest.raises(UsageError, match="delta is .*; use a number above 0 and below 1"):
        epsilon((gaussian(1.0),), delta, "zero-out")


@pytest.mark.parametrize("delta", [1e-300, 1e-30, 1e-12, 0.5, 1 - 1e-12])
@pytest.mark.parametrize("event", [gaussian(3.0), gaussian(3.0, 0.1), SKELLAM])
def test_every_delta_between_has_an_epsilon(event, delta):
    found = epsilon((event,), delta, "zero-out")
    assert 0 <= found.epsilon < math.inf
    assert (found.epsilon == 0) == (delta >= 0.5)
    if event.sampling_rate < 1 and delta < 1e-11:
        assert found.accountant == "rdp"


def test_what_no_theorem_covers_is_refused():
    unknown = gaussian(1.0)
    object.__setattr__(unknown, "mechanism", "laplace")
    with pytest.raises(PrivacyRefused, match="'laplace'.*unknown"):
        epsilon((gaussian(1.0), unknown), DELTA, "zero-out")
    for mechanism in ("skellam", "matrix"):
        sampled = Event(mechanism, 5.0, 0.1, **({"l1": 9.0, "step": 0.5} if mechanism == "skellam" else {}))
        with pytest.raises(PrivacyRefused, match="record a sampling rate of 1"):
            epsilon((sampled,), DELTA, "zero-out")
    with pytest.raises(PrivacyRefused, match="L1 is never the smaller one"):
        epsilon((Event("skellam", 5.0, l1=50.0, step=0.01),), DELTA, "zero-out")


@pytest.mark.parametrize(
    ("event", "relation", "accountant", "match"),
    [
        (gaussian(1.0), "swap", "auto", "relation 'swap' is unknown; use one of zero-out"),
        (gaussian(1.0), "zero-out", "gdp", "'gdp' is unknown; use one of auto, closed, pld, rdp"),
        (gaussian(1.0, 0.1), "zero-out", "closed", "use --accountant auto"),
        (SKELLAM, "zero-out", "closed", "use --accountant auto"),
        (SKELLAM, "zero-out", "pld", "use --accountant auto"),
    ],
)
def test_what_does_not_fit_is_refused(event, relation, accountant, match):
    with pytest.raises(UsageError, match=match):
        epsilon((event,), DELTA, relation, accountant=accountant)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("noise", "rate", "count", "expected"),
    [(1000.0, 0.01, 10**6, 0.02726), (300.0, 0.01, 100, 0.000497), (0.5, 0.5, 10, 31.374)],
)
def test_tiny_and_huge_losses_keep_their_precision(noise, rate, count, expected):
    found = epsilon((gaussian(noise, rate, count),), DELTA, "zero-out")
    assert found.epsilon == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize(
    "event",
    [gaussian(1e-3, 1e-6), gaussian(0.01, 0.5, 10**9), gaussian(1e-200, 0.5), gaussian(5.0, 0.1, 10**8)],
)
def test_extremes_take_no_time(event):
    found = epsilon((event,), DELTA, "zero-out")
    assert found.accountant == "rdp"
    assert found.epsilon > 10


@pytest.mark.parametrize("relation", ["zero-out", "replace-one"])
@pytest.mark.parametrize("accountant", ["auto", "rdp", "pld"])
def test_no_fact_is_too_extreme_for_an_answer(relation, accountant):
    for size in (5e-324, 1e-160, 1e160, 1e308):
        events = [gaussian(size), gaussian(size, 0.5), gaussian(1.0, sensitivity=size), gaussian(5.0, 1e-300)]
        if accountant != "pld":
            steps = {"l1": 1e308, "step": max(1e-300, size)}
            events += [Event("skellam", noise, **steps) for noise in (1.0, size)]
            events += [Event("skellam", 1.0, l1=1e308, step=1e-300)]
        for event in events:
            assert epsilon((event,), DELTA, relation, accountant=accountant).epsilon >= 0


def test_many_kinds_of_sampled_releases_fall_back_on_the_bound():
    events = [gaussian(5 + kind / 10, 0.01) for kind in range(accounting.DISTINCT + 1)]
    assert epsilon(events, DELTA, "zero-out").accountant == "rdp"


def test_an_event_has_whole_counts_and_skellam_its_steps():
    for wrong in (
        {"count": 0},
        {"count": 1.5},
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.1},
        {"sensitivity": 0.0},
        {"noise_multiplier": math.nan},
        {"step": 0.1},
        {"l1": 3.0},
        {"mechanism": "skellam"},
        {"mechanism": "skellam", "l1": 3.0},
    ):
        with pytest.raises(ValueError):
            Event(**{"mechanism": "gaussian", "noise_multiplier": 1.0, **wrong})
