"""What the built-in models have in common: heads, standardised pictures, sizes, whole-number options."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from carpool.client.camera.samples import Target
from carpool.privacy.errors import ConfigError

Options = Mapping[str, object]
Outputs = dict[str, Tensor]


class Heads(nn.Module):
    """One linear layer a target, computed as one: features [b, f] -> {name: [b, outputs]}."""

    def __init__(self, features: int, targets: tuple[Target, ...]) -> None:
        super().__init__()
        self.names = [target.name for target in targets]
        self.sizes = [target.outputs for target in targets]
        self.linear = nn.Linear(features, sum(self.sizes))

    def forward(self, features: Tensor) -> Outputs:
        """Features [b, f] -> one [b, outputs] a target."""
        parts = torch.split(self.linear(features), self.sizes, dim=1)
        return dict(zip(self.names, parts, strict=True))


def standardise(frames: Tensor) -> Tensor:
    """Each picture to zero mean and unit deviation (over colour and pixels): night and day look alike."""
    mean = frames.mean(dim=(-3, -2, -1), keepdim=True)
    deviation = (frames - mean).square().mean(dim=(-3, -2, -1), keepdim=True).add(1e-4).sqrt()
    return (frames - mean) / deviation


def stages_for(height: int, width: int) -> int:
    """How many halvings bring the shorter side down to at most 4 pixels."""
    return max(1, math.ceil(math.log2(max(min(height, width), 2) / 4.99)))


def whole(options: Options, name: str, default: int, low: int, high: int, step: int = 1) -> int:
    """A whole number low..high out of model.options, divisible by `step`; raises ConfigError."""
    value = options.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high or value % step:
        multiple = f" divisible by {step}" if step > 1 else ""
        raise ConfigError(
            [f"model.options.{name} is {value!r}; it must be a whole number {low}..{high}{multiple}"]
        )
    return value
