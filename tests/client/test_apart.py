"""The double of a model learns what the model learns, and is refused where it is no true one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from carpool.client.apart import Apart, FullLinear, apart_of, difference
from carpool.client.camera.samples import Pool, Schema, Shard, Target
from carpool.client.flat import FlatModel
from carpool.client.halves import supported, twin_of
from carpool.client.models import BUILT_IN, build
from carpool.client.trainer import LocalTrainer, TrainSettings

SCHEMA = Schema(("front",), 16, 16, (Target("sign", "class", ("a", "b", "c")),))
HALVES = pytest.param(
    "bfloat16",
    2e-2,
    marks=pytest.mark.skipif(
        not supported(torch.device("cpu")), reason="this CPU does not multiply bfloat16"
    ),
)


def shard(n: int = 10, seed: int = 3) -> Shard:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (n, 1, 16, 16, 3), dtype=np.uint8)
    numbers = np.arange(n)
    return Shard(Pool(SCHEMA, frames, {"sign": rng.integers(0, 3, n)}, numbers, numbers), numbers)


def start(model: FlatModel, seed: int = 0) -> Tensor:
    return torch.from_numpy(
        np.random.default_rng(seed).normal(size=model.layout.size).astype(np.float32) / 20
    )


def trained(model: FlatModel, training: TrainSettings, *, flat: bool = False) -> Tensor:
    """On the double, or on the vector, since only that has the whole gradient for a correction."""
    same = (lambda weights, gradient: gradient) if flat else None
    trainer = LocalTrainer(model, [shard()], training, [np.random.default_rng(1)])
    return trainer.train(start(model), correction=same)[0]


SGD: dict[str, dict[str, float]] = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "decay": {"weight_decay": 0.1},
    "clipped": {"clip_grad": 0.5},
    "everything": {"momentum": 0.9, "weight_decay": 0.05, "clip_grad": 0.5},
}


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "error"), [("float32", 1e-5), HALVES])
@pytest.mark.parametrize("sgd", list(SGD))
@pytest.mark.parametrize("name", list(BUILT_IN))
def test_the_double_learns_what_the_model_learns(name: str, sgd: str, precision: str, error: float) -> None:
    model = FlatModel(build(name, SCHEMA, {}, 1))
    training = TrainSettings(batch_size=4, epochs=2, lr=0.1, precision=precision, **SGD[sgd])  # type: ignore[arg-type]
    one, two = trained(model, training, flat=True), trained(model, training)
    assert apart_of(model, SCHEMA) is not None
    moved = (one - start(model)).norm()
    assert moved > 0
    assert (one - two).norm() <= error * moved


class Own(nn.Module):
    """A user's model: a convolution, a frozen one, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.second = nn.Conv2d(4, 4, 3, bias=False)
        self.second.weight.requires_grad_(False)
        self.last = nn.Linear(4 * 12 * 12, 3)

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        return {"sign": self.last(self.second(self.first(frames[:, 0])).flatten(1))}


class Unused(Own):
    """The loss does not depend on one of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(3, 3)


@pytest.mark.parametrize("sgd", list(SGD))
def test_a_weight_without_a_gradient_decays_as_on_the_vector(sgd: str) -> None:
    model, training = FlatModel(Unused()), TrainSettings(batch_size=4, lr=0.1, **SGD[sgd])  # type: ignore[arg-type]
    assert apart_of(model, SCHEMA) is not None
    end, spare = trained(model, training), model.layout.slices["spare.weight"]
    assert torch.allclose(end, trained(model, training, flat=True), atol=1e-6)
    assert torch.equal(end[spare], start(model)[spare]) is ("weight_decay" not in SGD[sgd])


@pytest.mark.parametrize("sgd", ["plain", "everything"])
def test_vehicles_are_trained_together_as_they_are_alone(sgd: str) -> None:
    model = FlatModel(build("cnn-small", SCHEMA, {"channels": 8}, 1))
    training = TrainSettings(batch_size=4, **SGD[sgd])  # type: ignore[arg-type]
    shards = [shard(n, seed=n) for n in (5, 9, 4)]

    def run(shards: list[Shard], begin: Tensor) -> Tensor:
        rngs = [np.random.default_rng(len(one)) for one in shards]
        return LocalTrainer(model, shards, training, rngs).train(begin)

    begin, own = start(model), torch.stack([start(model, seed) for seed in range(3)])
    together, each = run(shards, begin), run(shards, own)
    for k in range(3):
        assert torch.equal(run([shards[k]], begin)[0], together[k])
        assert torch.equal(run([shards[k]], own[k])[0], each[k])


def test_weights_come_back_as_they_went_in() -> None:
    model = FlatModel(build("cnn-small", SCHEMA, {"channels": 8}, 1))
    double = apart_of(model, SCHEMA)
    assert double is not None
    stack = torch.stack([start(model, seed) for seed in range(2)])
    owns = []
    for weights in stack:
        double.load(weights)
        owns.append(double.own.clone())
    assert not torch.equal(owns[0], stack[0])  # the channels are last
    assert torch.equal(double.ordered(torch.stack(owns)), stack)


@pytest.mark.parametrize("sgd", ["plain", "decay", "everything"])
def test_frozen_weights_stay_and_the_rest_moves(sgd: str) -> None:
    model, training = FlatModel(Own()), TrainSettings(batch_size=4, lr=0.1, **SGD[sgd])  # type: ignore[arg-type]
    end, frozen = trained(model, training), model.layout.slices["second.weight"]
    assert torch.allclose(end, trained(model, training, flat=True), atol=1e-6)
    assert apart_of(model, SCHEMA) is not None
    assert torch.equal(end[frozen], start(model)[frozen])
    assert not torch.equal(end[: model.trainable], start(model)[: model.trainable])


def test_the_double_is_made_once_and_the_trial_leaves_nothing_behind() -> None:
    model = FlatModel(Own())
    model.module.eval()
    before, state = model.numpy(), torch.get_rng_state()
    assert apart_of(model, SCHEMA) is apart_of(model, SCHEMA)
    assert np.array_equal(model.numpy(), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.module.training
    assert not model.grad.any()


class Normed(Own):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)


class Uncopyable(Own):
    def __deepcopy__(self, memo: object) -> nn.Module:
        raise TypeError("this holds a camera open")


class LeadingBack(Own):
    """Its copies compute with the original's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.make = lambda frames: Own.forward(self, frames)

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        return self.make(frames)


@pytest.mark.parametrize("kind", [Normed, Uncopyable, LeadingBack])
def test_a_model_without_a_true_double_trains_on_the_vector(kind: type[Own]) -> None:
    model, training = FlatModel(kind(), buffers="average"), TrainSettings(batch_size=4, lr=0.1)
    assert apart_of(model, SCHEMA) is None
    end = trained(model, training)
    assert not torch.equal(end, start(model))
    assert torch.equal(end, trained(model, training, flat=True))


class Viewing(Own):
    """Standardises its weights, which it can only see as one piece."""

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        deviation = self.first.weight.view(4, -1).std(1)[:, None, None]
        features = functional.linear(
            self.second(self.first(frames[:, 0]) / deviation).flatten(1), self.last.weight
        )
        return {"sign": features}


def test_a_model_that_does_not_bear_channels_last_has_a_plain_double() -> None:
    model, training = FlatModel(Viewing()), TrainSettings(batch_size=4, lr=0.1)
    double = apart_of(model, SCHEMA)
    assert double is not None
    double.load(start(model))
    assert torch.equal(double.own, start(model))
    assert torch.allclose(trained(model, training), trained(model, training, flat=True), atol=1e-5)
    assert not any(isinstance(one, FullLinear) for one in twin_of(model, SCHEMA).module.modules())


def test_a_double_that_computes_something_else_is_far_off() -> None:
    model = FlatModel(Own())
    double = Apart(model, torch.float32)
    assert difference(model, double, SCHEMA) < 1e-5
    double.module.first.register_forward_hook(lambda module, given, found: found * 1.1)
    assert difference(model, double, SCHEMA) > 0.05


class Dropping(Own):
    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        return super().forward(functional.dropout(frames, 0.5, self.training))


def test_dropout_draws_the_same_on_both() -> None:
    model, training = FlatModel(Dropping()), TrainSettings(batch_size=4, lr=0.1)
    assert apart_of(model, SCHEMA) is not None
    end = trained(model, training)
    assert torch.equal(end, trained(model, training))
    assert torch.allclose(end, trained(model, training, flat=True), atol=1e-5)


def test_beside_convolutions_linear_layers_stay_float32() -> None:
    small, plain = FlatModel(build("cnn-small", SCHEMA, {}, 0)), FlatModel(build("mlp", SCHEMA, {}, 0))
    kinds = {
        p.dtype
        for m in twin_of(small, SCHEMA).module.modules()
        if isinstance(m, nn.Linear)
        for p in m.parameters()
    }
    assert kinds == {torch.float32}
    assert {p.dtype for p in twin_of(plain, SCHEMA).module.parameters()} == {torch.bfloat16}
    layer = FullLinear(3, 2)
    assert layer(torch.ones(1, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16
