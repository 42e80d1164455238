"""Gradients of single examples, for DP-SGD: clipped by their norms, and added up.

Three ways, the first that a model allows. `Layered`, the built-in models: one pass for the whole batch, see
layer_gradients.py. `Mapped`, a user's model: torch.func's vmap, in which no example can see another whatever
the model's code does. `Looped`, where the code does not bear that: one example after another.

Opacus's wrapper is no choice: it takes the first dimension of each layer's input for the examples, where
`cnn-multiview` shows its trunk each view as a picture, and an example of v views would be clipped as v; and
in its version 1.6.0 the gradients of convolutions are wrong where channels lie last, as in our models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from carpool.client.camera.samples import Schema
from carpool.client.flat import FlatModel
from carpool.client.layer_gradients import Gradients, Rows, known, of_layer
from carpool.client.losses import batch_loss
from carpool.client.models import MultiViewCNN, Pixels, SmallCNN
from carpool.client.resnet import SmallResNet
from carpool.privacy.errors import ConfigError

Truth = Mapping[str, Tensor]
NUMBERS = 1 << 24
"""Most numbers that a chunk of examples needs at once, about: 64 MB, and as much again in float64."""
PLANES = 64
"""About how many numbers the layers hold for each one of a picture."""
LAYERED = (Pixels, SmallCNN, MultiViewCNN, SmallResNet)
"""Models of ours, in which no example meets another between the layers."""


Chunk = dict[str, Gradients]
"""Gradients by the name of a trained parameter, in the order of the model's vector, or of all ("")."""
Compute = Callable[[Tensor, Truth], Chunk]


@dataclass
class PerExample:
    """Clipped sums of a model's per-example gradients at its present weights.

    compute: pictures [b, views, 3, h, w] and truth -> the gradients of each example's own loss.
    """

    model: FlatModel
    compute: Compute
    dropped: int = field(default=0, init=False)
    """Examples so far whose gradient was NaN or Inf and counted as zero. Not private: it stays here."""

    def clipped_sum(self, pictures: Tensor, truth: Truth, bound: float) -> Tensor:
        """Sum of the examples' gradients, each scaled down to an L2 norm <= bound, float64 [trainable].

        An example's norm is over all trained parameters together. A gradient that is not finite adds zero,
        and so does a batch without examples.
        """
        total = torch.zeros(self.model.trainable, dtype=torch.float64, device=self.model.device)
        self.model.module.train()
        size = chunk(self.model.trainable, math.prod(pictures.shape[1:]))
        for start in range(0, len(pictures), size):
            part = {name: column[start : start + size] for name, column in truth.items()}
            gradients = self.compute(pictures[start : start + size], part)
            with torch.no_grad():
                norms = torch.stack([one.squares() for one in gradients.values()]).sum(0).sqrt()
                rows = torch.isfinite(norms).nonzero().flatten()
                self.dropped += len(norms) - len(rows)
                weights = bound / norms[rows].clamp(min=bound)
                for name, one in gradients.items():
                    place = self.model.layout.slices[name] if name else slice(None)
                    total[place] += one.weighted(weights, rows)
        return total


def chunk(trainable: int, numbers: int) -> int:
    """Examples at once, >= 1; numbers: of an example's pictures."""
    return max(1, NUMBERS // max(trainable, PLANES * numbers, 1))


_known: WeakKeyDictionary[FlatModel, Compute] = WeakKeyDictionary()


def per_example(model: FlatModel, schema: Schema) -> PerExample:
    """The way for this model, found once; raises ConfigError for a model in which examples meet."""
    if model not in _known:
        refuse_mixing(model.module)
        _known[model] = way(model, schema)
    return PerExample(model, _known[model])


def refuse_mixing(module: nn.Module) -> None:
    """Raise ConfigError where a layer takes statistics over a batch, or keeps some of the pictures it saw."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise ConfigError(
                [
                    f"model layer {name!r} is {type(layer).__name__}, which mixes the examples of a batch, "
                    "so that none can be clipped by itself; use GroupNorm"
                ]
            )
    for name, buffer in module.named_buffers():
        if buffer.is_floating_point():
            raise ConfigError(
                [
                    f"the model has the buffer {name!r}, which would carry statistics of pictures past the "
                    'noise of mechanism "sgd"; use layers without any, such as GroupNorm'
                ]
            )


def way(model: FlatModel, schema: Schema) -> Compute:
    """How this model's gradients are had; vmap is tried on two made-up pictures."""
    if type(model.module) in LAYERED and layered(model):
        return Layered(model, schema)
    mapped = Mapped(model, schema)
    try:
        with torch.random.fork_rng(devices=[]):
            mapped(*made_up(model, schema))
    except Exception:  # whatever a user's module raises under vmap: it is taken example by example
        return Looped(model, schema)
    return mapped


def made_up(model: FlatModel, schema: Schema) -> tuple[Tensor, Truth]:
    """Two pictures of zeros with valid targets."""
    pictures = torch.zeros(2, len(schema.views), 3, schema.height, schema.width, device=model.device)
    truth = {}
    for target in schema.targets:
        shape = (2, target.width) if target.kind == "flags" else (2,)
        dtype = torch.int64 if target.kind == "class" else torch.float32
        truth[target.name] = torch.zeros(shape, dtype=dtype, device=model.device)
    return pictures, truth


def layered(model: FlatModel) -> bool:
    """Whether every trained parameter lies in a layer whose gradients are known here."""
    covered = {
        f"{name}.{leaf}"
        for name, layer in model.module.named_modules()
        if known(layer)
        for leaf, _ in layer.named_parameters()
    }
    return all(name in covered for name, one in model.module.named_parameters() if one.requires_grad)


class Layered:
    """From the inputs of the layers and the slopes of their outputs; see the module's docstring."""

    def __init__(self, model: FlatModel, schema: Schema) -> None:
        self._module, self._schema, self._names = model.module, schema, trained(model)
        self._layers = [
            (name, layer)
            for name, layer in model.module.named_modules()
            if known(layer) and any(one.requires_grad for one in layer.parameters())
        ]

    def __call__(self, pictures: Tensor, truth: Truth) -> Chunk:
        """See Compute."""
        seen: dict[str, tuple[Tensor, Tensor]] = {}

        def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
            def hook(_: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
                if name in seen:
                    raise RuntimeError(f"layer {name} is used twice in one pass")
                seen[name] = (given[0].detach(), made)

            return hook

        handles = [layer.register_forward_hook(keep(name)) for name, layer in self._layers]
        try:
            # The mean over the batch, times its length: every example's loss by itself, added up.
            loss = batch_loss(self._module(pictures), truth, self._schema) * len(pictures)
        finally:
            for handle in handles:
                handle.remove()
        slopes = torch.autograd.grad(loss, [seen[name][1] for name, _ in self._layers])
        found: Chunk = {}
        with torch.no_grad():
            for (name, layer), slope in zip(self._layers, slopes, strict=True):
                parts = of_layer(layer, seen[name][0], slope, len(pictures))
                wanted = {leaf for leaf, one in layer.named_parameters() if one.requires_grad}
                found |= {f"{name}.{leaf}": one for leaf, one in parts.items() if leaf in wanted}
        return {name: found[name] for name in self._names}


class Mapped:
    """By vmap: the model is shown one example at a time, and the arithmetic is done for all."""

    def __init__(self, model: FlatModel, schema: Schema) -> None:
        self._module, self._schema = model.module, schema
        self._names = trained(model)

    def _loss(self, weights: dict[str, Tensor], picture: Tensor, truth: dict[str, Tensor]) -> Tensor:
        outputs = functional_call(self._module, weights, (picture[None],))
        return batch_loss(outputs, {name: one[None] for name, one in truth.items()}, self._schema)

    def __call__(self, pictures: Tensor, truth: Truth) -> Chunk:
        """See Compute."""
        parameters = dict(self._module.named_parameters())
        weights = {name: parameters[name].detach() for name in self._names}
        each = vmap(grad(self._loss), in_dims=(None, 0, 0), randomness="different")
        found = each(weights, pictures, dict(truth))
        return {name: Rows(found[name].detach().flatten(1)) for name in self._names}


class Looped:
    """One example after another: for any model, and slow."""

    def __init__(self, model: FlatModel, schema: Schema) -> None:
        self._module, self._schema = model.module, schema
        self._names = trained(model)

    def __call__(self, pictures: Tensor, truth: Truth) -> Chunk:
        """See Compute."""
        parameters = dict(self._module.named_parameters())
        weights = [parameters[name] for name in self._names]
        rows = []
        for place in range(len(pictures)):
            one = {name: column[place : place + 1] for name, column in truth.items()}
            loss = batch_loss(self._module(pictures[place : place + 1]), one, self._schema)
            parts = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
            rows.append(torch.cat([part.flatten() for part in parts]))
        return {"": Rows(torch.stack(rows))}


def trained(model: FlatModel) -> list[str]:
    """Names of the trained parameters, in the order of the vector."""
    wanted = {name for name, one in model.module.named_parameters() if one.requires_grad}
    return [name for name in model.layout.names if name in wanted]
