"""A model as one vector: views, gradients, loading, and what is refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from carpool.client.flat import FlatModel
from carpool.privacy.errors import ConfigError


def small(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 3)
        )


def picture(b: int = 5) -> torch.Tensor:
    return torch.randn(b, 2, 4, 4, generator=torch.Generator().manual_seed(1))


def normed() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


def test_the_vector_holds_the_parameters_in_their_order():
    module = small()
    wanted = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
    model = FlatModel(module)
    assert model.layout.names == tuple(n for n, _ in module.named_parameters())
    assert model.layout.size == model.trainable == wanted.numel()
    assert torch.equal(model.vector, wanted)
    assert model.numpy().dtype == np.float32


def test_the_output_is_that_of_the_module_before():
    module, x = small(), picture()
    wanted = module(x)
    assert torch.equal(FlatModel(module).module(x), wanted)


def test_gradients_land_in_the_flat_vector_and_equal_those_of_an_independent_copy():
    reference, x = small(), picture()
    model = FlatModel(copy.deepcopy(reference))
    target = torch.tensor([0, 1, 2, 0, 1])
    for _ in range(2):  # twice: a second backward must not leave the flat vector behind
        model.grad.zero_()
        reference.zero_grad()
        nn.functional.cross_entropy(model.module(x), target).backward()
        nn.functional.cross_entropy(reference(x), target).backward()
        wanted = torch.cat([p.grad.reshape(-1) for p in reference.parameters()])
        assert wanted.abs().max() > 0
        assert torch.equal(model.grad, wanted)


def test_gradients_land_there_for_channels_last_pictures_too():
    model = FlatModel(small())
    x = picture().contiguous(memory_format=torch.channels_last)
    model.module(x).square().sum().backward()
    pointer = model.grad.data_ptr()
    parameters = list(model.module.parameters())
    assert parameters[0].grad.data_ptr() == pointer
    assert model.grad.abs().min() >= 0
    assert torch.equal(model.grad[model.layout.slices["0.weight"]], parameters[0].grad.reshape(-1))


def test_a_step_on_the_vector_is_a_step_of_the_model():
    model, x = FlatModel(small()), picture()
    with torch.no_grad():
        model.vector.zero_()
    assert model.module(x).abs().max() == 0


def test_loading_copies_and_reading_copies():
    model = FlatModel(small())
    values = np.arange(model.layout.size, dtype=np.float32)
    model.load(values)
    values[:] = -1
    read = model.numpy()
    assert read[3] == 3
    read[:] = -2
    assert model.vector[3] == 3
    other = torch.full((model.layout.size,), 7.0)
    model.load(other)
    other[:] = 0
    assert model.vector[3] == 7


def test_loading_takes_a_read_only_vector_from_the_wire():
    model = FlatModel(small())
    model.load(np.frombuffer(bytes(4 * model.layout.size), "<f4"))
    assert model.vector.abs().max() == 0


@pytest.mark.parametrize("size", [0, 1, 5])
def test_a_vector_of_another_size_is_refused_and_never_spread(size):
    model = FlatModel(small())
    for values in (np.ones(size, np.float32), torch.ones(size)):
        with pytest.raises(ValueError, match="the model takes 279 numbers"):
            model.load(values)


def test_views_of_the_vector_are_the_parameters():
    model = FlatModel(small())
    views = model.layout.views(model.numpy())
    for name, parameter in model.module.named_parameters():
        np.testing.assert_array_equal(views[name], parameter.detach().numpy())


def test_a_shared_parameter_stands_once_and_stays_shared():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 3, bias=False)
            self.b = nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x))

    model = FlatModel(Tied())
    assert model.layout.size == 9
    model.load(torch.eye(3).reshape(-1) * 2)
    assert torch.equal(model.module(torch.ones(1, 3)), torch.full((1, 3), 4.0))


def test_a_parameter_without_dimensions_is_one_number():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(3.0))

        def forward(self, x):
            return x * self.scale

    model = FlatModel(Scale())
    model.module(torch.ones(2)).sum().backward()
    assert model.layout.shapes == ((),)
    assert model.grad.tolist() == [2.0]


def test_running_statistics_are_refused_by_default_with_both_ways_out():
    with pytest.raises(
        ConfigError, match=r"buffer '1.running_mean' \(2 in all\): use GroupNorm .* \"average\""
    ):
        FlatModel(normed())


def test_running_statistics_travel_after_the_parameters_with_average():
    model = FlatModel(normed(), buffers="average")
    assert model.trainable == (6 + 3) + (3 + 3) + (3 + 1)
    assert model.layout.names[-2:] == ("1.running_mean", "1.running_var")
    assert model.layout.size == model.trainable + 6
    assert model.grad.numel() == model.trainable


def test_running_statistics_are_learnt_and_loaded_through_the_vector():
    model = FlatModel(normed(), buffers="average")
    part = model.layout.slices["1.running_mean"]
    assert model.vector[part].abs().max() == 0
    model.module.train()
    model.module(torch.randn(16, 2, generator=torch.Generator().manual_seed(0)) + 3)
    learnt = model.vector[part].clone()
    assert learnt.abs().max() > 0
    assert torch.equal(model.module[1].running_mean, learnt)

    values = model.numpy()
    values[part] = 50.0
    model.load(values)
    model.module.eval()
    shifted = model.module(torch.zeros(1, 2))
    values[part] = 0.0
    model.load(values)
    assert not torch.equal(shifted, model.module(torch.zeros(1, 2)))


def test_counters_stay_where_they_are():
    model = FlatModel(normed(), buffers="average")
    assert not any("num_batches" in name for name in model.layout.names)
    assert model.module[1].num_batches_tracked.dtype == torch.int64


def test_a_model_without_parameters_is_refused():
    with pytest.raises(ConfigError, match="no parameters to train"):
        FlatModel(nn.ReLU())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_numbers_other_than_float32_are_refused_by_name(dtype):
    with pytest.raises(ConfigError, match=f"'weight' is {dtype}; only float32".replace(".", r"\.")):
        FlatModel(nn.Linear(2, 2).to(dtype))


def test_frozen_parameters_lie_behind_the_trained_ones_and_never_move(make_schema):
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    for parameter in module[0].parameters():
        parameter.requires_grad = False
    before = module[0].weight.detach().clone()
    model = FlatModel(module)
    assert model.trainable == 4
    assert model.layout.names[:2] == ("1.weight", "1.bias")
    torch.autograd.backward(model.module(torch.ones(1, 2)).sum())
    model.vector[: model.trainable].sub_(model.grad)
    torch.testing.assert_close(module[0].weight.detach(), before)
