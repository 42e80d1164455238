"""Local training: SGD on one flat vector, vehicle after vehicle, for a stack of K vehicles."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from carpool.client.apart import Apart, apart_of
from carpool.client.camera.samples import Rows, Schema, Shard
from carpool.client.feed import Batch, dropout_seed, feed, seed_torch
from carpool.client.flat import FlatModel
from carpool.client.halves import twin_of
from carpool.client.losses import batch_loss, to_tensors
from carpool.privacy.errors import VehicleError
from carpool.privacy.spans import span, timed
from carpool.strategies.contract import Correction

EVALUATED = 64
"""Samples at once where only the loss is wanted."""


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


@dataclass(frozen=True)
class Bent:
    """What a strategy changes in a training, see `LocalTrainer.train`; offset [K, t], mask [t]."""

    correction: Correction | None = None
    offset: Tensor | None = None
    mask: Tensor | None = None

    def __bool__(self) -> bool:
        return not (self.correction is None and self.offset is None and self.mask is None)


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
        self._steps = [0] * len(shards)
        self._reported = True

    @property
    def steps(self) -> Tensor:
        """Local steps taken by each vehicle, int64 [K]."""
        return torch.tensor(self._steps)

    @property
    def samples(self) -> Tensor:
        """Samples each vehicle holds, int64 [K]."""
        return torch.tensor(self.examples)

    @property
    def lr(self) -> float:
        """Step size of this round's local SGD."""
        return self._lr

    @property
    def momentum(self) -> float:
        """Momentum of the local SGD, 0 for none."""
        return self._settings.momentum

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
        """Weights after local training from `start` ([d] or [K, d]): float32 [K, d], on the model's device.

        offset: [K, d], a vehicle's row is added to its gradients, before any correction; trainable: bool [d],
        false where parameters stay as they are; epochs: in place of the settings' epochs or steps; reported:
        whether the vehicle's loss is this training's. A call goes on with the vehicle's own generator. Raises
        VehicleError where the loss or the weights stop being finite.
        """
        usual, self._reported = self._settings, reported
        if epochs is not None:
            self._settings = replace(usual, epochs=epochs, steps=0)
        mask = None if trainable is None else trainable[: self._model.trainable].to(self._model.device)
        added = None if offset is None else offset[:, : self._model.trainable]
        try:
            return self._train(start, Bent(correction, added, mask))
        finally:
            self._settings = usual

    @timed("training")
    def loss(self, weights: Tensor) -> Tensor:
        """Mean loss of the weights ([d] or [K, d]) on each vehicle's samples, float32 [K]; trains nothing."""
        found = torch.zeros(len(self._shards))
        self._model.module.eval()
        with torch.inference_mode():
            for k, shard in enumerate(self._shards):
                if k == 0 or weights.dim() > 1:
                    self._model.load(weights if weights.dim() == 1 else weights[k])
                for at in range(0, len(shard), EVALUATED):
                    frames, targets = shard.batch(np.arange(at, min(at + EVALUATED, len(shard))))
                    truth = to_tensors(targets, shard.pool.schema, self._model.device)
                    outputs = self._model.module(self._model.floats(frames))
                    found[k] += batch_loss(outputs, truth, shard.pool.schema).cpu() * len(frames)
                found[k] /= len(shard)
        return found

    def _note(self, k: int, steps: int, loss: float, *, finite: bool) -> None:
        """Note what vehicle k's training came to."""
        self._steps[k] += steps
        if self._reported:
            self.losses[k] = loss
        if not (finite and math.isfinite(loss)):
            self._fail(k, steps)

    @timed("training")
    def _train(self, start: Tensor, bent: Bent) -> Tensor:
        train = self._settings
        double = self._double() if not bent or train.precision == "bfloat16" else None
        with torch.random.fork_rng(devices=[]):
            if not bent and double is not None:
                return self._on_double(double, start)
            result = torch.empty(len(self._shards), self._model.layout.size, device=self._model.device)
            for k in range(len(self._shards)):
                self._model.load(start if start.dim() == 1 else start[k])
                self._on_vector(k, double, bent)
                result[k] = self._model.vector.detach()
            return result

    def _double(self) -> Apart | None:
        schema = self._shards[0].pool.schema
        bfloat16 = self._settings.precision == "bfloat16"
        return twin_of(self._model, schema) if bfloat16 else apart_of(self._model, schema)

    def _on_double(self, double: Apart, start: Tensor) -> Tensor:
        """SGD of every vehicle from `start`."""
        train = self._settings
        owns = torch.empty(len(self._shards), self._model.layout.size, device=self._model.device)
        begin = start
        for k, shard in enumerate(self._shards):
            if start.dim() > 1 or k == 0:
                double.load(start if start.dim() == 1 else start[k])
                begin = double.own.clone() if k + 1 < len(self._shards) else double.own
            else:
                double.own.copy_(begin)
            losses = []
            double.restart()
            for pictures, truth in self._batches(k):
                losses.append(double.gradient(pictures, truth, shard.pool.schema))
                double.step(
                    self._lr,
                    momentum=train.momentum,
                    weight_decay=train.weight_decay,
                    clip_grad=train.clip_grad,
                )
            owns[k] = double.own
            self._end(k, losses, owns[k])
        return double.ordered(owns)

    def _on_vector(self, k: int, double: Apart | None, bent: Bent) -> None:
        """SGD of vehicle k on the model's vector; where there is a double, it computes the gradients."""
        model, settings, losses = self._model, self._settings, []
        schema = self._shards[k].pool.schema
        trained = model.vector[: model.trainable]
        velocity = torch.zeros_like(trained) if settings.momentum else None
        model.module.train()
        for pictures, truth in self._batches(k):
            losses.append(self._gradient(double, pictures, truth, schema))
            with torch.no_grad():
                gradient = model.grad
                if bent.offset is not None:
                    gradient = gradient + bent.offset[k]
                if bent.correction is not None:
                    with span("strategy"):
                        gradient = bent.correction(trained[None], gradient[None])[0]
                if settings.clip_grad:
                    norm = torch.linalg.vector_norm(gradient)
                    gradient = gradient * (settings.clip_grad / norm.clamp(min=settings.clip_grad))
                if settings.weight_decay:
                    gradient = gradient.add(trained, alpha=settings.weight_decay)
                if bent.mask is not None:
                    gradient = gradient * bent.mask
                if velocity is not None:
                    gradient = velocity.mul_(settings.momentum).add_(gradient)
                trained.add_(gradient, alpha=-self._lr)
        self._end(k, losses, model.vector)

    def _end(self, k: int, losses: list[Tensor], weights: Tensor) -> None:
        # A sum is finite only if every term is; where it is not, it may be a mere overflow of finite terms.
        finite = math.isfinite(float(weights.sum())) or bool(torch.isfinite(weights).all())
        self._note(k, len(losses), float(torch.stack(losses).mean()), finite=finite)

    def _check_stop(self) -> None:
        if self._stop is not None and self._stop():
            raise VehicleError("the vehicle left in the middle of training")

    def _fail(self, k: int, steps: int) -> None:
        error = VehicleError(f"training ended in NaN or Inf after {steps} steps at lr {self._lr:g}")
        if self._strict:
            raise error
        self.failed[k] = error

    def _batches(self, k: int) -> Iterator[Batch]:
        """Every batch of vehicle k, whose seed torch gets; before each, to stop is asked."""
        train, shard, rng = self._settings, self._shards[k], self._rngs[k]
        dtype = torch.bfloat16 if train.precision == "bfloat16" else torch.float32
        seed_torch(dropout_seed(rng), self._model.device)
        order = batches(len(shard), train, rng)
        for batch in feed(self._model, shard, order, rng, kind=train.augment, dtype=dtype):
            self._check_stop()
            yield batch

    def _gradient(
        self, double: Apart | None, pictures: Tensor, truth: Mapping[str, Tensor], schema: Schema
    ) -> Tensor:
        """Fill the model's gradient from one batch; the batch's loss, scalar."""
        model = self._model
        if double is not None:
            double.load(model.vector)
            loss = double.gradient(pictures, truth, schema)
            double.collect(model.grad)
            return loss
        model.grad.zero_()
        loss = batch_loss(model.module(pictures), truth, schema)
        torch.autograd.backward(loss)
        return loss.detach()
