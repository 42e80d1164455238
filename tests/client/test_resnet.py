"""The residual blocks: what passes on untouched, what is halved, and that the whole thing learns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from carpool.client.camera.samples import Schema, Target
from carpool.client.models import build
from carpool.client.resnet import Block, SmallResNet

SIGN = Target("sign", "class", ("none", "stop", "yield"))


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def normed(x: Tensor) -> Tensor:
    """GroupNorm of 8 groups at its first parameters, and ReLU, written out."""
    groups = x.reshape(len(x), 8, -1)
    deviation = (groups.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    return ((groups - groups.mean(-1, keepdim=True)) / deviation).reshape(x.shape).clamp(min=0)


def test_a_block_that_adds_nothing_passes_its_input_on() -> None:
    block, x = Block(16, 16, 1), noise(2, 16, 6, 5)
    assert block.shortcut is None
    torch.nn.init.zeros_(block.conv2.weight)
    assert torch.equal(block(x), x)


@pytest.mark.slow  # the first convolution of a process
@pytest.mark.parametrize(("channels", "stride"), [(16, 1), (32, 1), (16, 2), (32, 2)])
def test_a_block_is_what_the_paper_draws(channels: int, stride: int) -> None:
    block, x = Block(16, channels, stride), noise(2, 16, 7, 6)
    active = normed(x)
    inner = functional.conv2d(active, block.conv1.weight, stride=stride, padding=1)
    wanted = functional.conv2d(normed(inner), block.conv2.weight, padding=1)
    if (channels, stride) == (16, 1):
        wanted = wanted + x
    else:
        assert block.shortcut is not None
        wanted = wanted + functional.conv2d(active, block.shortcut.weight, stride=stride)
    torch.testing.assert_close(block(x), wanted, rtol=1e-4, atol=1e-5)
    assert wanted.shape == (2, channels, -(-7 // stride), -(-6 // stride))


def test_options_set_width_depth_and_the_hidden_layer() -> None:
    model = build(
        "resnet-small",
        Schema(("a", "b"), 48, 64, (SIGN,)),
        {"channels": 24, "blocks": 3, "hidden": 5},
        0,
    )
    assert isinstance(model, SmallResNet)
    blocks = [layer for layer in model.body if isinstance(layer, Block)]
    assert [block.conv2.out_channels for block in blocks] == [24] * 3 + [48] * 3 + [96] * 3
    assert [block.conv1.stride[0] for block in blocks] == [1, 1, 1, 2, 1, 1, 2, 1, 1]
    assert (model.hidden.in_features, model.hidden.out_features) == (96 * 3 * 4, 5)


@pytest.mark.slow
def test_it_learns_three_patterns_in_a_few_steps() -> None:
    schema = Schema(("front",), 16, 16, (SIGN,))
    model = build("resnet-small", schema, {"channels": 8, "blocks": 1}, 0)
    truth = torch.arange(48) % 3
    frames = 0.5 * noise(48, 1, 3, 16, 16)
    frames[truth == 1, ..., :8] += 1
    frames[truth == 2, ..., :8, :] += 1
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(40):
        optimiser.zero_grad()
        functional.cross_entropy(model(frames)["sign"], truth).backward()
        optimiser.step()
    assert (model(frames)["sign"].argmax(1) == truth).float().mean() > 0.95
