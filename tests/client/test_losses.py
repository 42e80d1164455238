"""Frames to floats, losses and hits against formulas written out in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from carpool.client.camera.samples import Target
from carpool.client.losses import batch_loss, hits, target_loss, to_float, to_tensors

SIGN = Target("sign", "class", classes=("none", "stop", "yield"))
OBSTACLE = Target("obstacle", "flags", width=2)
OFFSET = Target("offset", "value", unit="m", scale=2.0)


def test_frames_become_floats_of_about_minus_two_to_two_with_colour_first():
    frames = np.zeros((2, 3, 4, 5, 3), np.uint8)
    frames[0, 1, 2, 3] = (0, 128, 255)
    tensor = to_float(frames)
    assert tensor.shape == (2, 3, 3, 4, 5)
    assert tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor[0, 1, :, 2, 3], [-2.0, 0.5 / 63.75, 2.0], rtol=1e-6)
    assert tensor.min() == -2
    assert tensor.max() == 2


def test_frames_are_not_changed_and_may_be_strided_or_read_only():
    frames = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(1, 2, 8, 8, 3)
    kept = frames.copy()
    wanted = to_float(frames)
    np.testing.assert_array_equal(frames, kept)
    mirrored = frames[:, :, :, ::-1]
    assert torch.equal(to_float(mirrored), wanted.flip(-1))


def test_targets_become_what_their_loss_needs(make_shard):
    shard = make_shard(4, "class", "flags", "value")
    tensors = to_tensors(shard.pool.targets, shard.pool.schema)
    assert {n: t.dtype for n, t in tensors.items()} == {
        "sign": torch.int64,
        "obstacle": torch.float32,
        "offset": torch.float32,
    }
    np.testing.assert_allclose(tensors["offset"], shard.pool.targets["offset"] / 2.0)
    np.testing.assert_array_equal(tensors["obstacle"], shard.pool.targets["obstacle"])


def test_cross_entropy_by_hand():
    output = np.array([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]], np.float32)
    wanted = (-math.log(math.exp(2) / (math.exp(2) + 1 + math.exp(-1))) + math.log(3)) / 2
    assert float(target_loss(SIGN, torch.from_numpy(output), torch.tensor([0, 2]))) == pytest.approx(wanted)


def test_binary_cross_entropy_by_hand_is_the_mean_over_samples_and_flags():
    output, truth = np.array([[2.0, -1.0]], np.float32), np.array([[1.0, 1.0]], np.float32)
    wanted = (math.log1p(math.exp(-2)) + math.log1p(math.exp(1))) / 2
    loss = target_loss(OBSTACLE, torch.from_numpy(output), torch.from_numpy(truth))
    assert float(loss) == pytest.approx(wanted)


def test_squared_error_by_hand_is_in_units_of_scale():
    output, truth = torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 5.0])
    assert float(target_loss(OFFSET, output, truth)) == pytest.approx((1 + 4) / 2)


def test_losses_of_several_targets_are_added(make_schema):
    generator = torch.Generator().manual_seed(0)
    schema = make_schema("class", "flags", "value")
    outputs = {t.name: torch.randn(6, t.outputs, generator=generator) for t in schema.targets}
    truth = {
        "sign": torch.randint(0, 3, (6,), generator=generator),
        "obstacle": torch.ones(6, 2),
        "offset": torch.zeros(6),
    }
    parts = [float(target_loss(t, outputs[t.name], truth[t.name])) for t in schema.targets]
    total = batch_loss(outputs, truth, schema)
    assert total.shape == ()
    assert float(total) == pytest.approx(sum(parts))
    only = make_schema("flags")
    assert float(batch_loss(outputs, truth, only)) == pytest.approx(parts[1])


def test_large_outputs_give_a_finite_loss():
    for target, truth in ((SIGN, torch.tensor([1])), (OBSTACLE, torch.zeros(1, 2))):
        output = torch.full((1, target.outputs), 1e4)
        output[0, 0] = -1e4
        assert math.isfinite(float(target_loss(target, output, truth)))


def test_hits():
    assert hits(SIGN, torch.tensor([[0.0, 1, 0], [3, 1, 2]]), torch.tensor([1, 2])).tolist() == [1, 0]
    output, truth = torch.tensor([[0.5, -0.5], [2.0, 3.0]]), torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    assert hits(OBSTACLE, output, truth).tolist() == [0.5, 1.0]
    assert hits(OBSTACLE, torch.zeros(1, 2), torch.zeros(1, 2)).tolist() == [1.0]  # 0 means "no"
    assert hits(OFFSET, torch.zeros(1, 1), torch.zeros(1)) is None
