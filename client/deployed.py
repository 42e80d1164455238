"""A trained module as others use it: camera bytes in, probabilities and units out, nothing to normalise."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from carpool.client.camera.samples import Schema, Target
from carpool.client.losses import scaled

INPUT = "frames"


class Deployed(nn.Module):
    """Uint8 RGB [b, views, h, w, 3] -> one tensor a target, in the schema's order.

    "class": probabilities float32 [b, classes]; "flags": a probability each, [b, width];
    "value": [b] in the target's unit. Pixels go through `losses.scaled` with the schema's pipeline; cropping
    and resizing come before.
    """

    def __init__(self, module: nn.Module, schema: Schema) -> None:
        super().__init__()
        self.module = module
        self.targets = schema.targets
        self.pipeline = schema.pipeline

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Frames uint8 [b, views, h, w, 3] -> outputs."""
        floats = scaled(frames.permute(0, 1, 4, 2, 3).to(torch.float32), self.pipeline)
        outputs = self.module(floats)
        return tuple(finished(target, outputs[target.name]) for target in self.targets)


def finished(target: Target, output: Tensor) -> Tensor:
    """What a head gives [b, outputs], as a probability or in the target's unit."""
    if target.kind == "class":
        return torch.softmax(output, 1)
    if target.kind == "flags":
        return torch.sigmoid(output)
    return output[:, 0] * target.scale


def output_names(schema: Schema) -> list[str]:
    """Names of the outputs: those of the targets, told apart from the input's."""
    return [f"{t.name}_out" if t.name == INPUT else t.name for t in schema.targets]
