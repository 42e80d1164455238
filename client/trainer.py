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
from carpool.client.halves import twin_of
from carpool.client.losses import batch_loss, to_tensors
from carpool.privacy.errors import VehicleError
from carpool.privacy.spans import span, timed
from carpool.strategies.contract import Correction


@dataclass(frozen=True)
class TrainSettings:
    """The [train] section.

    epochs: passes over the vehicle's samples; steps: exactly so many batches instead (0 = by epochs);
    lr: step size in weight units; momentum, weight_decay: of SGD; clip_grad: L2 norm to which a batch
    gradient is scaled down (0 = off; for stability, not for privacy); augment: see augment.py;
    precision: of the forward and backward pass, see halves.py.
    """

    epochs: int = 1
    steps: int = 0
    batch_size: int = 32
    lr: float = 0.05
    momentum: float = 0.0
    weight_decay: float = 0.0
    clip_grad: float = 0.0
    augment: Literal["none", "light", "sign"] = "none"
    precision: Literal["float32", "bfloat16"] = "float32"


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


def batch_sizes(n: int, settings: TrainSettings) -> list[int]:
    """The length of every batch that `batches` will give for n >= 1 samples."""
    size = min(settings.batch_size, n)
    per_epoch = math.ceil(n / size)
    steps = settings.steps or settings.epochs * per_epoch
    last = n - (per_epoch - 1) * size
    return [last if step % per_epoch == per_epoch - 1 else size for step in range(steps)]


def dropout_seed(rng: np.random.Generator) -> int:
    """Seed of what a user's model draws from torch (dropout), fixed by the vehicle's generator unmoved."""
    return int(rng.bit_generator.seed_seq.generate_state(1)[0])


def seed_torch(seed: int, device: torch.device) -> None:
    """`torch.manual_seed` for one device: that takes 0.5 ms, to tell absent GPUs too."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


class LocalTrainer:
    """Trains K vehicles from one start; fulfils `carpool.strategies.contract.Trainer`.

    shards: what each vehicle holds; rngs: one generator a vehicle (batch order, augmentation).
    strict: raise where a vehicle's training ends in NaN or Inf; otherwise note it in `failed` and go on.
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
        strict: bool = True,
    ) -> None:
        if len(shards) != len(rngs) or not shards:
            raise ValueError(f"{len(shards)} vehicles need as many generators, not {len(rngs)}")
        if empty := [k for k, shard in enumerate(shards) if len(shard) == 0]:
            raise VehicleError(f"vehicle {empty[0]} of the stack has no samples to train on")
        self._model, self._shards, self._settings, self._rngs = model, shards, settings, rngs
        self._lr = settings.lr if lr is None else lr
        self._stop, self._strict = stop, strict
        self.examples = [len(shard) for shard in shards]
        self.losses = [math.nan] * len(shards)
        self.failed: dict[int, VehicleError] = {}
        self._steps = torch.zeros(len(shards), dtype=torch.int64)

    @property
    def steps(self) -> Tensor:
        """Local steps taken by each vehicle, int64 [K]."""
        return self._steps

    @timed("training")
    def train(self, start: Tensor, *, correction: Correction | None = None) -> Tensor:
        """Weights after local training from `start` ([d] or [K, d]): float32 [K, d], on the model's device.

        Raises VehicleError where the loss or the weights stop being finite.
        """
        result = torch.empty(len(self._shards), self._model.layout.size, device=self._model.device)
        for k in range(len(self._shards)):
            self._model.load(start if start.dim() == 1 else start[k])
            with torch.random.fork_rng(devices=[]):
                seed_torch(dropout_seed(self._rngs[k]), self._model.device)
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
            self._check_stop()
            losses.append(self._gradient(shard, index, rng))
            with torch.no_grad():
                gradient = model.grad
                if correction is not None:
                    with span("strategy"):
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
        # A sum is finite only if every term is; where it is not, it may be a mere overflow of finite terms.
        finite = math.isfinite(float(model.vector.sum())) or bool(torch.isfinite(model.vector).all())
        if not (math.isfinite(self.losses[k]) and finite):
            self._fail(k, len(losses))

    def _check_stop(self) -> None:
        if self._stop is not None and self._stop():
            raise VehicleError("the vehicle left in the middle of training")

    def _fail(self, k: int, steps: int) -> None:
        error = VehicleError(f"training ended in NaN or Inf after {steps} steps at lr {self._lr:g}")
        if self._strict:
            raise error
        self.failed[k] = error

    def _gradient(self, shard: Shard, index: Rows, rng: np.random.Generator) -> Tensor:
        """Fill the model's gradient from one batch; the batch's loss, scalar."""
        model, schema = self._model, shard.pool.schema
        with span("data"):
            frames, targets = shard.batch(index)
            pictures = model.floats(augment(frames, self._settings.augment, rng))
            truth = to_tensors(targets, schema, model.device)
        if self._settings.precision == "bfloat16":
            return twin_of(model).gradient(model, pictures, truth, schema)
        model.grad.zero_()
        loss = batch_loss(model.module(pictures), truth, schema)
        torch.autograd.backward(loss)
        return loss.detach()
