"""From frames to floats, from outputs and targets to a loss and to figures a person understands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from carpool.client.camera.samples import Frames, Schema, Target


def to_float(frames: Frames, device: torch.device | str = "cpu") -> Tensor:
    """Uint8 [b, views, h, w, 3] -> float32 [b, views, 3, h, w] in about -2..2."""
    tensor = torch.from_numpy(np.ascontiguousarray(frames)).to(device)
    return tensor.permute(0, 1, 4, 2, 3).to(torch.float32).sub_(127.5).mul_(1 / 63.75)


def to_tensors(
    targets: Mapping[str, NDArray[Any]], schema: Schema, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Target columns as tensors: int64 for classes, float32 otherwise ("value" divided by its scale)."""
    result = {}
    for target in schema.targets:
        column = torch.from_numpy(np.ascontiguousarray(targets[target.name])).to(device)
        if target.kind == "flags":
            column = column.to(torch.float32)
        elif target.kind == "value":
            column = column.to(torch.float32) / target.scale
        result[target.name] = column
    return result


def target_loss(target: Target, output: Tensor, truth: Tensor) -> Tensor:
    """Mean loss over the batch: cross-entropy, binary cross-entropy, or squared error in units of scale."""
    if target.kind == "class":
        return functional.cross_entropy(output, truth)
    if target.kind == "flags":
        return functional.binary_cross_entropy_with_logits(output, truth)
    return functional.mse_loss(output[:, 0], truth)


def batch_loss(outputs: Mapping[str, Tensor], truth: Mapping[str, Tensor], schema: Schema) -> Tensor:
    """Sum of the targets' mean losses, scalar."""
    parts = [target_loss(t, outputs[t.name], truth[t.name]) for t in schema.targets]
    return torch.stack(parts).sum() if len(parts) > 1 else parts[0]


def hits(target: Target, output: Tensor, truth: Tensor) -> Tensor | None:
    """Per sample: right class (0/1), share of right flags (0..1); None for a value."""
    if target.kind == "class":
        return (output.argmax(1) == truth).to(torch.float32)
    if target.kind == "flags":
        return ((output > 0) == (truth > 0.5)).to(torch.float32).mean(1)
    return None
