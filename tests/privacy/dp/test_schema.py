"""The participation schema, against a plain model of it."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carpool.privacy.dp.schema import Participation, Schema
from carpool.privacy.errors import PrivacyRefused, RunError

ROUNDS = 30
ATTEMPTS = st.lists(
    st.tuples(st.lists(st.integers(0, 6), min_size=1, max_size=4), st.integers(-1, ROUNDS + 2)), max_size=25
)


def keeps(schema, rounds):
    """Whether one vehicle's rounds, in the order in which they were admitted, hold to the schema."""
    gaps = all(b - a >= schema.min_separation for a, b in pairwise(rounds))
    return gaps and len(rounds) <= schema.max_participations


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 6), st.integers(1, 4), ATTEMPTS)
def test_what_is_admitted_is_exactly_what_the_schema_allows(separation, most, attempts):
    schema = Schema(separation, most)
    record, model = Participation(schema, ROUNDS), {}
    for vehicles, round_ in attempts:
        fine = [1 <= round_ <= ROUNDS and keeps(schema, [*model.get(v, []), round_]) for v in vehicles]
        assert record.allowed(vehicles, round_).tolist() == fine
        if all(fine) and len(set(vehicles)) == len(vehicles):
            record.admit(vehicles, round_)
            for vehicle in vehicles:
                model.setdefault(vehicle, []).append(round_)
        else:
            with pytest.raises(PrivacyRefused):
                record.admit(vehicles, round_)
    assert all(keeps(schema, rounds) for rounds in model.values())
    again = Participation.load(schema, ROUNDS, record.dump())
    for round_ in range(1, ROUNDS + 1):
        assert (again.allowed(range(7), round_) == record.allowed(range(7), round_)).all()


def test_refusals_name_the_vehicle_and_the_rule():
    record = Participation(Schema(5, 2), 100)
    record.admit([7, 2**62], 3)
    for vehicles, round_, words in (
        ([7], 7, "vehicle 7 may not take part in round 7: it did 1 times, last in round 3"),
        ([7], 2, "vehicle 7"),
        ([2**62, 7], 4, "(and 1 more)"),
        ([1, 1], 4, "vehicle 1 is asked twice"),
        ([1], 101, "outside the 100 rounds"),
        ([1], 0, "outside the 100 rounds"),
    ):
        with pytest.raises(PrivacyRefused, match=words.replace("(", "\\(").replace(")", "\\)")):
            record.admit(vehicles, round_)
    record.admit([7], 8)
    with pytest.raises(PrivacyRefused, match="it did 2 times"):
        record.admit([7], 90)
    assert len(record) == 2


def test_a_refused_cohort_leaves_no_trace():
    record = Participation(Schema(5, 2), 100)
    record.admit([1], 1)
    with pytest.raises(PrivacyRefused):
        record.admit([1, 2], 2)
    assert len(record) == 1


@pytest.mark.parametrize("vehicles", [[-1], [1.5], [[1]], [2**63], ["a"], [True]])
def test_ids_that_are_none(vehicles):
    with pytest.raises(ValueError, match="vehicle"):
        Participation(Schema(1, 1), 5).admit(vehicles, 1)


def test_schemas_that_are_none():
    for numbers in ((0, 1), (1, 0), (1.0, 1), (True, 1), (1, -3)):
        with pytest.raises(ValueError, match="participation schema"):
            Schema(*numbers)
    for rounds in (0, 2**31):
        with pytest.raises(ValueError, match="a training has"):
            Participation(Schema(1, 1), rounds)


def test_memory_is_16_bytes_a_vehicle():
    record = Participation(Schema(2, 3), 100)
    for round_ in range(1, 4):
        record.admit(np.arange(round_ * 100_000, (round_ + 1) * 100_000), round_)
    assert sum(array.nbytes for array in record.dump().values()) <= 16 * 300_000 + 24


@pytest.mark.parametrize(
    "change",
    [
        {"ids": np.array([2, 1])},
        {"ids": np.array([-1, 1])},
        {"ids": np.array([1, 1])},
        {"ids": np.array([1])},
        {"last": np.array([0, 1], np.int32)},
        {"last": np.array([1, 31], np.int32)},
        {"count": np.array([1, 3], np.int32)},
        {"count": np.array([0, 1], np.int32)},
        {"count": np.array([1.0, 1.0])},
        {"count": np.array([[1, 1]], np.int32)},
        {"rule": np.array([3, 2, 30])},
        {"more": np.array([1])},
    ],
)
def test_damaged_arrays_are_refused(change):
    record = Participation(Schema(4, 2), 30)
    record.admit([1, 2], 3)
    with pytest.raises(RunError):
        Participation.load(Schema(4, 2), 30, record.dump() | change)
