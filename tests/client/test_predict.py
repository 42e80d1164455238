"""What a model says about a picture in words, and the truth in the same words."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from carpool.client.camera.samples import Target
from carpool.client.flat import FlatModel
from carpool.client.predict import predict, truths

SIGN = Target("sign", "class", classes=("none", "stop", "yield"))
OBSTACLE = Target("obstacle", "flags", width=2)
OFFSET = Target("offset", "value", unit="m", scale=2.0)
VIEWS = ("front", "rear")


class Says(nn.Module):
    """Gives the same outputs for every picture."""

    def __init__(self, **outputs: list[float]) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.outputs = {name: torch.tensor(values) for name, values in outputs.items()}

    def forward(self, frames):
        return {name: values.expand(len(frames), -1) for name, values in self.outputs.items()}


def say(targets: tuple[Target, ...], n: int = 1, views=VIEWS, **outputs):
    frames = np.zeros((n, 2, 4, 4, 3), np.uint8)
    return predict(FlatModel(Says(**outputs)), frames, targets, views)


def test_a_class_has_its_name_and_its_probability():
    [row] = say((SIGN,), sign=[1.0, 3.0, 1.0])
    share = math.exp(2) / (math.exp(2) + 2)
    assert row["sign"].value == "stop"
    assert row["sign"].probability == pytest.approx(share)
    assert row["sign"].text == f"stop ({share:.0%})"


def test_flags_are_named_after_their_views():
    [row] = say((OBSTACLE,), obstacle=[2.0, -1.0])
    assert row["obstacle"].value == [True, False]
    assert row["obstacle"].probability == pytest.approx([1 / (1 + math.exp(-2)), 1 / (1 + math.exp(1))])
    assert row["obstacle"].text == "front"
    assert say((OBSTACLE,), obstacle=[1.0, 1.0])[0]["obstacle"].text == "front, rear"
    assert say((OBSTACLE,), obstacle=[-1.0, 0.0])[0]["obstacle"].text == "none"
    assert say((OBSTACLE,), views=("one",), obstacle=[-1.0, 2.0])[0]["obstacle"].text == "1"


def test_a_value_has_its_unit_and_scale():
    [row] = say((OFFSET,), offset=[-0.25])
    assert row["offset"].value == -0.5
    assert row["offset"].text == "-0.5 m"
    assert row["offset"].probability is None


def test_every_sample_gets_every_target():
    rows = say((SIGN, OBSTACLE, OFFSET), n=3, sign=[0.0, 1, 0], obstacle=[1.0, 1], offset=[0.0])
    assert len(rows) == 3
    assert all(list(row) == ["sign", "obstacle", "offset"] for row in rows)


def test_certain_outputs_do_not_overflow():
    [row] = say((SIGN, OBSTACLE), sign=[-1e4, 1e4, 0.0], obstacle=[1e4, -1e4])
    assert row["sign"].probability == 1.0
    assert row["obstacle"].probability == [1.0, 0.0]


def test_dropout_is_off_while_predicting():
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2 * 3 * 4 * 4, 3)

        def forward(self, frames):
            return {"sign": nn.functional.dropout(self.linear(frames.flatten(1)), 0.5, self.training)}

    model, frames = FlatModel(Noisy().train()), np.full((1, 2, 4, 4, 3), 9, np.uint8)
    shares = {predict(model, frames, (SIGN,), VIEWS)[0]["sign"].probability for _ in range(20)}
    assert len(shares) == 1


def test_the_truth_is_told_in_the_same_words():
    columns = {
        "sign": np.array([0, 2], np.int64),
        "obstacle": np.array([[0, 0], [0, 1]], np.uint8),
        "offset": np.array([0.0, -0.123456], np.float32),
    }
    targets = (SIGN, OBSTACLE, OFFSET)
    assert truths(columns, targets, VIEWS, 0) == {"sign": "none", "obstacle": "none", "offset": "0 m"}
    assert truths(columns, targets, VIEWS, 1) == {"sign": "yield", "obstacle": "rear", "offset": "-0.123 m"}
