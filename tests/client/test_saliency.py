import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from carpool.client.camera.samples import Target
from carpool.client.flat import FlatModel
from carpool.client.saliency import evidence, occlusion, places, starts

CLASS = Target("sign", "class", ("none", "stop", "yield"))
FLAGS = Target("obstacle", "flags", width=2)
VALUE = Target("offset", "value", scale=2.0)


class Corner(nn.Module):
    """Answers depend on the mean of the second view's lower right corner [4:8, 8:16] only."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.0, 3.0, 0.0]))

    def forward(self, frames):
        seen = frames[:, 1, :, 4:8, 8:16].mean((1, 2, 3))[:, None] * self.weight
        return {"sign": seen, "obstacle": seen[:, 1:], "offset": -seen[:, 1:2]}


def scene():
    frame = np.zeros((2, 8, 16, 3), np.uint8)
    frame[1, 4:8, 8:16] = 255
    return frame


@pytest.mark.parametrize("target", [CLASS, FLAGS, VALUE])
def test_heat_is_where_the_answer_comes_from(target):
    model = FlatModel(Corner())
    heat = occlusion(model, scene(), target)
    assert heat.shape == (2, 8, 16)
    assert heat.dtype == np.float32
    assert (heat[0] == 0).all()
    assert (heat[1, 4:8, 8:16] > 0).all()
    assert (heat[1, :3, :7] == 0).all()
    assert heat.argmax() // heat[0].size == 1


def test_what_speaks_against_the_answer_is_negative():
    frame = scene()
    frame[1, 4:8, 8:10] = 0  # a dark strip of the corner: it speaks against "stop"
    heat = occlusion(FlatModel(Corner()), frame, CLASS)
    assert heat[1, 5, 14] > 0 > heat[1, 5, 8]


def test_a_saturated_answer_still_has_heat():
    model = FlatModel(Corner())
    model.load(np.array([0, 300, 0], np.float32))
    assert occlusion(model, scene(), CLASS).max() > 10


def test_evidence_by_hand():
    outputs = torch.tensor([[1.0, 4.0, 2.0]])
    wanted = 4 - np.log(np.e + np.e**2)
    assert float(evidence(CLASS, outputs, outputs)) == pytest.approx(wanted, rel=1e-6)
    flags = torch.tensor([[2.0, -3.0]])
    assert float(evidence(FLAGS, flags, flags)) == 2.5
    only = Target("x", "class", ("all",))
    assert float(evidence(only, outputs[:, :1], outputs[:, :1])) == 0


@settings(max_examples=50)
@given(st.integers(1, 200), st.integers(1, 64))
def test_patches_cover_a_side_and_stay_on_it(length, size):
    covered = np.zeros(length, int)
    for start in starts(length, size):
        assert start >= 0
        assert start + size <= max(length, size)
        covered[start : start + size] += 1
    assert (covered > 0).all()


@settings(max_examples=30)
@given(st.integers(1, 3), st.integers(1, 24), st.integers(1, 24))
def test_every_pixel_of_every_view_is_covered(views, height, width):
    covered = np.zeros((views, height, width), int)
    for view, rows, columns in places(views, height, width):
        covered[view, rows, columns] += 1
    assert (covered > 0).all()
