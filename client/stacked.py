"""K copies of a model as one computation: batched matrix products and grouped convolutions over the vehicles.

A layer of the module becomes a function of the stacked parameters {name: [K, *shape]}. Vectors are [K, b, f];
pictures are [b, K * channels, h, w], so that a convolution with K groups and a GroupNorm with K times the
groups treat every vehicle by itself. Layers without a stacked form make `stack` return None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from carpool.client.layers import Heads, standardise
from carpool.client.models import MultiViewCNN, Pixels, SmallCNN
from carpool.client.resnet import Block, SmallResNet

Parameters = Mapping[str, Tensor]
Apply = Callable[[Parameters, Tensor], Tensor]
Forward = Callable[[Parameters, Tensor], dict[str, Tensor]]
"""(parameters {name: [K, *shape]}, frames [K, b, views, 3, h, w]) -> {target: [K, b, outputs]}."""


def stack(module: nn.Module) -> Forward | None:
    """The stacked form of a built-in model, or None where it has none."""
    try:
        if isinstance(module, Pixels):
            return _pixels(module)
        if isinstance(module, SmallCNN | SmallResNet):
            return _small(module)
        if isinstance(module, MultiViewCNN):
            return _multiview(module)
    except NotImplementedError:
        return None
    return None


def _linear(name: str) -> Apply:
    weight, bias = f"{name}.weight", f"{name}.bias"
    return lambda p, x: torch.baddbmm(p[bias].unsqueeze(1), x, p[weight].transpose(1, 2))


def _conv(name: str, layer: nn.Conv2d) -> Apply:
    weight, bias = f"{name}.weight", f"{name}.bias"

    def apply(p: Parameters, x: Tensor) -> Tensor:
        k = p[weight].shape[0]
        offset = p[bias].flatten() if layer.bias is not None else None
        return functional.conv2d(
            x, p[weight].flatten(0, 1), offset, layer.stride, layer.padding, layer.dilation, k * layer.groups
        )

    return apply


def _group_norm(name: str, layer: nn.GroupNorm) -> Apply:
    weight, bias = f"{name}.weight", f"{name}.bias"

    def apply(p: Parameters, x: Tensor) -> Tensor:
        groups = p[weight].shape[0] * layer.num_groups
        return functional.group_norm(x, groups, p[weight].flatten(), p[bias].flatten(), layer.eps)

    return apply


def _sequence(name: str, layers: nn.Sequential) -> Apply:
    parts = [_layer(f"{name}.{place}", layer) for place, layer in layers.named_children()]

    def apply(p: Parameters, x: Tensor) -> Tensor:
        for part in parts:
            x = part(p, x)
        return x

    return apply


def _block(name: str, block: Block) -> Apply:
    norms = [_group_norm(f"{name}.norm1", block.norm1), _group_norm(f"{name}.norm2", block.norm2)]
    convolutions = [_conv(f"{name}.conv1", block.conv1), _conv(f"{name}.conv2", block.conv2)]
    shortcut = None if block.shortcut is None else _conv(f"{name}.shortcut", block.shortcut)

    def apply(p: Parameters, x: Tensor) -> Tensor:
        active = torch.relu(norms[0](p, x))
        kept = x if shortcut is None else shortcut(p, active)
        return kept + convolutions[1](p, torch.relu(norms[1](p, convolutions[0](p, active))))

    return apply


def _layer(name: str, layer: nn.Module) -> Apply:
    if isinstance(layer, nn.Sequential):
        return _sequence(name, layer)
    if isinstance(layer, nn.Linear):
        return _linear(name)
    if isinstance(layer, nn.Conv2d):
        return _conv(name, layer)
    if isinstance(layer, nn.GroupNorm):
        return _group_norm(name, layer)
    if isinstance(layer, Block):
        return _block(name, layer)
    if isinstance(layer, nn.ReLU | nn.MaxPool2d):
        return lambda p, x: layer(x)
    raise NotImplementedError(type(layer).__name__)


def _heads(name: str, heads: Heads) -> Forward:
    linear = _linear(f"{name}.linear")

    def forward(p: Parameters, features: Tensor) -> dict[str, Tensor]:
        return dict(zip(heads.names, torch.split(linear(p, features), heads.sizes, dim=2), strict=True))

    return forward


def _pixels(module: Pixels) -> Forward:
    body, heads = _sequence("body", module.body), _heads("heads", module.heads)
    return lambda p, frames: heads(p, body(p, frames.flatten(2)))


def to_groups(pictures: Tensor) -> Tensor:
    """[K, n, c, h, w] -> [n, K * c, h, w]."""
    return pictures.transpose(0, 1).flatten(1, 2)


def from_groups(pictures: Tensor, k: int) -> Tensor:
    """[n, K * c, h, w] -> [K, n, c * h * w]."""
    n, channels, height, width = pictures.shape
    return pictures.reshape(n, k, channels // k * height * width).transpose(0, 1)


def _small(module: SmallCNN | SmallResNet) -> Forward:
    body, hidden = _sequence("body", module.body), _linear("hidden")
    heads = _heads("heads", module.heads)

    def forward(p: Parameters, frames: Tensor) -> dict[str, Tensor]:
        k = frames.shape[0]
        features = from_groups(body(p, to_groups(standardise(frames).flatten(2, 3))), k)
        return heads(p, torch.relu(hidden(p, features)))

    return forward


def _multiview(module: MultiViewCNN) -> Forward:
    trunk, embed, views = _sequence("trunk", module.trunk), _linear("embed"), module.views
    heads = _heads("heads", module.heads) if module.heads is not None else None
    flags = _linear("flags") if module.flags is not None else None

    def forward(p: Parameters, frames: Tensor) -> dict[str, Tensor]:
        k, b = frames.shape[:2]
        pictures = to_groups(standardise(frames).flatten(1, 2))
        embedded = torch.relu(embed(p, from_groups(trunk(p, pictures), k)))
        outputs: dict[str, Tensor] = {}
        if heads is not None:
            outputs.update(heads(p, embedded.reshape(k, b, -1)))
        if flags is not None:
            raised = flags(p, embedded).reshape(k, b, views, -1)
            outputs.update({name: raised[..., i] for i, name in enumerate(module.per_view)})
        return outputs

    return forward
