"""The built-in models: frames [b, views, 3, h, w] float32 -> {target: outputs [b, outputs]}.

    logistic       one linear layer on the pixels
    mlp            hidden layers (two by default) on the pixels
    cnn-small      conv / pool / GroupNorm stages, views stacked as channels (about 180k parameters at 32x32)
    cnn-multiview  one shared convolutional trunk over the views, one head a target
    resnet-small   residual blocks in three stages, views stacked as channels; see resnet.py

None has buffers: GroupNorm needs no running statistics, so nothing but parameters ever travels.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from carpool.client.camera.samples import Schema
from carpool.client.layers import Heads, Options, Outputs, stages_for, standardise, whole
from carpool.client.reorder import pool_first
from carpool.client.resnet import resnet_small
from carpool.privacy.errors import ConfigError


class Pixels(nn.Module):
    """`logistic` and `mlp`: linear layers on all pixels of all views."""

    def __init__(self, schema: Schema, hidden: tuple[int, ...]) -> None:
        super().__init__()
        sizes = [len(schema.views) * 3 * schema.height * schema.width, *hidden]
        layers: list[nn.Module] = []
        for size_in, size_out in pairwise(sizes):
            layers += [nn.Linear(size_in, size_out), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.heads = Heads(sizes[-1], schema.targets)

    def forward(self, frames: Tensor) -> Outputs:
        """Frames [b, v, 3, h, w] -> outputs."""
        outputs: Outputs = self.heads(self.body(frames.flatten(1)))
        return outputs


def conv_stage(channels_in: int, channels_out: int) -> nn.Sequential:
    """Convolution, max-pool, GroupNorm, ReLU: pooled first, so that the rest sees a quarter of the pixels."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.MaxPool2d(2),
        nn.GroupNorm(8, channels_out),
        nn.ReLU(),
    )


class SmallCNN(nn.Module):
    """`cnn-small`: views stacked as channels, 32-64-64... channels, one hidden layer."""

    def __init__(self, schema: Schema, channels: int, hidden: int) -> None:
        super().__init__()
        stages = stages_for(schema.height, schema.width)
        widths = [3 * len(schema.views), channels, *[2 * channels] * (stages - 1)]
        self.body = nn.Sequential(*[conv_stage(a, b) for a, b in pairwise(widths)])
        features = widths[-1] * (schema.height >> stages) * (schema.width >> stages)
        self.hidden = nn.Linear(features, hidden)
        self.heads = Heads(hidden, schema.targets)

    def forward(self, frames: Tensor) -> Outputs:
        """Frames [b, v, 3, h, w] -> outputs."""
        stacked = standardise(frames).flatten(1, 2).contiguous(memory_format=torch.channels_last)
        features = self.body(stacked).flatten(1)
        outputs: Outputs = self.heads(torch.relu(self.hidden(features)))
        return outputs


class MultiViewCNN(nn.Module):
    """`cnn-multiview`: a trunk shared over views, an embedding a view, heads on all of them.

    A "flags" target with one flag a view is read from that view's own embedding by one shared layer.
    """

    def __init__(self, schema: Schema, channels: int, embedding: int) -> None:
        super().__init__()
        self.views = len(schema.views)
        stages = stages_for(schema.height // 2, schema.width // 2)
        widths = [channels, *[2 * channels] * stages]
        self.trunk = nn.Sequential(
            nn.Conv2d(3, channels, 5, stride=2, padding=2),
            nn.ReLU(),
            *[conv_stage(a, b) for a, b in pairwise(widths)],
        )
        height, width = -(-schema.height // 2) >> stages, -(-schema.width // 2) >> stages
        self.embed = nn.Linear(widths[-1] * height * width, embedding)
        self.per_view = [t.name for t in schema.targets if t.kind == "flags" and t.width == self.views]
        self.flags = nn.Linear(embedding, len(self.per_view)) if self.per_view else None
        rest = tuple(t for t in schema.targets if t.name not in self.per_view)
        self.heads = Heads(embedding * self.views, rest) if rest else None

    def forward(self, frames: Tensor) -> Outputs:
        """Frames [b, v, 3, h, w] -> outputs."""
        pictures = standardise(frames).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        embedded = torch.relu(self.embed(self.trunk(pictures).flatten(1)))
        outputs: Outputs = {}
        if self.heads is not None:
            outputs.update(self.heads(embedded.reshape(-1, self.views * embedded.shape[1])))
        if self.flags is not None:
            flags = self.flags(embedded).reshape(-1, self.views, len(self.per_view))
            outputs.update({name: flags[:, :, i] for i, name in enumerate(self.per_view)})
        return outputs


def _logistic(schema: Schema, options: Options) -> nn.Module:
    return Pixels(schema, ())


def _mlp(schema: Schema, options: Options) -> nn.Module:
    hidden = whole(options, "hidden", 64, 1, 1 << 14)
    return Pixels(schema, (hidden,) * whole(options, "layers", 2, 1, 8))


def _small(schema: Schema, options: Options) -> nn.Module:
    if min(schema.height, schema.width) < 8:
        raise ConfigError(
            [f"model cnn-small needs pictures of at least 8x8, not {schema.width}x{schema.height}"]
        )
    channels = whole(options, "channels", 32, 8, 1024, step=8)
    return SmallCNN(schema, channels, whole(options, "hidden", 112, 1, 1 << 14))


def _multiview(schema: Schema, options: Options) -> nn.Module:
    if min(schema.height, schema.width) < 16:
        raise ConfigError(
            [f"model cnn-multiview needs pictures of at least 16x16, not {schema.width}x{schema.height}"]
        )
    channels = whole(options, "channels", 16, 8, 1024, step=8)
    return MultiViewCNN(schema, channels, whole(options, "embedding", 64, 1, 1 << 14))


BUILT_IN: Mapping[str, tuple[Callable[[Schema, Options], nn.Module], frozenset[str]]] = {
    "logistic": (_logistic, frozenset()),
    "mlp": (_mlp, frozenset({"hidden", "layers"})),
    "cnn-small": (_small, frozenset({"channels", "hidden"})),
    "cnn-multiview": (_multiview, frozenset({"channels", "embedding"})),
    "resnet-small": (resnet_small, frozenset({"channels", "blocks", "hidden"})),
}


def build(name: str, schema: Schema, options: Options, seed: int) -> nn.Module:
    """A model for `schema` with parameters drawn from `seed` (0 <= seed < 2**63); raises ConfigError.

    `name` is a built-in model or "path/to/file.py:factory", called as factory(schema, **options).
    The global torch generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in BUILT_IN:
            factory, known = BUILT_IN[name]
            if unknown := sorted(set(options) - known):
                allowed = ", ".join(sorted(known)) or "no options"
                raise ConfigError([f"model.options.{unknown[0]} is unknown; {name} takes {allowed}"])
            return factory(schema, options)
        return from_file(name, schema, options)


def from_file(reference: str, schema: Schema, options: Options) -> nn.Module:
    """The user's own model, "file.py:factory"; raises ConfigError with what went wrong."""
    path, _, attribute = reference.rpartition(":")
    file = Path(path)
    if not path.endswith(".py") or not file.is_file():
        known = ", ".join(BUILT_IN)
        raise ConfigError([f"model.name is {reference!r}; use one of {known}, or path/to/file.py:factory"])
    spec = importlib.util.spec_from_file_location(f"carpool_user_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ConfigError([f"model.name {reference!r}: {file} cannot be imported"])
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses in the user's file look their module up here
    try:
        spec.loader.exec_module(module)
        model = getattr(module, attribute)(schema, **options)
    except Exception as error:
        raise ConfigError(
            [f"model.name {reference!r} failed with {type(error).__name__}: {error}"]
        ) from error
    if not isinstance(model, nn.Module):
        raise ConfigError(
            [f"model.name {reference!r} gave a {type(model).__name__}; it must return a torch.nn.Module"]
        )
    pool_first(model, torch.randn(2, len(schema.views), 3, schema.height, schema.width))
    return model
