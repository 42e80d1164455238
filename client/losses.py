"""From frames to floats, from outputs and targets to a loss and to figures a person understands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from carpool.client.camera.pipeline import COLOURS, DEFAULT, Pipeline
from carpool.client.camera.samples import Frames, Schema, Target


def to_float(frames: Frames, device: torch.device | str = "cpu", pipeline: Pipeline = DEFAULT) -> Tensor:
    """Uint8 RGB [b, views, h, w, 3] -> float32 [b, views, 3, h, w], in about -2..2 by default.

    Whoever has a model calls `FlatModel.floats`, which knows the pipeline that the model was trained with.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(frames)).to(device)
    return scaled(tensor.permute(0, 1, 4, 2, 3).to(torch.float32), pipeline)


def scaled(pictures: Tensor, pipeline: Pipeline) -> Tensor:
    """Float32 RGB of 0..255 [..., 3, h, w], overwritten, -> colour and normalisation of the pipeline.

    The one place where pixels become a model's numbers: training, evaluation, prediction and ONNX use it.
    """
    if pipeline.colour in COLOURS:
        matrix, offset = (pictures.new_tensor(part) for part in COLOURS[pipeline.colour])
        pictures = torch.einsum("cd,...dhw->...chw", matrix, pictures) + 255 * offset[:, None, None]
    if pipeline.normalise == "picture":
        mean = pictures.mean(dim=(-3, -2, -1), keepdim=True)
        pictures = pictures - mean
        deviation = pictures.square().mean(dim=(-3, -2, -1), keepdim=True).add(1.0).sqrt()
        return pictures / deviation  # 1 under the root: an all-black picture stays 0
    shifts, factors = [255 * one for one in pipeline.mean], [1 / (255 * one) for one in pipeline.std]
    if len(set(shifts)) == len(set(factors)) == 1:
        return pictures.sub_(shifts[0]).mul_(factors[0])
    shift, factor = pictures.new_tensor(shifts), pictures.new_tensor(factors)
    return pictures.sub_(shift[:, None, None]).mul_(factor[:, None, None])


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
