"""`resnet-small`: a residual network for small pictures, with GroupNorm in place of BatchNorm.

He et al. 2016, "Identity Mappings in Deep Residual Networks", arXiv:1603.05027, Figure 4(e): norm and ReLU
come before each convolution, so that the sum of a block passes on untouched. Departures: GroupNorm, so that
no statistics of pictures travel; and in place of one mean over the picture, a coarse grid of maxima and a
hidden layer, as in `cnn-small`, since a lane offset is a matter of place. (2,500 traffic signs, SGD without
momentum, lr 0.05, one seed: 54 % on test pictures after 4 epochs; with one mean, 15 % after 8.)
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from carpool.client.camera.samples import Schema
from carpool.client.layers import Heads, Options, Outputs, stages_for, standardise, whole
from carpool.privacy.errors import ConfigError

GROUPS = 8


class Block(nn.Module):
    """x -> shortcut + convolution(ReLU(norm(convolution(ReLU(norm(x)))))); [b, in, h, w] -> [b, out, ...].

    `shortcut` is a 1x1 convolution where the shape changes, else None.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(GROUPS, channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        same = channels_in == channels_out and stride == 1
        self.shortcut = None if same else nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[b, in, h, w] -> [b, out, h / stride, w / stride], rounded up."""
        active = torch.relu(self.norm1(x))
        kept = x if self.shortcut is None else self.shortcut(active)
        added: Tensor = self.conv2(torch.relu(self.norm2(self.conv1(active))))
        return kept + added


class SmallResNet(nn.Module):
    """Views stacked as channels, three stages; the second and third halve the picture, double the width."""

    def __init__(self, schema: Schema, channels: int, blocks: int, hidden: int) -> None:
        super().__init__()
        height, width = -(-schema.height // 4), -(-schema.width // 4)
        cell = 1 << (stages_for(schema.height, schema.width) - 2)
        widths = [channels, channels, 2 * channels, 4 * channels]
        self.body = nn.Sequential(
            nn.Conv2d(3 * len(schema.views), channels, 3, padding=1, bias=False),
            *stages(widths, blocks),
            nn.GroupNorm(GROUPS, widths[-1]),
            nn.ReLU(),
            nn.MaxPool2d(cell),
        )
        self.hidden = nn.Linear(widths[-1] * (height // cell) * (width // cell), hidden)
        self.heads = Heads(hidden, schema.targets)

    def forward(self, frames: Tensor) -> Outputs:
        """Frames [b, v, 3, h, w] -> outputs."""
        stacked = standardise(frames).flatten(1, 2).contiguous(memory_format=torch.channels_last)
        outputs: Outputs = self.heads(torch.relu(self.hidden(self.body(stacked).flatten(1))))
        return outputs


def stages(widths: list[int], blocks: int) -> Iterator[Block]:
    """The blocks of all stages: the first of a stage changes the width and, but for stage 1, halves."""
    for stage, (channels_in, channels_out) in enumerate(pairwise(widths)):
        for number in range(blocks):
            first = number == 0
            yield Block(channels_in if first else channels_out, channels_out, 2 if first and stage else 1)


def resnet_small(schema: Schema, options: Options) -> nn.Module:
    """`resnet-small` with channels (16), blocks a stage (2), hidden (64); raises ConfigError."""
    if min(schema.height, schema.width) < 16:
        raise ConfigError(
            [f"model resnet-small needs pictures of at least 16x16, not {schema.width}x{schema.height}"]
        )
    channels = whole(options, "channels", 16, GROUPS, 1024, step=GROUPS)
    blocks, hidden = whole(options, "blocks", 2, 1, 16), whole(options, "hidden", 64, 1, 1 << 14)
    return SmallResNet(schema, channels, blocks, hidden)
