"""How good a model is on a shard: loss, accuracy, and figures by target."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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


def evaluate(model: FlatModel, shard: Shard) -> Metrics:
    """Run the model, as it is loaded, over every sample of `shard` (at least one)."""
    schema, n = shard.pool.schema, len(shard)
    losses = dict.fromkeys((t.name for t in schema.targets), 0.0)
    right: dict[str, list[Tensor]] = {t.name: [] for t in schema.targets}
    model.module.eval()
    with torch.inference_mode():
        for start in range(0, n, BATCH):
            index = np.arange(start, min(start + BATCH, n))
            frames, columns = shard.batch(index)
            outputs = model.module(model.floats(frames))
            truth = to_tensors(columns, schema, model.device)
            for target in schema.targets:
                output, wanted = outputs[target.name], truth[target.name]
                losses[target.name] += float(target_loss(target, output, wanted)) * len(index)
                if (correct := hits(target, output, wanted)) is not None:
                    right[target.name].append(correct.cpu())
    return summarise(schema.targets, {name: total / n for name, total in losses.items()}, right)


def summarise(
    targets: tuple[Target, ...], losses: dict[str, float], right: dict[str, list[Tensor]]
) -> Metrics:
    """Per-target losses and hits as `Metrics`."""
    figures: dict[str, dict[str, float]] = {}
    accuracy, correct = None, None
    for target in targets:
        figures[target.name] = {"loss": losses[target.name]}
        if target.kind == "value":
            figures[target.name]["rmse"] = losses[target.name] ** 0.5 * target.scale
            continue
        shares = torch.cat(right[target.name]).numpy()
        figures[target.name]["accuracy"] = float(shares.mean(dtype=np.float64))
        if accuracy is None:
            accuracy, correct = figures[target.name]["accuracy"], shares
    return Metrics(sum(losses.values()), accuracy, figures, correct)
