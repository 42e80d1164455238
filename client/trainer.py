"""Local training: SGD on one flat vector, vehicle after vehicle, for a stack of K vehicles."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from carpool.client.augment import augment
from carpool.client.camera.samples import Rows, Shard
from carpool.client.flat import FlatModel
from carpool.client.losses import batch_loss, to_float, to_tensors
from carpool.privacy.errors import VehicleError
from carpool.strategies.contract import Correction


@dataclass(frozen=True)
class TrainSettings:
    """The [train] section.

    epochs: passes over the vehicle's samples; steps: exactly so many batches instead (0 = by epochs);
    lr: step size in weight units; momentum, weight_decay: of SGD; clip_grad: L2 norm to which a batch
    gradient is scaled down (0 = off; for stability, not for privacy); augment: see augment.py.
    """

    epochs: int = 1
    steps: int = 0
    batch_size: int = 32
    lr: float = 0.05
    momentum: float = 0.0
    weight_decay: float = 0.0
    clip_grad: float = 0.0
    augment: Literal["none", "light", "sign"] = "none"


def batches(n: int, settings: TrainSettings, rng: np.random.Generator) -> Iterator[Rows]:
    """Positions int64 of each batch: every epoch a new order, the last batch may be smaller."""
    size = min(settings.batch_size, n)
    per_epoch = math.ceil(n / size)
    steps = settings.steps or settings.epochs * per_epoch
    order = np.empty(0, np.int64)
    for step in range(steps):
        if step % per_epoch == 0:
            order = rng.permutation(n)
        start = (step % per_epoch) * size
        yield order[start : start + size]


def dropout_seed(rng: np.random.Generator) -> int:
    """Seed of what a user's model draws from torch (dropout), fixed by the vehicle's generator unmoved."""
    return int(rng.bit_generator.seed_seq.generate_state(1)[0])


class LocalTrainer:
    """Trains K vehicles from one start; fulfils `carpool.strategies.contract.Trainer`.

    shards: what each vehicle holds; rngs: one generator a vehicle (batch order, augmentation).
    After `train`: `steps` int64 [K], `losses` (mean training loss of each vehicle), `examples` [K].
    """

    def __init__(
        self,
        model: FlatModel,
        shards: Sequence[Shard],
        settings: TrainSettings,
        rngs: Sequence[np.random.Generator],
        *,
        lr: float | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        if len(shards) != len(rngs) or not shards:
            raise ValueError(f"{len(shards)} vehicles need as many generators, not {len(rngs)}")
        if empty := [k for k, shard in enumerate(shards) if len(shard) == 0]:
            raise VehicleError(f"vehicle {empty[0]} of the stack has no samples to train on")
        self._model, self._shards, self._settings, self._rngs = model, shards, settings, rngs
        self._lr = settings.lr if lr is None else lr
        self._stop = stop
        self.examples = [len(shard) for shard in shards]
        self.losses = [math.nan] * len(shards)
        self._steps = torch.zeros(len(shards), dtype=torch.int64)

    @property
    def steps(self) -> Tensor:
        """Local steps taken by each vehicle, int64 [K]."""
        return self._steps

    def train(self, start: Tensor, *, correction: Correction | None = None) -> Tensor:
        """Weights after local training from `start` ([d] or [K, d]): float32 [K, d], on the model's device.

        Raises VehicleError where the loss or the weights stop being finite.
        """
        result = torch.empty(len(self._shards), self._model.layout.size, device=self._model.device)
        for k in range(len(self._shards)):
            self._model.load(start if start.dim() == 1 else start[k])
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(dropout_seed(self._rngs[k]))
                self._one(k, correction)
            result[k] = self._model.vector.detach()
        return result

    def _one(self, k: int, correction: Correction | None) -> None:
        model, settings, shard, rng = self._model, self._settings, self._shards[k], self._rngs[k]
        trained = model.vector[: model.trainable]
        velocity = torch.zeros_like(trained) if settings.momentum else None
        model.module.train()
        losses: list[Tensor] = []
        for index in batches(len(shard), settings, rng):
            if self._stop is not None and self._stop():
                raise VehicleError("the vehicle left in the middle of training")
            losses.append(self._gradient(shard, index, rng))
            with torch.no_grad():
                gradient = model.grad
                if correction is not None:
                    gradient = correction(trained[None], gradient[None])[0]
                if settings.clip_grad:
                    norm = torch.linalg.vector_norm(gradient)
                    gradient = gradient * (settings.clip_grad / norm.clamp(min=settings.clip_grad))
                if settings.weight_decay:
                    gradient = gradient.add(trained, alpha=settings.weight_decay)
                if velocity is not None:
                    gradient = velocity.mul_(settings.momentum).add_(gradient)
                trained.add_(gradient, alpha=-self._lr)
        self._steps[k] = len(losses)
        self.losses[k] = float(torch.stack(losses).mean())
        if not (math.isfinite(self.losses[k]) and bool(torch.isfinite(model.vector).all())):
            raise VehicleError(f"training ended in NaN or Inf after {len(losses)} steps at lr {self._lr:g}")

    def _gradient(self, shard: Shard, index: Rows, rng: np.random.Generator) -> Tensor:
        """Fill the model's gradient from one batch; the batch's loss, scalar."""
        model, schema = self._model, shard.pool.schema
        frames, targets = shard.batch(index)
        pictures = to_float(augment(frames, self._settings.augment, rng), model.device)
        model.grad.zero_()
        loss = batch_loss(model.module(pictures), to_tensors(targets, schema, model.device), schema)
        torch.autograd.backward(loss)
        return loss.detach()
