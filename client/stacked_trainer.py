"""Local training of K vehicles as one computation; the same mathematics as `LocalTrainer`.

Vehicles are sorted by their number of steps, so that those that are done drop off the end of the stack, and
cut into stacks in which at most a fifth of the computed samples is padding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from carpool.client.augment import augment
from carpool.client.camera.samples import Rows, Schema, Target
from carpool.client.feed import flat_floats
from carpool.client.losses import to_tensors
from carpool.client.models import Pixels
from carpool.client.stacked import stack
from carpool.client.stacked_dense import DenseStack
from carpool.client.trainer import Bent, LocalTrainer, TrainSettings, batch_sizes, batches
from carpool.privacy.spans import span, timed

WASTE = 0.2
"""Most padding in a stack, as a share of the samples that are trained on."""
NUMBERS = 1 << 23
"""Most parameters in a stack, K x d: beyond, stacks outgrow the caches for nothing."""
AHEAD = 1 << 23
"""Most numbers of all batches of a stack for which they are gathered at once, ahead of the first step."""
POOL = 1 << 24
"""Most numbers of a whole pool for which the floats of its pictures are kept for dense networks: 64 MB."""


def cut(sizes: Sequence[Sequence[int]], most: int, waste: float = WASTE) -> list[list[int]]:
    """Cut vehicles into stacks: positions, longest first, every vehicle once.

    sizes: the batch sizes of every step of each vehicle; most: vehicles in a stack, >= 1; waste: at most so
    many padded samples for each real one.

    >>> cut([[4, 4], [4, 4], [1], [4, 4]], most=3)
    [[0, 1, 3], [2]]
    """
    if all(mine == sizes[0] for mine in sizes):
        return [list(range(k, min(k + most, len(sizes)))) for k in range(0, len(sizes), most)]
    order = sorted(range(len(sizes)), key=lambda k: (-len(sizes[k]), -sum(sizes[k]), k))
    stacks: list[list[int]] = []
    widest: list[int] = []
    count: list[int] = []
    real = 0
    for k in order:
        mine = sizes[k]
        wider = [max(w, m) for w, m in zip(widest, mine, strict=False)] + widest[len(mine) :]
        more = [c + (s < len(mine)) for s, c in enumerate(count)]
        padded = sum(w * c for w, c in zip(wider, more, strict=True))
        total = real + sum(mine)
        if stacks and len(stacks[-1]) < most and len(mine) <= len(widest) and padded <= (1 + waste) * total:
            stacks[-1].append(k)
            widest, count, real = wider, more, total
        else:
            stacks.append([k])
            widest, count, real = list(mine), [1] * len(mine), sum(mine)
    return stacks


def drawn(n: int, total: int, rng: np.random.Generator) -> Rows:
    """Positions of all batches of a vehicle with n samples end to end, int64 [total]; as `batches` draws."""
    orders = [rng.permutation(n) for _ in range(-(-total // n))]
    return (orders[0] if len(orders) == 1 else np.concatenate(orders))[:total]


def sample_losses(target: Target, output: Tensor, truth: Tensor) -> Tensor:
    """Losses of single samples [K, b], as `losses.target_loss` has them before its mean."""
    if target.kind == "class":
        flat = functional.cross_entropy(output.flatten(0, 1), truth.flatten(), reduction="none")
        return flat.view(truth.shape)
    if target.kind == "flags":
        return functional.binary_cross_entropy_with_logits(output, truth, reduction="none").mean(2)
    return (output[..., 0] - truth).square()


class StackedTrainer(LocalTrainer):
    """Trains stacks of vehicles; only for models that have a stacked form (`stacked.stack`)."""

    @timed("training")
    def _train(self, start: Tensor, bent: Bent) -> Tensor:
        known = cache(lambda samples: batch_sizes(samples, self._settings))
        sizes = [known(len(shard)) for shard in self._shards]
        stacks = cut(sizes, max(1, NUMBERS // self._model.layout.size))
        parts = []
        for members in stacks:
            begin = start if start.dim() == 1 else start[members]
            parts.append(_Stack(self, members, [sizes[k] for k in members], begin, bent).run())
        order = [k for members in stacks for k in members]
        if order == sorted(order):
            return torch.cat(parts) if len(parts) > 1 else parts[0]
        result = torch.empty(len(order), self._model.layout.size, device=self._model.device)
        for members, part in zip(stacks, parts, strict=True):
            result[members] = part
        return result


class _Stack:
    """One stack in training: vehicles `members` of the trainer, longest first."""

    def __init__(
        self,
        trainer: StackedTrainer,
        members: Sequence[int],
        sizes: Sequence[Sequence[int]],
        start: Tensor,
        bent: Bent,
    ) -> None:
        self.trainer, self.members, self.sizes, self.bent = trainer, members, sizes, bent
        self.offset = None if bent.offset is None else bent.offset[list(members)]
        self.settings: TrainSettings = trainer._settings
        self.model = trainer._model
        self.shards = [trainer._shards[k] for k in members]
        self.orders = [batches(len(trainer._shards[k]), self.settings, trainer._rngs[k]) for k in members]
        train = self.settings
        # Without anything that needs the whole gradient, every tensor is stepped, and lies, by itself.
        self.apart = not (train.clip_grad or train.weight_decay or train.momentum or bent)
        self.weights = start.detach().expand(len(members), -1)
        if not self.apart:
            self.weights = self.weights.clone()
        self.velocity = torch.zeros_like(self.weights) if train.momentum else None
        forward = stack(self.model.module)
        if forward is None:
            raise ValueError(f"{type(self.model.module).__name__} has no stacked form")
        self.forward = forward
        module, plain = self.model.module, self.apart and train.precision == "float32"
        self.dense = DenseStack(module) if plain and isinstance(module, Pixels) else None
        self.ahead = self._ahead()

    def run(self) -> Tensor:
        """The weights [m, d] after every vehicle's last step."""
        losses = torch.zeros(len(self.members), device=self.weights.device)
        steps = [len(mine) for mine in self.sizes]
        active, leaves = len(self.members), self._leaves(len(self.members))
        whole = leaves
        for step in range(steps[0]):
            self.trainer._check_stop()
            now = active if steps[-1] > step else sum(count > step for count in steps)
            if now != active:
                active = now
                leaves = {n: t.detach()[:now].requires_grad_() for n, t in whole.items()}
            losses[:active] += self._step(leaves, active, step)
        if self.apart:
            self.weights = torch.cat([leaf.detach().flatten(1) for leaf in whole.values()], dim=1)
        # A sum is finite only if every term is; where it is not, it may be a mere overflow of finite terms.
        finite = torch.isfinite(self.weights.sum(1)).tolist()
        if not all(finite):
            finite = torch.isfinite(self.weights).all(1).tolist()
        for place, (k, loss) in enumerate(zip(self.members, losses.tolist(), strict=True)):
            self.trainer._note(k, steps[place], loss / steps[place], finite=finite[place])
        return self.weights

    def _leaves(self, active: int) -> dict[str, Tensor]:
        layout, rows = self.model.layout, self.weights[:active]
        views = {
            name: rows[:, layout.slices[name]].view(active, *shape)
            for name, shape in zip(layout.names, layout.shapes, strict=True)
        }
        whole = torch.contiguous_format
        return {
            n: (v.clone(memory_format=whole) if self.apart else v.detach()).requires_grad_()
            for n, v in views.items()
        }

    def _step(self, leaves: dict[str, Tensor], active: int, step: int) -> Tensor:
        """One batch of every vehicle; its losses [active]."""
        schema = self.shards[0].pool.schema
        pictures, truth, share = self._batch(active, step, schema)
        if self.dense is not None:
            return self.dense.step(leaves, pictures, truth, share, schema, self.trainer._lr)
        given: dict[str, Tensor] = leaves
        if self.settings.precision == "bfloat16":  # the float32 leaves are the master weights
            given = {name: leaf.to(torch.bfloat16) for name, leaf in leaves.items()}
            pictures = pictures.to(torch.bfloat16)
        outputs = {name: output.float() for name, output in self.forward(given, pictures).items()}
        parts = [sample_losses(t, outputs[t.name], truth[t.name]) for t in schema.targets]
        found = (sum(parts[1:], parts[0]) * share).sum(1)
        gradients = torch.autograd.grad(found.sum(), tuple(leaves.values()))
        self._descend(leaves, gradients, active)
        return found.detach()

    @timed("data")
    def _ahead(self) -> tuple[Tensor, dict[str, Tensor]] | None:
        """Pictures [m, all samples, views, 3, h, w] and targets of all steps, where that is not much.

        None where batches differ in size, pictures are augmented, or there is too much of them.
        """
        pool, mine = self.shards[0].pool, self.sizes[0]
        numbers = len(self.members) * sum(mine) * math.prod(pool.frames.shape[1:])
        alike = all(s == mine for s in self.sizes) and all(shard.pool is pool for shard in self.shards)
        if not alike or self.settings.augment != "none" or numbers > AHEAD:
            return None
        rngs, total = [self.trainer._rngs[k] for k in self.members], sum(mine)
        rows = np.concatenate(
            [shard.rows[drawn(len(shard), total, rng)] for shard, rng in zip(self.shards, rngs, strict=True)]
        )
        flat = None if self.dense is None else flat_floats(self.model, pool, POOL)
        if flat is not None:
            pictures = torch.index_select(flat, 0, torch.from_numpy(rows).to(flat.device))
        else:
            pictures = self.model.floats(np.asarray(pool.frames)[rows])
        pictures = pictures.view(len(self.members), total, *pictures.shape[1:])
        if self.dense is not None:
            pictures = pictures.flatten(2)
        columns = {name: column[rows] for name, column in pool.targets.items()}
        truth = to_tensors(columns, pool.schema, self.weights.device)
        return pictures, {n: one.view(len(self.members), total, *one.shape[1:]) for n, one in truth.items()}

    @timed("data")
    def _batch(self, active: int, step: int, schema: Schema) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Pictures [active, b, views, 3, h, w], targets [active, b, ...], 1 / batch size (padding: 0)."""
        if self.ahead is not None:  # every vehicle is active and has the same size of batch
            mine, begin = self.sizes[0][step], sum(self.sizes[0][:step])
            pictures, truth = self.ahead
            now = slice(begin, begin + mine)
            even = pictures.new_full((active, mine), 1 / mine)
            return pictures[:, now], {name: column[:, now] for name, column in truth.items()}, even
        indices = [next(order) for order in self.orders[:active]]
        width = max(len(index) for index in indices)
        share = np.zeros((active, width), np.float32)
        rows: list[Rows] = []
        for place, index in enumerate(indices):
            share[place, : len(index)] = 1 / len(index)
            if len(index) < width:
                index = np.concatenate([index, np.full(width - len(index), index[0])])
            rows.append(self.shards[place].rows[index])
        frames, columns = self._gather(rows, [len(index) for index in indices])
        device = self.weights.device
        pictures = self.model.floats(frames.reshape(-1, *frames.shape[2:]))
        truth = to_tensors(columns, schema, device)
        pictures = pictures.view(active, width, *pictures.shape[1:])
        return pictures, truth, torch.from_numpy(share).to(device)

    def _gather(
        self, rows: Sequence[Rows], real: Sequence[int]
    ) -> tuple[NDArray[np.uint8], dict[str, NDArray[Any]]]:
        shards = self.shards[: len(rows)]
        kind = self.settings.augment
        if kind == "none" and all(shard.pool is shards[0].pool for shard in shards):
            pool, every = shards[0].pool, np.stack(rows)
            return pool.frames[every], {name: column[every] for name, column in pool.targets.items()}
        frames = []
        for place, shard in enumerate(shards):
            mine = shard.pool.frames[rows[place]]
            rng = self.trainer._rngs[self.members[place]]
            # Augment what is real only: padding must not draw from the vehicle's generator.
            mine[: real[place]] = augment(mine[: real[place]], kind, rng)
            frames.append(mine)
        names = shards[0].pool.targets
        columns = {
            n: np.stack([s.pool.targets[n][r] for s, r in zip(shards, rows, strict=True)]) for n in names
        }
        return np.stack(frames), columns

    @torch.no_grad()
    def _descend(self, leaves: dict[str, Tensor], gradients: tuple[Tensor, ...], active: int) -> None:
        settings, lr = self.settings, self.trainer._lr
        if self.apart:
            for leaf, gradient in zip(leaves.values(), gradients, strict=True):
                leaf.sub_(gradient, alpha=lr)
            return
        weights = self.weights[:active]
        flat = torch.cat([gradient.reshape(active, -1) for gradient in gradients], dim=1)
        if self.offset is not None:
            flat = flat + self.offset[:active]
        if self.bent.correction is not None:
            with span("strategy"):
                flat = self.bent.correction(weights, flat)
        if settings.clip_grad:
            norm = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
            flat = flat * (settings.clip_grad / norm.clamp(min=settings.clip_grad))
        if settings.weight_decay:
            flat = flat.add(weights, alpha=settings.weight_decay)
        if self.bent.mask is not None:
            flat = flat * self.bent.mask
        if self.velocity is not None:
            flat = self.velocity[:active].mul_(settings.momentum).add_(flat)
        weights.add_(flat, alpha=-lr)
