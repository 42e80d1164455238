"""FedAvgM by hand (Hsu et al. 2019, Section 4: v <- beta v + delta, w <- w + v) and against Flower's."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import FedAvgM

from carpool.strategies.contract import Facts, Reduced
from carpool.strategies.fedavg import State as Plain
from carpool.strategies.fedavg import fedavg
from carpool.strategies.fedavgm import fedavgm

FACTS = Facts(round=1, version=0, population=10, cohort=3)


def mean_of(delta) -> Reduced:
    return Reduced({"delta": np.asarray(delta, np.float32)}, {}, 1.0, 1)


def test_three_rounds_by_hand():
    strategy = fedavgm(beta=0.5)
    state = strategy.init(np.array([1.0], np.float32), FACTS)
    seen = []
    for delta in (4.0, 0.0, -2.0):
        state = strategy.update(state, mean_of([delta]), FACTS)
        seen.append((float(state.velocity[0]), float(state.params[0])))
    # v: 4, 2, 1 - 2 = -1; w: 1 + 4, + 2, - 1
    assert seen == [(4.0, 5.0), (2.0, 7.0), (-1.0, 6.0)]


def test_the_server_lr_scales_the_step_and_not_the_velocity():
    strategy = fedavgm(beta=0.5, server_lr=0.25)
    state = strategy.init(np.zeros(1, np.float32), FACTS)
    for delta in (4.0, 4.0):
        state = strategy.update(state, mean_of([delta]), FACTS)
    assert state.velocity.tolist() == [6.0]
    assert state.params.tolist() == [0.25 * (4.0 + 6.0)]


def test_a_constant_delta_is_amplified_by_one_over_one_minus_beta():
    strategy = fedavgm(beta=0.9)
    state = strategy.init(np.zeros(1, np.float32), FACTS)
    for _ in range(200):
        state = strategy.update(state, mean_of([1.0]), FACTS)
    assert state.velocity[0] == pytest.approx(10.0, rel=1e-5)


@pytest.mark.parametrize("server_lr", [0.3, 1.0])
def test_without_momentum_it_is_fedavg_bit_for_bit(server_lr):
    rng = np.random.default_rng(2)
    start = rng.standard_normal(50).astype(np.float32)
    momentum, plain = fedavgm(beta=0.0, server_lr=server_lr), fedavg(server_lr=server_lr)
    a, b = momentum.init(start, FACTS), Plain(start)
    for _ in range(4):
        delta = mean_of(rng.standard_normal(50))
        a, b = momentum.update(a, delta, FACTS), plain.update(b, delta, FACTS)
        np.testing.assert_array_equal(a.params, b.params)


@pytest.mark.parametrize(("server_lr", "beta"), [(1.0, 0.9), (0.5, 0.9), (0.7, 0.0), (1.0, 0.0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_equals_flowers_fedavgm(seed, server_lr, beta, reply):
    """Flower steps by minus (old - mean) where we add the mean delta: the same formula in other signs.

    Flower differs in bookkeeping only: it remembers the first model it sent and from then on its own result,
    so it must see `configure_train` (here: the attribute) before the first aggregation.
    """
    rng = np.random.default_rng(seed)
    start = rng.standard_normal(100).astype(np.float32)
    theirs = FedAvgM(server_learning_rate=server_lr, server_momentum=beta)
    theirs.current_arrays = ArrayRecord({"w": Array(start)})
    strategy = fedavgm(server_lr=server_lr, beta=beta, weighting="equal")
    state = strategy.init(start, FACTS)
    for round_ in range(1, 6):
        deltas = 0.1 * rng.standard_normal((4, 100)).astype(np.float32)
        arrays, _ = theirs.aggregate_train(round_, [reply(state.params + delta) for delta in deltas])
        state = strategy.update(state, mean_of(deltas.mean(0)), FACTS)
        np.testing.assert_allclose(state.params, arrays["w"].numpy(), rtol=0, atol=1e-6)
