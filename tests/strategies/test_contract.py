"""The contract's own parts: channels, means, states that can be written down and read back."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from carpool.strategies.catalogue import CATALOGUE
from carpool.strategies.contract import Channel, Reduced, dump, load


def test_a_set_channel_needs_the_set():
    plain = CATALOGUE["fedavg"]()
    assert not plain.needs_set
    assert dataclasses.replace(plain, channels=(Channel("delta"), Channel("each", "set"))).needs_set


def test_the_mean_divides_by_the_denominator_and_is_a_new_array():
    total = Reduced({"delta": np.ones(3, np.float32)}, {}, 4.0, 1)
    mean = total.mean("delta")
    assert mean.tolist() == [0.25, 0.25, 0.25]
    mean[:] = 9
    assert total.sums["delta"].tolist() == [1, 1, 1]


@dataclasses.dataclass(frozen=True)
class State:
    params: np.ndarray
    rate: float
    updates: int


@dataclasses.dataclass(frozen=True)
class Odd:
    params: np.ndarray
    names: list[str]


def test_a_state_is_vectors_and_numbers():
    params = np.ones(2, np.float32)
    vectors, scalars = dump(State(params, 0.5, 3))
    assert list(vectors) == ["params"]
    assert scalars == {"rate": 0.5, "updates": 3}
    again = load(State, vectors, scalars)
    assert again.params is params
    assert (again.rate, again.updates) == (0.5, 3)


def test_a_state_of_something_else_is_refused():
    with pytest.raises(TypeError, match="frozen dataclass, not dict"):
        dump({"params": np.zeros(1)})
    with pytest.raises(TypeError, match="state field names is list"):
        dump(Odd(np.zeros(1, np.float32), ["a"]))


def test_load_names_what_it_found_and_what_it_needs():
    with pytest.raises(ValueError, match=r"has \['params'\], State needs \['params', 'rate', 'updates'\]"):
        load(State, {"params": np.zeros(1, np.float32)}, {})
