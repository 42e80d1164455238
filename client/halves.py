"""Training in bfloat16 with float32 master weights: half the bytes, and matrix units where a CPU has them.

The module is doubled in bfloat16 over a flat vector of its own. A step casts the master weights down,
computes loss and gradient in bfloat16, casts the gradient up, and steps in float32. Micikevicius et al. 2018,
arXiv:1710.03740, Section 3.1; bfloat16 has float32's range, so no loss scaling is needed.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from carpool.client.camera.samples import Schema
from carpool.client.flat import FlatModel
from carpool.client.losses import batch_loss
from carpool.privacy.errors import ConfigError

AGREEMENT = 0.95
"""Least cosine between the bfloat16 and the float32 gradient of one batch, for bfloat16 to be allowed."""


class Twin:
    """The bfloat16 double of a model; `gradient` fills the model's own float32 gradient."""

    def __init__(self, model: FlatModel) -> None:
        self._vector = torch.empty(model.layout.size, dtype=torch.bfloat16, device=model.device)
        self._grad = torch.zeros(model.trainable, dtype=torch.bfloat16, device=model.device)
        self.module = copy.deepcopy(model.module).to(torch.bfloat16)
        if any(buffer.is_floating_point() for buffer in self.module.buffers()):
            raise ConfigError(
                ['train.precision "bfloat16" is for models without running statistics; use "float32"']
            )
        for name, parameter in self.module.named_parameters():
            part = model.layout.slices[name]
            parameter.data = self._vector[part].view(parameter.shape)
            if parameter.requires_grad:
                parameter.grad = self._grad[part].view(parameter.shape)

    def gradient(
        self, model: FlatModel, pictures: Tensor, truth: Mapping[str, Tensor], schema: Schema
    ) -> Tensor:
        """Loss (scalar, float32) of one batch; `model.grad` gets its gradient, float32 [trainable]."""
        with torch.no_grad():
            self._vector.copy_(model.vector)
            self._grad.zero_()
        self.module.train(model.module.training)
        outputs = {name: out.float() for name, out in self.module(pictures.to(torch.bfloat16)).items()}
        loss = batch_loss(outputs, truth, schema)
        torch.autograd.backward(loss)
        with torch.no_grad():
            model.grad.copy_(self._grad)
        return loss.detach()


_twins: WeakKeyDictionary[FlatModel, Twin] = WeakKeyDictionary()


def twin_of(model: FlatModel) -> Twin:
    """The double of a model, made once."""
    if model not in _twins:
        _twins[model] = Twin(model)
    return _twins[model]


def supported(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices itself, rather than by conversion."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def check_bfloat16(model: FlatModel, pictures: Tensor, truth: Mapping[str, Tensor], schema: Schema) -> float:
    """Cosine of the bfloat16 with the float32 gradient of a batch at the first model; raises ConfigError.

    Refuses a device without bfloat16, and a model whose gradient it does not keep (below `AGREEMENT`).
    """
    if not supported(model.device):
        device = model.device.type
        raise ConfigError([f'train.precision is "bfloat16", which this {device} lacks; use "float32"'])
    model.grad.zero_()
    torch.autograd.backward(batch_loss(model.module(pictures), truth, schema))
    exact = model.grad.clone()
    twin_of(model).gradient(model, pictures, truth, schema)
    cosine = float(torch.nn.functional.cosine_similarity(exact, model.grad, dim=0))
    model.grad.zero_()
    if not cosine >= AGREEMENT:
        raise ConfigError(
            [
                f'train.precision is "bfloat16", but its gradient has a cosine of {cosine:.3f} with that of '
                f'float32 on this model (at least {AGREEMENT} is wanted); use "float32"'
            ]
        )
    return cosine
