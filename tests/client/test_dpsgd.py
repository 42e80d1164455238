"""DP-SGD on the vehicle: against plain SGD, its noise, its batches, and what it refuses."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from carpool.client.camera.samples import Pool, Shard
from carpool.client.dpsgd import ExampleNoise, private_trainer, training_of
from carpool.client.flat import FlatModel
from carpool.client.models import build
from carpool.client.step import Vehicle, contribute_all
from carpool.client.trainer import LocalTrainer, TrainSettings
from carpool.privacy.errors import ConfigError, PrivacyRefused
from carpool.privacy.wire import TaskMessage
from carpool.strategies.fedavg import fedavg
from carpool.strategies.qfedavg import qfedavg

NONE = ExampleNoise(clip_norm=100.0, noise_multiplier=0.0, seeded=True)
SOME = ExampleNoise(clip_norm=0.5, noise_multiplier=1.0, seeded=True)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def model(make_schema) -> FlatModel:
    return FlatModel(build("mlp", make_schema("class", "value"), {"hidden": 6}, 0))


@pytest.fixture
def shard(make_shard):
    return make_shard(10, "class", "value")


def start_of(model) -> torch.Tensor:
    return torch.from_numpy((0.1 * rng(42).standard_normal(model.layout.size)).astype(np.float32))


def trained(model, shards, settings, noise, seeds=(0,), **how) -> torch.Tensor:
    trainer = private_trainer(noise)(model, shards, settings, [rng(seed) for seed in seeds])
    return trainer.train(start_of(model), **how)


@pytest.mark.parametrize(
    "settings",
    [
        TrainSettings(epochs=4, batch_size=10, lr=0.05),
        TrainSettings(steps=5, batch_size=50, lr=0.05, momentum=0.9, weight_decay=0.01),
        TrainSettings(epochs=3, batch_size=10, lr=0.1, clip_grad=0.1),
    ],
)
@pytest.mark.parametrize("bent", [False, True])
def test_without_noise_clipping_and_sampling_it_is_plain_sgd(model, shard, settings, bent):
    how = {}
    if bent:
        offset = torch.from_numpy(rng(1).standard_normal((1, model.layout.size)).astype(np.float32))
        how = {"offset": 0.1 * offset, "correction": lambda weights, gradients: gradients + 0.3 * weights}
    wanted = LocalTrainer(model, [shard], settings, [rng()]).train(start_of(model), **how)
    found = trained(model, [shard], settings, NONE, **how)
    assert (wanted - start_of(model)).abs().max() > 1e-3
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_noise_of_a_step_is_what_is_charged(make_shard, momentum):
    # False-positive rate 1e-6; a planted error of 5 % is seen.
    shard = make_shard(12, "class")
    model = FlatModel(build("mlp", shard.pool.schema, {"hidden": 64}, 0))
    settings = TrainSettings(steps=1, batch_size=12, lr=0.5, momentum=momentum)
    noisy = trained(model, [shard], settings, SOME)
    quiet = trained(model, [shard], settings, replace(SOME, noise_multiplier=0.0))
    noise = ((noisy - quiet)[0] * (12 / 0.5)).double().numpy()
    spread = 4.9 * math.sqrt(2 / len(noise))
    assert spread < 0.05
    assert abs(np.mean(noise**2) / 0.5**2 - 1) < spread


def test_the_sum_is_divided_by_the_expected_size_and_not_by_the_drawn_one(model, shard):
    # One step at rate 0.3: whatever was drawn, the step is lr / 3 times a sum of clipped gradients.
    settings = TrainSettings(steps=1, batch_size=3, lr=1.0)
    noise = ExampleNoise(clip_norm=1e-3, noise_multiplier=0.0, seeded=True)
    sizes = []
    for seed in range(20):
        moved = trained(model, [shard], settings, noise, seeds=(seed,)) - start_of(model)
        sizes.append(float(moved.norm()) * 3 / 1e-3)
    # As many lengths of 1, in about the same direction, as were drawn; over the drawn number, 3 at most.
    assert min(sizes) < 1.01
    assert max(sizes) > 3.01


def neighbours(shard: Shard, column: str, value: float) -> Shard:
    """The same samples, but that the first one's target is `value`, past the check that refuses NaN."""
    pool = shard.pool
    targets = {name: one.copy() for name, one in pool.targets.items()}
    new = Pool(pool.schema, pool.frames, targets, pool.group, pool.order)
    targets[column][0] = value
    object.__setattr__(new, "targets", targets)
    return Shard(new, shard.rows)


@pytest.mark.parametrize("name", ["mlp", "cnn-multiview"])
@pytest.mark.parametrize("value", [1e4, -1e30, 0.0])
def test_one_example_moves_a_step_by_no_more_than_the_clip_norm(make_shard, name, value):
    shard = make_shard(6, "value", height=16, width=16)
    model = FlatModel(build(name, shard.pool.schema, {}, 0))
    settings = TrainSettings(steps=1, batch_size=6, lr=1.0)
    without = trained(model, [neighbours(shard, "offset", math.nan)], settings, SOME)  # zero-out
    moved = trained(model, [neighbours(shard, "offset", value)], settings, SOME) - without
    length = float(moved.double().norm()) * 6
    assert length <= 0.5 * (1 + 1e-5)  # float32 weights
    if value:
        assert length > 0.4995


def test_batches_are_fresh_and_secret_and_leave_the_public_generator_alone(model, shard):
    noise = ExampleNoise(clip_norm=0.5, noise_multiplier=0.0)
    settings = TrainSettings(steps=6, batch_size=5, lr=0.1, augment="light")
    public = rng()
    before = copy.deepcopy(public.bit_generator.state)
    results = [
        private_trainer(noise)(model, [shard], settings, [public]).train(start_of(model)) for _ in range(2)
    ]
    assert not torch.equal(*results)
    assert public.bit_generator.state == before


def test_seeded_it_is_reproducible_alone_and_beside_others(model, make_shard):
    shards = [make_shard(n, "class", "value", seed=n) for n in (10, 4, 7)]
    settings = TrainSettings(epochs=1, batch_size=4, lr=0.1, augment="light")
    together = trained(model, shards, settings, SOME, seeds=(1, 2, 3))
    again = trained(model, shards, settings, SOME, seeds=(1, 2, 3))
    assert torch.equal(together, again)
    for k, shard in enumerate(shards):
        assert torch.equal(trained(model, [shard], settings, SOME, seeds=(k + 1,))[0], together[k])
    assert not torch.equal(trained(model, shards[:1], settings, SOME, seeds=(9,))[0], together[0])


def test_the_steps_taken_are_those_that_are_charged(model, make_shard):
    sizes, settings = (1, 3, 4, 5, 9), TrainSettings(epochs=2, batch_size=4, lr=0.01)
    shards = [make_shard(n, "class", "value") for n in sizes]
    trainer = private_trainer(SOME)(model, shards, settings, [rng(k) for k in range(len(sizes))])
    trainer.train(start_of(model))
    charged = [training_of(settings).event(1.0, n).count for n in sizes]
    assert trainer.steps.tolist() == charged == [2, 2, 2, 4, 6]


def test_a_batch_without_examples_steps_along_noise(model, make_shard):
    shard, settings = make_shard(50, "class", "value"), TrainSettings(steps=1, batch_size=1, lr=1.0)
    quiet = replace(SOME, noise_multiplier=0.0)
    seed = next(
        s
        for s in range(100)
        if torch.equal(trained(model, [shard], settings, quiet, seeds=(s,))[0], start_of(model))
    )
    assert not torch.equal(trained(model, [shard], settings, SOME, seeds=(seed,))[0], start_of(model))


def test_there_is_no_loss_and_no_second_training(model, shard):
    trainer = private_trainer(SOME)(model, [shard], TrainSettings(batch_size=4), [rng()])
    with pytest.raises(PrivacyRefused, match="loss"):
        trainer.loss(start_of(model))
    with pytest.raises(PrivacyRefused, match="trains once"):
        trainer.train(start_of(model), epochs=1)
    trainer.train(start_of(model))
    assert trainer.losses == [0.0]
    with pytest.raises(PrivacyRefused, match="trains once"):
        trainer.train(start_of(model), reported=False)


def test_a_training_that_was_broken_off_is_paid_for_and_not_begun_again(model, shard):
    def correction(weights, gradients):
        raise RuntimeError("broken off")

    trainer = private_trainer(SOME)(model, [shard], TrainSettings(batch_size=4), [rng()])
    with pytest.raises(RuntimeError, match="broken off"):
        trainer.train(start_of(model), correction=correction)
    with pytest.raises(PrivacyRefused):
        trainer.train(start_of(model))


def test_dropped_examples_are_counted_on_the_vehicle(model, shard):
    bad = neighbours(shard, "offset", math.nan)
    trainer = private_trainer(SOME)(model, [bad], TrainSettings(steps=3, batch_size=10), [rng()])
    assert torch.isfinite(trainer.train(start_of(model))).all()
    assert trainer.dropped == 3
    assert not trainer.failed


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan, math.inf])
def test_a_clip_norm_that_is_none_is_refused(model, shard, clip):
    with pytest.raises(ConfigError, match=r"privacy\.dp"):
        private_trainer(ExampleNoise(clip, 1.0))(model, [shard], TrainSettings(), [rng()])


def test_bfloat16_is_refused(model, shard):
    with pytest.raises(ConfigError, match="float32"):
        private_trainer(SOME)(model, [shard], TrainSettings(precision="bfloat16"), [rng()])


def first_task(model) -> TaskMessage:
    vectors = {"params": start_of(model).numpy()}
    return TaskMessage("r" * 16, 1, 0, population=4, cohort=2, pass_number=1, scalars={}, vectors=vectors)


@pytest.mark.parametrize("strategy", [fedavg(), qfedavg()])
def test_a_round_of_vehicles(model, make_shard, strategy):
    vehicles = [Vehicle(node=k + 1, index=k, shard=make_shard(8, "class", "value", seed=k)) for k in range(2)]
    settings = TrainSettings(batch_size=4, lr=0.05)

    def contributions():
        return contribute_all(
            first_task(model),
            vehicles,
            model=model,
            strategy=strategy,
            settings=settings,
            lr=0.05,
            seed=0,
            trainer_type=private_trainer(SOME),
        )

    if strategy.name == "qfedavg":
        with pytest.raises(PrivacyRefused, match="loss"):
            contributions()
        return
    first, again = contributions(), contributions()
    assert [one.loss for one in first] == [0.0, 0.0]
    assert [one.steps for one in first] == [2, 2]
    assert not np.array_equal(first[0].vectors["delta"], first[1].vectors["delta"])
    assert all(
        np.array_equal(a.vectors["delta"], b.vectors["delta"]) for a, b in zip(first, again, strict=True)
    )
