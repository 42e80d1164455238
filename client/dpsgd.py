"""DP-SGD on the vehicle: noise in every step, so that what leaves hides each single example.

Abadi et al. 2016, arXiv:1607.00133, Algorithm 1. A batch is a Poisson sample; each example's gradient is
clipped by itself, over all trained parameters; the sum gets noise and is divided by the EXPECTED size of a
batch, a public number; a batch without examples steps along noise alone. What follows sees the examples
through that alone: a strategy's offset and correction (SCAFFOLD, FedProx, FedDyn), weight decay, momentum.

Unit, relation, theorem, event: privacy/dp/example_level.py; sensitivity, noise: privacy/dp/example_sum.py.
Randomness of batches, augmentation and dropout is secret and fresh, too: a server that could compute it would
know who was in a batch, and one example more would shift the draws of the others.
Off: the loss, of a training or by itself, as it has no noise; a second training of a task, as it is not paid.
Not covered: examples held twice; a module that remembers pictures in attributes of its own; the last bits of
a float32 gradient, which a batched product may round otherwise beside other examples (where a ReLU is just
about to open, that shows).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from carpool.client.camera.samples import Schema, Shard
from carpool.client.feed import Batch, ready, seed_torch
from carpool.client.flat import FlatModel
from carpool.client.per_example import PerExample, per_example
from carpool.client.trainer import LocalTrainer, TrainSettings
from carpool.privacy.dp.example_level import Training
from carpool.privacy.dp.example_sum import bound_for, noisy, poisson
from carpool.privacy.dp.randomness import Bits, SeededBits, SystemBits
from carpool.privacy.errors import ConfigError, PrivacyRefused
from carpool.strategies.contract import Correction


@dataclass(frozen=True)
class ExampleNoise:
    """clip_norm: L2 norm of one example's gradient, > 0; noise_multiplier: of a batch's sum, in clip norms.

    A noise multiplier of 0 adds none. seeded: all randomness from the vehicle's generator, reproducible. Both
    are NOT PRIVATE: for tests and demonstrations, and the ledger must say so.
    """

    clip_norm: float
    noise_multiplier: float
    seeded: bool = False


def training_of(settings: TrainSettings) -> Training:
    """What the accountant has to know of the [train] section; raises ValueError."""
    return Training(settings.batch_size, settings.epochs, settings.steps)


class PrivateTrainer(LocalTrainer):
    """Trains K vehicles one after another by DP-SGD; made by `private_trainer`, then used as a LocalTrainer.

    The steps that it takes are those of `training_of(settings).event`, to the last: charge them before.
    `losses` are 0. Raises ConfigError for settings or a model that cannot be trained so, and PrivacyRefused
    where a strategy asks for more than one training, or for a loss.
    """

    noise: ClassVar[ExampleNoise]

    def __init__(
        self,
        model: FlatModel,
        shards: Sequence[Shard],
        settings: TrainSettings,
        rngs: Sequence[np.random.Generator],
        *,
        lr: float | None = None,
        stop: Callable[[], bool] | None = None,
        strict: bool = True,
    ) -> None:
        super().__init__(model, shards, settings, rngs, lr=lr, stop=stop, strict=strict)
        if settings.precision != "float32":
            raise ConfigError(
                [f'train.precision is {settings.precision!r}, but mechanism "sgd" measures in "float32"']
            )
        self._training = training_of(settings)
        try:
            self._bound = bound_for(self.noise.clip_norm, model.trainable)
        except ValueError as error:
            raise ConfigError([f"[privacy.dp]: {error}"]) from error
        self._gradients: PerExample = per_example(model, shards[0].pool.schema)
        self._secret: Bits | None = None if self.noise.seeded else SystemBits("dp-sgd")
        self._now: tuple[Bits, int] | None = None
        self._trained = False

    @property
    def dropped(self) -> int:
        """Examples so far whose gradient was NaN or Inf: they counted as zero. Not private."""
        return self._gradients.dropped

    def train(
        self,
        start: Tensor,
        *,
        correction: Correction | None = None,
        offset: Tensor | None = None,
        trainable: Tensor | None = None,
        epochs: int | None = None,
        reported: bool = True,
    ) -> Tensor:
        """As `LocalTrainer.train`, once; raises PrivacyRefused for a second time or a number of epochs."""
        if self._trained or epochs is not None:
            raise PrivacyRefused(
                'the strategy asks for a training that mechanism "sgd" has not paid for: that is one a task, '
                "as long as [train] says; use a strategy that trains once, such as fedavg or scaffold"
            )
        self._trained = True
        return super().train(start, correction=correction, offset=offset, trainable=trainable)

    def loss(self, weights: Tensor) -> Tensor:
        """Raises PrivacyRefused: a loss reads every example, and has no noise."""
        raise PrivacyRefused(
            'the strategy asks for a loss on the examples, which mechanism "sgd" does not tell; use a '
            "strategy that needs none, such as fedavg or scaffold"
        )

    def _double(self) -> None:
        """Gradients are had example by example, never by the model's double."""

    def _batches(self, k: int) -> Iterator[Batch]:
        """Poisson samples of vehicle k, some without examples; as many as were charged."""
        shard, n = self._shards[k], len(self._shards[k])
        bits = self._bits(k)
        rate = self._training.rate(n)
        self._now = bits, self._training.expected(n)
        seed_torch(number(bits), self._model.device)
        for _ in range(self._training.taken(n)):
            self._check_stop()
            index = poisson(bits, n, rate)
            rng = np.random.default_rng(number(bits))
            yield ready(self._model, shard, index, rng, self._settings.augment, torch.float32)

    def _gradient(
        self, double: object, pictures: Tensor, truth: Mapping[str, Tensor], schema: Schema
    ) -> Tensor:
        """Fill the model's gradient from one sample, clipped and with noise; a loss of 0."""
        if self._now is None:
            raise AssertionError("a gradient without a vehicle")
        bits, expected = self._now
        total = self._gradients.clipped_sum(pictures, truth, self._bound).cpu().numpy()
        found = noisy(total, self.noise.clip_norm, self.noise.noise_multiplier, bits) / expected
        self._model.grad.copy_(torch.from_numpy(found))
        return torch.zeros(())

    def _bits(self, k: int) -> Bits:
        """Vehicle k's source of randomness."""
        if self._secret is not None:
            return self._secret
        words = self._rngs[k].bit_generator.seed_seq.generate_state(4)
        return SeededBits(int.from_bytes(words.tobytes(), "little"))


def number(bits: Bits) -> int:
    """A seed of 63 bits for generators that are no source of noise."""
    return int(bits.words(2).view("<u8")[0]) >> 1


def private_trainer(noise: ExampleNoise) -> type[LocalTrainer]:
    """The trainer with this noise: the `trainer_type` of `contribute_all`."""
    return type("PrivateTrainer", (PrivateTrainer,), {"noise": noise})
