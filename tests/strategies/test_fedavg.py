"""FedAvg by hand (McMahan et al. 2017, Algorithm 1) and against Flower's FedAvg."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg

from carpool.strategies.contract import Facts, Header
from carpool.strategies.fedavg import State, fedavg
from carpool.strategies.fold import Fold

FACTS = Facts(round=1, version=0, population=10, cohort=3)


def vec(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


def one_round(strategy, state, deltas, examples):
    fold = Fold(strategy.channels, len(deltas[0]))
    for delta, n in zip(deltas, examples, strict=True):
        fold.add({"delta": delta}, strategy.weight(Header(n, 1, 0), FACTS))
    return strategy.update(state, fold.reduce(), FACTS)


def test_models_are_averaged_by_samples():
    # Vehicles hold 1 and 3 samples and end at (1, 0) and (3, 4): the mean is (2.5, 3).
    state = State(vec(10, 20))
    deltas = [vec(1, 0) - state.params, vec(3, 4) - state.params]
    assert one_round(fedavg(), state, deltas, [1, 3]).params.tolist() == [2.5, 3.0]


def test_equal_weighting_ignores_the_samples():
    after = one_round(fedavg(weighting="equal"), State(vec(0)), [vec(1), vec(3)], [1, 999])
    assert after.params.tolist() == [2]


@pytest.mark.parametrize("server_lr", [0.5, 1.0, 2.0])
def test_the_step_is_scaled_and_added(server_lr):
    after = one_round(fedavg(server_lr=server_lr), State(vec(1)), [vec(4)], [7])
    assert after.params.tolist() == [1 + 4 * server_lr]


def test_the_denominator_is_who_replied():
    """Departure in the docstring: a third vehicle that was asked and left does not shrink the step."""
    assert one_round(fedavg(), State(vec(0)), [vec(2), vec(2)], [5, 5]).params.tolist() == [2]


@pytest.mark.parametrize("seed", range(5))
def test_it_equals_flowers_fedavg(seed, reply):
    rng = np.random.default_rng(seed)
    ours, strategy, theirs = State(rng.standard_normal(200).astype(np.float32)), fedavg(), FedAvg()
    for round_ in range(1, 4):
        models = [
            ours.params + 0.1 * rng.standard_normal(200).astype(np.float32) for _ in range(rng.integers(1, 9))
        ]
        examples = rng.integers(1, 500, len(models)).tolist()
        arrays, _ = theirs.aggregate_train(
            round_, [reply(*pair) for pair in zip(models, examples, strict=True)]
        )
        ours = one_round(strategy, ours, [m - ours.params for m in models], examples)
        np.testing.assert_allclose(ours.params, arrays["w"].numpy(), rtol=0, atol=1e-6)
