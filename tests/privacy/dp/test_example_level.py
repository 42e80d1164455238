"""What a fleet's DP-SGD costs, against the accountant asked vehicle by vehicle."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carpool.privacy.dp import accounting
from carpool.privacy.dp.example_level import Training, covered, noise_multiplier, spent
from carpool.privacy.dp.odometer import Cap, Odometer, take_part
from carpool.privacy.errors import PrivacyRefused

DELTA = 1e-5


def test_the_facts_of_a_training():
    one = Training(batch=32, epochs=2)
    assert (one.expected(100), one.rate(100), one.taken(100)) == (32, 0.32, 8)
    assert (one.expected(20), one.rate(20), one.taken(20)) == (20, 1.0, 2)
    assert Training(batch=32, steps=5).taken(100) == 5
    event = one.event(1.5, 100, rounds=3)
    assert (event.mechanism, event.noise_multiplier, event.sampling_rate, event.count) == (
        "gaussian",
        1.5,
        0.32,
        24,
    )


@pytest.mark.parametrize("bad", [{"batch": 0}, {"batch": 1, "epochs": 0}, {"batch": 1, "steps": -1}])
def test_a_training_that_is_none_is_refused(bad):
    with pytest.raises(ValueError, match="use 1 or more"):
        Training(**bad)


def test_a_vehicle_without_examples_is_refused():
    with pytest.raises(ValueError, match="trains nothing"):
        Training(4).rate(0)


def test_the_published_value():
    # Opacus's tutorial, by the Rényi accountant: q = 0.04, z = 1.5, 2250 steps.
    found = spent([10, 1000], [0, 90], Training(40), 1.5, 1e-5, "zero-out", accountant="rdp")
    assert 7.32911 - 0.002 <= found.epsilon <= 7.32911 + 0.02
    assert (found.vehicle, found.accountant) == (1, "rdp")


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(0, 4)), min_size=1, max_size=12),
    st.integers(1, 40),
    st.integers(1, 3),
    st.sampled_from(["zero-out", "replace-one"]),
)
def test_nobody_costs_more_than_the_dearest_vehicle(fleet, batch, epochs, relation):
    sizes, rounds = zip(*fleet, strict=True)
    training = Training(batch, epochs)
    found = spent(sizes, rounds, training, 2.0, DELTA, relation, accountant="rdp")
    each = [
        accounting.epsilon([training.event(2.0, n, times)], DELTA, relation, accountant="rdp").epsilon
        if times
        else 0.0
        for n, times in fleet
    ]
    assert found.epsilon == max(each)
    if max(each):
        assert each[found.vehicle] == max(each)
    else:
        assert found.vehicle == -1


@pytest.mark.slow
def test_a_sample_more_than_a_batch_can_be_dearer_than_one_less():
    # n = 32: every step sees all. n = 33: two steps at a rate of 0.97.
    training = Training(32)
    assert spent([32, 33], [1, 1], training, 1.0, DELTA, "zero-out").vehicle == 1


@pytest.mark.slow
def test_pld_is_reported_and_is_below_the_bound_that_ranks():
    sizes, rounds = [400, 1000, 4000], [1, 10, 10]
    tight = spent(sizes, rounds, Training(32), 1.1, DELTA, "zero-out")
    ranked = spent(sizes, rounds, Training(32), 1.1, DELTA, "zero-out", accountant="rdp")
    assert tight.accountant == "pld"
    assert 0 < tight.epsilon < ranked.epsilon
    assert tight.vehicle == 1


@pytest.mark.slow
@pytest.mark.parametrize("relation", ["zero-out", "replace-one"])
def test_calibrated_noise_keeps_every_vehicle_within_the_target_and_no_more(relation):
    sizes, rounds, training = [32, 33, 64, 65, 500, 16], [5, 5, 5, 5, 5, 1], Training(32)
    noise = noise_multiplier(sizes, rounds, training, 4.0, DELTA, relation)
    assert spent(sizes, rounds, training, noise, DELTA, relation).epsilon <= 4.0 * (1 + 1e-9)
    assert spent(sizes, rounds, training, noise * (1 - 1e-3), DELTA, relation).epsilon > 4.0


def test_nobody_who_takes_part_needs_no_noise():
    assert noise_multiplier([10, 20], [0, 0], Training(4), 1.0, DELTA, "zero-out") == 0.0


@pytest.mark.parametrize("relation", ["add-remove", "vehicle"])
def test_a_relation_that_would_hide_the_number_of_examples_is_refused(relation):
    with pytest.raises(PrivacyRefused, match="zero-out"):
        covered(relation)
    with pytest.raises(PrivacyRefused, match="zero-out"):
        spent([10], [1], Training(4), 1.0, DELTA, relation)


def test_lists_of_other_lengths_and_negative_rounds_are_refused():
    with pytest.raises(ValueError, match="2 sizes for 1"):
        spent([1, 2], [1], Training(4), 1.0, DELTA, "zero-out")
    with pytest.raises(ValueError, match="vehicle 1"):
        spent([1, 2], [1, -1], Training(4), 1.0, DELTA, "zero-out")


@pytest.mark.slow
def test_a_vehicles_own_odometer_counts_its_sampling_and_refuses_beyond_its_cap():
    training, n, noise = Training(10), 500, 2.0
    cost = [spent([n], [rounds], training, noise, DELTA, "zero-out").epsilon for rounds in (1, 2, 3)]
    odometer = Odometer("vehicle-7", Cap((cost[1] + cost[2]) / 2, DELTA), unit="example")
    for rounds in (0, 1):
        take_part(training.part(noise, n), odometer)
        assert odometer.spent() == pytest.approx(cost[rounds], rel=1e-6)
    with pytest.raises(PrivacyRefused, match="vehicle-7"):
        take_part(training.part(noise, n), odometer)
