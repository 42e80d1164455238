"""A double of a model whose tensors lie apart, as the arithmetic likes them best: a tenth faster to train.

The flat vector of `FlatModel` is what travels and what strategies correct, but a step on it costs: gradients
are added into zeros, and convolutions reorder their weights at every call. On the double they have their
channels last, and gradients are handed over. Where nothing needs the whole gradient as one vector, as a
strategy's correction does, a vehicle trains on it.

In bfloat16 the double is what computes, from float32 master weights; see halves.py. Where a model convolves,
its linear layers stay float32 on a CPU: for a small batch, to reorder their weights costs more than the
arithmetic.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from carpool.client.camera.samples import Schema
from carpool.client.flat import FlatModel
from carpool.client.losses import batch_loss

AGREEMENT = 1e-2
"""Most that the double's gradient may differ from the model's, relative, for it to be used."""


class Apart:
    """The double of a model in `dtype`; tuned: with all of the above, else only with its tensors apart.

    `own`: the float32 weights end to end, [d], each tensor in the order of its strides. First `load`; then
    `restart`; `gradient` and `step` by turns; then `ordered`. Or `load`, `gradient` and `collect`.
    """

    def __init__(self, model: FlatModel, dtype: torch.dtype, *, tuned: bool = True) -> None:
        self.dtype = dtype
        self.module = copy.deepcopy(model.module).to(dtype).train()
        if tuned:
            if dtype != torch.float32 and model.device.type == "cpu":
                keep_linear(self.module)
            self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        weights = dict(self.module.named_parameters())
        self._weights = [weights[name] for name in model.layout.names]
        self._sizes = [weight.numel() for weight in self._weights]
        self.own = torch.empty(sum(self._sizes), device=model.device)
        parts = zip(torch.split(self.own, self._sizes), self._weights, strict=True)
        self._masters = [part.as_strided(w.shape, w.stride()) for part, w in parts]
        self._trained = [place for place, weight in enumerate(self._weights) if weight.requires_grad]
        self._velocity: Tensor | None = None
        self._velocities: list[Tensor] = []
        self._halves: list[tuple[Tensor, Tensor]] = []
        for weight, master in zip(self._weights, self._masters, strict=True):
            if weight.dtype == torch.float32:
                weight.data = master
            else:
                self._halves.append((weight, master))

    @torch.no_grad()
    def load(self, vector: Tensor) -> None:
        """Take the weights from float32 [d] in the model's order."""
        for master, part in zip(self._masters, torch.split(vector, self._sizes), strict=True):
            master.copy_(part.view(master.shape))

    @torch.no_grad()
    def ordered(self, owns: Tensor) -> Tensor:
        """Weights like `own`, float32 [K, d], in the model's order: [K, d]."""
        result, count = torch.empty_like(owns), len(owns)
        pairs = zip(torch.split(result, self._sizes, 1), torch.split(owns, self._sizes, 1), strict=True)
        for master, (to, own) in zip(self._masters, pairs, strict=True):
            shape, strides = (count, *master.shape), (owns.stride(0), *master.stride())
            to.view(shape).copy_(own.as_strided(shape, strides))
        return result

    def gradient(self, pictures: Tensor, truth: Mapping[str, Tensor], schema: Schema) -> Tensor:
        """Loss (scalar, float32) of one batch; its gradient stays here, for `step` or `collect`."""
        loss = batch_loss(self.outputs(pictures), truth, schema)
        torch.autograd.backward(loss)
        return loss.detach()

    def outputs(self, pictures: Tensor) -> dict[str, Tensor]:
        """What the double makes of pictures, float32, ready for a backward pass of its own."""
        if self._halves:
            with torch.no_grad():
                for weight, master in self._halves:
                    weight.copy_(master)
        for weight in self._weights:
            weight.grad = None  # so that the gradient is handed over, not added to zeros
        outputs: dict[str, Tensor] = self.module(pictures.to(self.dtype))
        return outputs if self.dtype == torch.float32 else {n: out.float() for n, out in outputs.items()}

    def restart(self) -> None:
        """Forget the momentum of the training before."""
        if self._velocity is not None:
            self._velocity.zero_()

    @torch.no_grad()
    def step(
        self, lr: float, *, momentum: float = 0.0, weight_decay: float = 0.0, clip_grad: float = 0.0
    ) -> None:
        """One step of SGD along the gradient; the options as those of `TrainSettings`."""
        if not (momentum or weight_decay or clip_grad):
            for weight, master in zip(self._weights, self._masters, strict=True):
                if weight.grad is not None:
                    master.sub_(weight.grad, alpha=lr)
            return
        masters = [self._masters[place] for place in self._trained]
        gradients = self._gradients()
        if clip_grad:
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
            torch._foreach_mul_(gradients, clip_grad / norm.clamp(min=clip_grad))
        if weight_decay:
            torch._foreach_add_(gradients, masters, alpha=weight_decay)
        if not momentum:
            torch._foreach_sub_(masters, gradients, alpha=lr)
            return
        velocity = self._moving().mul_(momentum)
        torch._foreach_add_(self._velocities, gradients)
        self.own.sub_(velocity, alpha=lr)  # that of frozen weights stays 0

    def _gradients(self) -> list[Tensor]:
        """Of the trained weights, float32; zeros where the loss does not depend on one."""
        weights = [self._weights[place] for place in self._trained]
        zeros = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
        return [gradient.float() for gradient in zeros]

    def _moving(self) -> Tensor:
        """The velocity like `own`, float32 [d]; zeros at first."""
        if self._velocity is None:
            self._velocity = torch.zeros_like(self.own)
            parts = torch.split(self._velocity, self._sizes)
            views = [
                part.as_strided(w.shape, w.stride()) for part, w in zip(parts, self._weights, strict=True)
            ]
            self._velocities = [views[place] for place in self._trained]
        return self._velocity

    @torch.no_grad()
    def collect(self, gradient: Tensor) -> None:
        """Write the gradient into float32 [trainable]."""
        trained = [weight for weight in self._weights if weight.requires_grad]  # they come first
        for weight, part in zip(trained, torch.split(gradient, [w.numel() for w in trained]), strict=True):
            if weight.grad is None:
                part.zero_()
            else:
                part.view(weight.shape).copy_(weight.grad)


class FullLinear(nn.Linear):
    """A linear layer that computes in its own precision, whatever that of its input, and gives back that."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out], in the type of x."""
        return functional.linear(x.to(self.weight.dtype), self.weight, self.bias).to(x.dtype)


def keep_linear(module: nn.Module) -> None:
    """Bring the plain linear layers of a module with convolutions back to float32, in place."""
    if not any(isinstance(one, nn.Conv2d) for one in module.modules()):
        return
    for one in module.modules():
        if type(one) is nn.Linear:
            one.__class__ = FullLinear
            one.to(torch.float32)


_doubles: WeakKeyDictionary[FlatModel, Apart | None] = WeakKeyDictionary()


def apart_of(model: FlatModel, schema: Schema) -> Apart | None:
    """The float32 double of a model, made and tried once; None where it is no true one.

    That depends on nothing but the model's code: all processes of a run must take the same path.
    """
    if model not in _doubles:
        _doubles[model] = made(model, schema)
    return _doubles[model]


def made(model: FlatModel, schema: Schema) -> Apart | None:
    """The double tuned, or plain, or None: the first that has the model's gradient.

    A module may not be one that can be copied, may look at a tensor's strides (`view`), or lead back to the
    original; with running statistics it would not leave them in the vector.
    """
    if any(buffer.is_floating_point() for buffer in model.module.buffers()):
        return None
    for tuned in (True, False):
        try:
            double = Apart(model, torch.float32, tuned=tuned)
            if difference(model, double, schema) <= AGREEMENT:
                return double
        except Exception:  # noqa: S112  # whatever a user's module raises: it trains as it always did
            continue
    return None


def difference(model: FlatModel, double: Apart, schema: Schema) -> float:
    """How far the double's gradient is from the model's, relative, at made-up weights and pictures.

    Weights and gradient of the model are left as they were but for the gradient, which is zero.
    """
    made_up = torch.Generator().manual_seed(0)
    shape = (2, len(schema.views), schema.height, schema.width, 3)
    pictures = torch.randn(shape, generator=made_up).permute(0, 1, 4, 2, 3).to(model.device)
    shapes = model.layout.shapes
    spread = [torch.randn(shape, generator=made_up) * fan_in(shape) ** -0.5 for shape in shapes]
    vector = torch.cat([part.flatten() for part in spread]).to(model.device)
    kept, training = model.vector.detach().clone(), model.module.training
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            model.load(vector)
            model.module.train()
            model.grad.zero_()
            torch.manual_seed(0)
            squares(model.module(pictures)).backward()  # type: ignore[no-untyped-call]
            found = torch.empty_like(model.grad)
            double.load(vector)
            torch.manual_seed(0)
            squares(double.outputs(pictures)).backward()  # type: ignore[no-untyped-call]
            double.collect(found)
            return float((found - model.grad).norm() / model.grad.norm())
    finally:
        model.load(kept)
        model.grad.zero_()
        model.module.train(training)


def squares(outputs: Mapping[str, Tensor]) -> Tensor:
    """A loss that needs no truth, scalar."""
    return torch.stack([output.square().sum() for output in outputs.values()]).sum()


def fan_in(shape: tuple[int, ...]) -> int:
    """Numbers that each output of a weight of this shape is a sum of, >= 1."""
    return max(1, math.prod(shape[1:]))
