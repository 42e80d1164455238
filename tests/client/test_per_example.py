"""Per-example gradients against single-example backward passes, in float64, for every model and every way.

(In float32 a ReLU that is just about to open may open in one batch and not in another.)
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from carpool.client.flat import FlatModel
from carpool.client.layer_gradients import Kernels, Outer, Rows
from carpool.client.losses import batch_loss, to_tensors
from carpool.client.models import BUILT_IN, build
from carpool.client.per_example import Layered, Looped, Mapped, PerExample, chunk, per_example
from carpool.privacy.errors import ConfigError

SMALL = {
    "logistic": {},
    "mlp": {"hidden": 6},
    "cnn-small": {"channels": 8, "hidden": 7},
    "cnn-multiview": {"channels": 8, "embedding": 5},
    "resnet-small": {"channels": 8, "blocks": 1, "hidden": 5},
}


class Own(nn.Module):
    """A user's model: layers that are not known here, a weight used twice."""

    def __init__(self, schema) -> None:
        super().__init__()
        size = len(schema.views) * 3 * schema.height * schema.width
        self.norm, self.inner, self.out = nn.LayerNorm(size), nn.Linear(size, size), nn.Linear(size, 3)

    def forward(self, frames):
        x = self.norm(frames.flatten(1))
        return {"sign": self.out(torch.tanh(self.inner(torch.tanh(self.inner(x)))))}


class Stubborn(Own):
    """One that looks at its numbers, as vmap cannot."""

    def forward(self, frames):
        return super().forward(frames * (2.0 if float(frames.sum()) > 1e9 else 1.0))


class Mixing(nn.Module):
    """One with statistics over the batch."""

    def __init__(self, schema, norm) -> None:
        super().__init__()
        self.norm, self.out = norm, nn.Linear(len(schema.views) * 3, 3)

    def forward(self, frames):
        return {"sign": self.out(self.norm(frames.flatten(1, 2)).mean((2, 3)))}


class Contiguous(nn.Module):
    """Convolutions of every kind that is known, without channels last, which Opacus 1.6.0 takes wrongly."""

    def __init__(self, schema) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(len(schema.views) * 3, 8, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
            nn.GroupNorm(4, 8),
            nn.ReLU(),
            nn.Conv2d(8, 4, 3, bias=False),
            nn.Flatten(),
        )
        self.out = nn.LazyLinear(4)
        self(torch.zeros(1, len(schema.views), 3, schema.height, schema.width))

    def forward(self, frames):
        out = self.out(self.body(frames.flatten(1, 2)))
        return {"sign": out[:, :3], "offset": out[:, 3:]}


def examples(shard, model, dtype=torch.float64):
    """All samples of a shard as the model takes them."""
    frames, targets = shard.batch(np.arange(len(shard)))
    truth = to_tensors(targets, shard.pool.schema)
    model.module.to(dtype)
    columns = {n: one.to(dtype) if one.is_floating_point() else one for n, one in truth.items()}
    return model.floats(frames).to(dtype), columns


def singles(model, pictures, truth, schema) -> list[torch.Tensor]:
    """Each example's gradient by a backward pass of its own."""
    parameters = dict(model.module.named_parameters())
    found = []
    for k in range(len(pictures)):
        for one in parameters.values():
            one.grad = None
        loss = batch_loss(
            model.module(pictures[k : k + 1]), {n: t[k : k + 1] for n, t in truth.items()}, schema
        )
        loss.backward()
        parts = [parameters[name] for name in model.layout.names]
        found.append(torch.cat([p.grad.flatten() for p in parts if p.requires_grad]))
    return found


def clipped(gradients, bound) -> torch.Tensor:
    return sum(g * min(1.0, bound / float(g.norm())) for g in gradients)


def compared(model, shard, way) -> None:
    """The clipped sum equals that of the single passes, with some clipped and some not."""
    pictures, truth = examples(shard, model)
    schema = shard.pool.schema
    one_by_one = singles(model, pictures, truth, schema)
    norms = sorted(float(g.norm()) for g in one_by_one)
    middle = norms[len(norms) // 2]
    assert norms[0] < middle < norms[-1]
    for bound in (middle, 1e-3 * norms[0], 1e3 * norms[-1]):
        found = PerExample(model, way(model, schema)).clipped_sum(pictures, truth, bound)
        wanted = clipped(one_by_one, bound)
        assert float((found - wanted).norm() / wanted.norm()) < 1e-12


def test_every_built_in_model_is_here():
    assert SMALL.keys() == BUILT_IN.keys()


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("name", SMALL)
def test_built_in_models_are_clipped_as_single_passes_would(make_shard, name, views):
    kinds = ("class", "value") if views == 1 else ("class", "flags", "value")
    shard = make_shard(7, *kinds, views=views, height=20, width=16)
    model = FlatModel(build(name, shard.pool.schema, SMALL[name], 0))
    assert isinstance(per_example(model, shard.pool.schema).compute, Layered)
    compared(model, shard, Layered)


@pytest.mark.slow  # the first vmap of a process
@pytest.mark.parametrize(("kind", "way"), [(Own, Mapped), (Stubborn, Looped)])
def test_a_users_model_goes_by_vmap_or_one_by_one(make_shard, kind, way):
    shard = make_shard(5, views=1, height=4, width=4)
    torch.manual_seed(0)
    model = FlatModel(kind(shard.pool.schema))
    assert isinstance(per_example(model, shard.pool.schema).compute, way)
    compared(model, shard, way)


@pytest.mark.parametrize("way", [Layered, pytest.param(Mapped, marks=pytest.mark.slow), Looped])
def test_frozen_parameters_have_no_part_in_the_norm(make_shard, way):
    shard = make_shard(5, "value")
    module = build("mlp", shard.pool.schema, SMALL["mlp"], 0)
    module.body[0].weight.requires_grad_(False)
    compared(FlatModel(module), shard, way)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_opacus_has_the_same_gradients(make_shard):
    from opacus import GradSampleModule

    shard = make_shard(6, "class", "value", height=9, width=8)
    torch.manual_seed(0)
    model = FlatModel(Contiguous(shard.pool.schema))
    schema = shard.pool.schema
    pictures, truth = examples(shard, model)
    found = [
        PerExample(model, way(model, schema)).clipped_sum(pictures, truth, 0.5) for way in (Layered, Mapped)
    ]
    wrapped = GradSampleModule(model.module, loss_reduction="mean")
    batch_loss(wrapped(pictures), truth, schema).backward()
    parameters = dict(model.module.named_parameters())
    rows = torch.cat([parameters[name].grad_sample.flatten(1) for name in model.layout.names], 1)
    wanted = clipped(list(rows), 0.5)
    assert min(float(row.norm()) for row in rows) > 0.1
    for one in found:
        assert float((one - wanted).norm() / wanted.norm()) < 1e-12


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
@pytest.mark.parametrize("name", ["mlp", "cnn-small"])
def test_an_example_whose_gradient_is_not_finite_adds_nothing_and_is_counted(make_shard, name, value):
    shard = make_shard(5, "value")
    model = FlatModel(build(name, shard.pool.schema, SMALL[name], 0))
    pictures, truth = examples(shard, model, torch.float32)
    rest = [0, 1, 3, 4]
    gradients = per_example(model, shard.pool.schema)
    wanted = gradients.clipped_sum(pictures[rest], {"offset": truth["offset"][rest]}, 0.1)
    truth["offset"][2] = value
    found = gradients.clipped_sum(pictures, truth, 0.1)
    assert gradients.dropped == 1
    assert float((found - wanted).norm()) < 1e-6
    pictures[0, 0, 0, 0, 0] = math.nan
    assert torch.isfinite(gradients.clipped_sum(pictures, truth, 0.1)).all()


@pytest.mark.parametrize("value", [1e18, 1e30])
def test_a_huge_gradient_counts_as_much_as_the_bound(make_shard, value):
    shard = make_shard(1, "value")
    model = FlatModel(build("mlp", shard.pool.schema, SMALL["mlp"], 0))
    pictures, truth = examples(shard, model, torch.float32)
    truth["offset"][0] = value
    gradients = per_example(model, shard.pool.schema)
    assert float(gradients.clipped_sum(pictures, truth, 0.1).norm()) == pytest.approx(0.1, rel=1e-12)
    assert gradients.dropped == 0


def test_no_examples_add_nothing(make_shard):
    shard = make_shard(2, "class")
    model = FlatModel(build("cnn-small", shard.pool.schema, SMALL["cnn-small"], 0))
    pictures, truth = examples(shard, model, torch.float32)
    found = per_example(model, shard.pool.schema).clipped_sum(pictures[:0], {"sign": truth["sign"][:0]}, 1.0)
    assert found.shape == (model.trainable,)
    assert not found.any()


def test_chunks_change_nothing(make_shard, monkeypatch):
    shard = make_shard(7, "class")
    model = FlatModel(build("mlp", shard.pool.schema, SMALL["mlp"], 0))
    pictures, truth = examples(shard, model)
    gradients = PerExample(model, Layered(model, shard.pool.schema))
    whole = gradients.clipped_sum(pictures, truth, 0.5)
    monkeypatch.setattr("carpool.client.per_example.chunk", lambda *_: 3)
    assert float((gradients.clipped_sum(pictures, truth, 0.5) - whole).norm()) < 1e-12
    assert chunk(10**9, 1) == 1
    assert chunk(100, 100) > 1000


@pytest.mark.parametrize(
    ("norm", "word"),
    [
        (nn.BatchNorm2d(6), "BatchNorm2d"),
        (nn.BatchNorm2d(6, track_running_stats=False), "BatchNorm2d"),
        (nn.InstanceNorm2d(6, track_running_stats=True), "running_mean"),
    ],
)
def test_layers_in_which_examples_meet_are_refused(make_schema, norm, word):
    schema = make_schema()
    model = FlatModel(Mixing(schema, norm), buffers="average")
    with pytest.raises(ConfigError, match=word):
        per_example(model, schema)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_forms_have_the_norms_of_what_they_add_up_to(dtype):
    torch.manual_seed(0)
    slopes, inputs = torch.randn(4, 3, dtype=dtype), torch.randn(4, 5, dtype=dtype)
    written = torch.einsum("bo,bi->boi", slopes, inputs).double()
    weights, rows = torch.tensor([0.5, 2.0], dtype=torch.float64), torch.tensor([3, 1])
    kernel = torch.randn(4, 2, 3, 3, 2, dtype=dtype)
    for form, whole in (
        (Outer(slopes, inputs), written.flatten(1)),
        (Rows(written.to(dtype).flatten(1)), written.flatten(1)),
        (Kernels(kernel.flatten(1), (2, 3, 3, 2)), kernel.permute(0, 1, 4, 2, 3).flatten(1).double()),
    ):
        torch.testing.assert_close(form.squares(), whole.square().sum(1), rtol=1e-6, atol=0)
        torch.testing.assert_close(form.weighted(weights, rows), weights @ whole[rows], rtol=1e-5, atol=1e-6)
