"""Per-example gradients of single layers, kept in the form in which they are had, from a pass of the batch.

A linear layer's is the outer product of its input and the slope of its output (Goodfellow 2015,
arXiv:1510.01799); a convolution's, the sum of those over its patches (Rochette et al. 2019,
arXiv:1912.06015).
What is summed is what was measured: norms and sums are float64, of the very same float32 numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

LAYERS = (nn.Linear, nn.Conv2d, nn.GroupNorm)


class Gradients(Protocol):
    """The gradients of a chunk of b examples with respect to some tensor, n numbers."""

    def squares(self) -> Tensor:
        """Squared L2 norms, float64 [b]; not finite where a gradient is not."""

    def weighted(self, weights: Tensor, rows: Tensor) -> Tensor:
        """Sum over the examples `rows` (int64 [r]) of weight (float64 [r]) x gradient, float64 [n]."""


@dataclass(frozen=True)
class Rows:
    """Gradients written out, float32 [b, n]."""

    values: Tensor

    def squares(self) -> Tensor:
        """See Gradients."""
        norms: Tensor = torch.linalg.vector_norm(self.values, dim=1, dtype=torch.float64)
        return norms.square()

    def weighted(self, weights: Tensor, rows: Tensor) -> Tensor:
        """See Gradients."""
        return weights @ picked(self.values, rows).double()


@dataclass(frozen=True)
class Kernels(Rows):
    """Gradients of a convolution, with the channels in last: shape (out, y, x, in) of an example's."""

    shape: tuple[int, int, int, int]

    def weighted(self, weights: Tensor, rows: Tensor) -> Tensor:
        """See Gradients."""
        return super().weighted(weights, rows).view(self.shape).permute(0, 3, 1, 2).flatten()


@dataclass(frozen=True)
class Outer:
    """Gradients that are outer products of float32 [b, out] and [b, in]."""

    slopes: Tensor
    inputs: Tensor

    def squares(self) -> Tensor:
        """See Gradients."""
        return Rows(self.slopes).squares() * Rows(self.inputs).squares()

    def weighted(self, weights: Tensor, rows: Tensor) -> Tensor:
        """See Gradients."""
        left = picked(self.slopes, rows).double() * weights[:, None]
        return (left.T @ picked(self.inputs, rows).double()).flatten()


def picked(values: Tensor, rows: Tensor) -> Tensor:
    """Those rows; all of them, which is usual, without a copy."""
    return values if len(rows) == len(values) else values[rows]


def known(layer: nn.Module) -> bool:
    """Whether `of_layer` knows a layer: a convolution has one group and is padded by zeros."""
    if not isinstance(layer, nn.Conv2d):
        return isinstance(layer, LAYERS)
    return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def of_layer(layer: nn.Module, given: Tensor, slope: Tensor, b: int) -> dict[str, Gradients]:
    """Gradients of a layer's "weight" and "bias" for each of b examples.

    given, slope: the layer's input and the slope of the loss by its output, [b x m, ...] with the m pieces
    (views) of an example next to each other.
    """
    if isinstance(layer, nn.Linear):
        given, slope = given.reshape(b, -1, given.shape[-1]), slope.reshape(b, -1, slope.shape[-1])
        whole: Gradients = (
            Outer(slope[:, 0], given[:, 0])
            if given.shape[1] == 1
            else Rows(torch.bmm(slope.transpose(1, 2), given).flatten(1))
        )
        return {"weight": whole, "bias": Rows(slope.sum(1))}
    pieces = slope.reshape(b, -1, slope.shape[1], math.prod(slope.shape[2:]))  # [b, m, channels out, pixels]
    if isinstance(layer, nn.GroupNorm):
        even = functional.group_norm(given, layer.num_groups, eps=layer.eps).reshape(pieces.shape)
        return {"weight": Rows((pieces * even).sum((1, 3))), "bias": Rows(pieces.sum((1, 3)))}
    if not isinstance(layer, nn.Conv2d):
        raise TypeError(f"gradients of {type(layer).__name__} are not known here")
    return {"weight": of_kernel(layer, given, slope, b), "bias": Rows(pieces.sum((1, 3)))}


def of_kernel(layer: nn.Conv2d, given: Tensor, slope: Tensor, b: int) -> Gradients:
    """Gradients of a convolution's weight: each example's slopes times the patches that they belong to.

    With channels last, the patches are a view of the padded picture.
    """
    (up, left), (kernel_y, kernel_x) = (int(one) for one in layer.padding), layer.kernel_size
    inside = functional.pad(given.permute(0, 2, 3, 1), (0, 0, left, left, up, up)).contiguous()
    step, row, column, _ = inside.stride()
    (down, right), (apart_y, apart_x) = layer.stride, layer.dilation
    channels, (height, width) = given.shape[1], slope.shape[2:]
    patches = inside.as_strided(
        (len(given), height, width, kernel_y, kernel_x, channels),
        (step, down * row, right * column, apart_y * row, apart_x * column, 1),
    )
    flat = slope.permute(0, 2, 3, 1).reshape(b, -1, slope.shape[1])  # [b, pixels of all pieces, channels out]
    rows = torch.bmm(flat.transpose(1, 2), patches.reshape(b, flat.shape[1], -1))
    return Kernels(rows.flatten(1), (slope.shape[1], kernel_y, kernel_x, channels))
