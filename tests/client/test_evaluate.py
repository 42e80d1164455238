"""Evaluation in batches equals evaluation by hand in one pass."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from carpool.client import evaluate as module
from carpool.client.camera.samples import Shard
from carpool.client.evaluate import evaluate, joined, measured, parts
from carpool.client.flat import FlatModel
from carpool.client.losses import to_float
from carpool.client.models import build

KINDS = ("value", "flags", "class")


def model_for(shard: Shard, name: str = "mlp") -> FlatModel:
    return FlatModel(build(name, shard.pool.schema, {"hidden": 8}, 0))


def outputs_of(model: FlatModel, shard: Shard) -> dict[str, np.ndarray]:
    frames, _ = shard.batch(np.arange(len(shard)))
    with torch.no_grad():
        return {n: o.double().numpy() for n, o in model.module.eval()(to_float(frames)).items()}


@pytest.mark.parametrize("batch", [1, 7, 256])
def test_every_figure_equals_the_formula_in_one_pass(make_shard, monkeypatch, batch):
    monkeypatch.setattr(module, "BATCH", batch)
    shard = make_shard(23, *KINDS)
    model = model_for(shard)
    found, out, truth = evaluate(model, shard), outputs_of(model, shard), shard.pool.targets

    logits = out["sign"] - out["sign"].max(1, keepdims=True)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    sign_loss = -np.log(shares[np.arange(23), truth["sign"]]).mean()
    sign_accuracy = (out["sign"].argmax(1) == truth["sign"]).mean()

    p, y = 1 / (1 + np.exp(-out["obstacle"])), truth["obstacle"]
    flag_loss = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    flag_hits = ((out["obstacle"] > 0) == (y == 1)).mean(1)

    squared = ((out["offset"][:, 0] - truth["offset"] / 2.0) ** 2).mean()
    assert found.targets == {
        "offset": {
            "loss": pytest.approx(squared, rel=1e-5),
            "rmse": pytest.approx(2 * math.sqrt(squared), rel=1e-5),
        },
        "obstacle": {"loss": pytest.approx(flag_loss, rel=1e-5), "accuracy": pytest.approx(flag_hits.mean())},
        "sign": {"loss": pytest.approx(sign_loss, rel=1e-5), "accuracy": pytest.approx(sign_accuracy)},
    }
    assert found.loss == pytest.approx(sign_loss + flag_loss + squared, rel=1e-5)
    # Accuracy is that of the first target that has one: here the flags, as the value has none.
    assert found.accuracy == found.targets["obstacle"]["accuracy"]
    np.testing.assert_allclose(found.correct, flag_hits)
    assert found.correct.dtype == np.float32


def test_parts_measured_apart_give_the_same_figures_to_the_bit(make_shard, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 4)
    shard = make_shard(11, *KINDS)
    model = model_for(shard)
    backwards = {place: measured(model, shard, place) for place in reversed(range(parts(11)))}
    again = joined(shard, [backwards[place] for place in range(parts(11))])
    whole = evaluate(model, shard)
    assert parts(11) == 3
    assert (again.loss, again.accuracy, again.targets) == (whole.loss, whole.accuracy, whole.targets)
    assert again.correct.tolist() == whole.correct.tolist()


def test_a_value_alone_has_no_accuracy(make_shard):
    shard = make_shard(5, "value")
    found = evaluate(model_for(shard), shard)
    assert found.accuracy is None
    assert found.correct is None


def test_classes_count_samples(make_shard):
    shard = make_shard(12, "class")
    found = evaluate(model_for(shard), shard)
    assert set(found.correct.tolist()) <= {0.0, 1.0}
    assert found.accuracy == pytest.approx(found.correct.mean())


def test_only_the_rows_of_the_shard_count(make_shard):
    shard = make_shard(12, "class")
    model = model_for(shard)
    whole = evaluate(model, shard)
    part = evaluate(model, Shard(shard.pool, np.array([7, 2, 2], np.int64)))
    assert part.correct.tolist() == whole.correct[[7, 2, 2]].tolist()


def test_the_model_is_not_changed_and_dropout_is_off(make_shard):
    class Noisy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(2 * 3 * 8 * 8)
            self.linear = torch.nn.Linear(2 * 3 * 8 * 8, 3)

        def forward(self, frames):
            hidden = torch.nn.functional.dropout(self.norm(frames.flatten(1)), 0.5, self.training)
            return {"sign": self.linear(hidden)}

    shard, model = make_shard(9), FlatModel(Noisy(), buffers="average")
    model.module.train()
    before = model.numpy()
    a, b = evaluate(model, shard), evaluate(model, shard)
    assert a.loss == b.loss
    np.testing.assert_array_equal(model.numpy(), before)


def test_a_diverged_model_has_a_loss_of_nan_and_no_exception(make_shard):
    shard = make_shard(4, "class")
    model = model_for(shard)
    model.load(np.full(model.layout.size, np.nan, np.float32))
    found = evaluate(model, shard)
    assert math.isnan(found.loss)
    assert 0 <= found.accuracy <= 1
