"""A step of plain SGD for a stack of dense networks, with the backward pass written out.

The product that would be a layer's gradient is added to its weights as it is computed (beta 1, alpha -lr), so
no gradient is ever stored: half the time of autograd on networks that are all overhead.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from carpool.client.camera.samples import Schema, Target
from carpool.client.models import Pixels

relu_slope = torch.ops.aten.threshold_backward


def loss_and_slope(target: Target, output: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Losses of single samples [K, b], as `stacked_trainer.sample_losses`, and their slopes [K, b, n]."""
    if target.kind == "class":
        # By hand: torch's log_softmax over a last dimension of a few classes is several times as slow.
        shifted, right = output - output.amax(2, keepdim=True), truth.unsqueeze(2)
        powers = shifted.exp()
        total = powers.sum(2, keepdim=True)
        losses = total.log().sub_(shifted.gather(2, right)).squeeze(2)
        minus = output.new_full((1, 1, 1), -1).expand(right.shape)
        return losses, powers.div_(total).scatter_add_(2, right, minus)
    if target.kind == "flags":
        losses = functional.binary_cross_entropy_with_logits(output, truth, reduction="none").mean(2)
        return losses, (torch.sigmoid(output) - truth).div_(output.shape[2])
    error = output - truth.unsqueeze(2)
    return error.square()[..., 0], 2 * error


class DenseStack:
    """`logistic` and `mlp`, K times."""

    def __init__(self, module: Pixels) -> None:
        self._sizes = module.heads.sizes
        body = [
            f"body.{name}" for name, layer in module.body.named_children() if isinstance(layer, nn.Linear)
        ]
        self._layers = [(f"{name}.weight", f"{name}.bias") for name in (*body, "heads.linear")]

    @torch.no_grad()
    def step(
        self,
        leaves: Mapping[str, Tensor],
        pictures: Tensor,
        truth: Mapping[str, Tensor],
        share: Tensor,
        schema: Schema,
        lr: float,
    ) -> Tensor:
        """One batch: moves the leaves {name: [K, *shape]} in place; the losses [K] before the step.

        pictures: [K, b, ...]; truth: {target: [K, b, ...]}; share: weights of the samples, [K, b].
        """
        below, x = [], pictures.flatten(2)
        for place, (weight, bias) in enumerate(self._layers):
            if place:
                x = x.relu_()
            below.append(x)
            x = torch.baddbmm(leaves[bias].unsqueeze(1), x, leaves[weight].transpose(1, 2))
        outputs = torch.split(x, self._sizes, dim=2)
        found = [loss_and_slope(t, o, truth[t.name]) for t, o in zip(schema.targets, outputs, strict=True)]
        slope = torch.cat([one for _, one in found], dim=2) if len(found) > 1 else found[0][1]
        slope.mul_(share.unsqueeze(2))
        for place in reversed(range(len(self._layers))):
            weights, biases = (leaves[name] for name in self._layers[place])
            # Before the weights move. The ReLU passes on what was above 0.
            next_slope = relu_slope(torch.bmm(slope, weights), below[place], 0) if place else slope
            weights.baddbmm_(slope.transpose(1, 2), below[place], alpha=-lr)
            biases.sub_(slope.sum(1), alpha=lr)
            slope = next_slope
        losses = [one for one, _ in found]
        return (sum(losses[1:], losses[0]) * share).sum(1)
