"""How good a model is on a shard: loss, accuracy, and figures by target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from carpool.client.camera.samples import Shard, Target
from carpool.client.flat import FlatModel
from carpool.client.losses import hits, target_loss, to_tensors

BATCH = 32
"""Samples at once: few enough that what a convolution makes of them stays in the cache."""


@dataclass(frozen=True)
class Metrics:
    """loss: sum of the targets' mean losses; accuracy: 0..1, of the first target that has one, else None.

    targets: {target: {metric: value}}; "accuracy" for classes and flags, "rmse" (target's unit) for values.
    correct: float32 [n], per sample share right of that first target, or None.
    """

    loss: float
    accuracy: float | None
    targets: dict[str, dict[str, float]]
    correct: NDArray[np.float32] | None


class Part(NamedTuple):
    """What a batch came to: {target: sum of its losses}, {target: float32 [b], share right a sample}."""

    losses: dict[str, float]
    right: dict[str, NDArray[np.float32]]


def evaluate(model: FlatModel, shard: Shard) -> Metrics:
    """Run the model, as it is loaded, over every sample of `shard` (at least one)."""
    return joined(shard, [measured(model, shard, place) for place in range(parts(len(shard)))])


def parts(samples: int) -> int:
    """How many batches so many samples are measured in; whoever measures them, the figures are the same."""
    return -(-samples // BATCH)


@torch.inference_mode()
def measured(model: FlatModel, shard: Shard, place: int) -> Part:
    """Run the model, as it is loaded, over batch 0, 1, ... `parts(len(shard))` - 1."""
    schema = shard.pool.schema
    model.module.eval()
    index = np.arange(place * BATCH, min((place + 1) * BATCH, len(shard)))
    frames, columns = shard.batch(index)
    outputs = model.module(model.floats(frames))
    truth = to_tensors(columns, schema, model.device)
    losses: dict[str, float] = {}
    right: dict[str, NDArray[np.float32]] = {}
    for target in schema.targets:
        output, wanted = outputs[target.name], truth[target.name]
        losses[target.name] = float(target_loss(target, output, wanted)) * len(index)
        if (correct := hits(target, output, wanted)) is not None:
            right[target.name] = correct.cpu().numpy()
    return Part(losses, right)


def joined(shard: Shard, found: Sequence[Part]) -> Metrics:
    """The figures of a shard from all of its batches, in their order."""
    targets = shard.pool.schema.targets
    losses = {t.name: sum((part.losses[t.name] for part in found), 0.0) / len(shard) for t in targets}
    right = {t.name: [part.right[t.name] for part in found] for t in targets if t.kind != "value"}
    return summarise(targets, losses, right)


def summarise(
    targets: tuple[Target, ...], losses: dict[str, float], right: dict[str, list[NDArray[np.float32]]]
) -> Metrics:
    """Per-target losses and hits as `Metrics`."""
    figures: dict[str, dict[str, float]] = {}
    accuracy, correct = None, None
    for target in targets:
        figures[target.name] = {"loss": losses[target.name]}
        if target.kind == "value":
            figures[target.name]["rmse"] = losses[target.name] ** 0.5 * target.scale
            continue
        shares = np.concatenate(right[target.name])
        figures[target.name]["accuracy"] = float(shares.mean(dtype=np.float64))
        if accuracy is None:
            accuracy, correct = figures[target.name]["accuracy"], shares
    return Metrics(sum(losses.values()), accuracy, figures, correct)
