"""Max-pool before ReLU: the same outputs and gradients to the bit, or nothing is changed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from carpool.client.reorder import pool_first

FRAMES = torch.randn(3, 1, 3, 16, 16, generator=torch.Generator().manual_seed(1))


class Model(nn.Module):
    def __init__(self, *, picks: bool = False, indices: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.picks = picks
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2, return_indices=indices),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, padding=1),
        )

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        body = self.body[:2] if self.picks else self.body
        return {"label": body(frames[:, 0]).flatten(1)}


def gradients(module: nn.Module) -> list[Tensor]:
    module.zero_grad()
    module(FRAMES)["label"].square().sum().backward()
    return [p.grad for p in module.parameters() if p.grad is not None]


def test_outputs_and_gradients_are_the_same_to_the_bit() -> None:
    given = Model()
    changed = copy.deepcopy(given)
    assert pool_first(changed, FRAMES) == 2
    assert [type(layer).__name__ for layer in changed.body] == ["Conv2d", "MaxPool2d", "ReLU"] * 2
    assert list(changed.state_dict()) == list(given.state_dict())
    assert torch.equal(given(FRAMES)["label"], changed(FRAMES)["label"])
    assert len(gradients(given)) == 4
    for a, b in zip(gradients(given), gradients(changed), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("model", [Model(picks=True), Model(indices=True)])
def test_a_model_that_picks_its_layers_or_fails_stays_as_it_is(model: Model) -> None:
    before = [type(layer) for layer in model.body]
    assert pool_first(model, FRAMES) == 0
    assert [type(layer) for layer in model.body] == before
    assert model.training


def test_a_layer_that_somebody_listens_to_stays() -> None:
    model = Model()
    model.body[1].register_forward_hook(lambda *given: None)
    assert pool_first(model, FRAMES) == 1
