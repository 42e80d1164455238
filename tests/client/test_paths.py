"""The choice of the quicker path: measured once, kept, and never for a model that has one path only."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from carpool.client import paths
from carpool.client.camera.samples import Schema, Target
from carpool.client.flat import FlatModel
from carpool.client.models import build
from carpool.client.trainer import TrainSettings

SCHEMA = Schema(
    ("front",),
    16,
    16,
    (Target("sign", "class", ("a", "b")), Target("near", "flags", width=1), Target("bend", "value")),
)
SETTINGS = TrainSettings(batch_size=4)


@pytest.mark.parametrize(("stacked", "answer"), [(0.5, "stacked"), (2.0, "sequential")])
def test_the_quicker_path_is_taken_and_kept(tmp_path: Path, stacked: float, answer: str) -> None:
    calls = []

    def measure(*_: object) -> dict[paths.Batching, float]:
        calls.append(1)
        return {"sequential": 1.0, "stacked": stacked}

    model = FlatModel(build("mlp", SCHEMA, {}, 0))
    for _ in range(3):
        assert paths.choose(model, SCHEMA, SETTINGS, cache=tmp_path, measure=measure) == answer
    assert len(calls) == 1
    other = TrainSettings(batch_size=8)
    paths.choose(model, SCHEMA, other, cache=tmp_path, measure=measure)
    assert len(calls) == 2


def test_a_damaged_answer_is_measured_again(tmp_path: Path) -> None:
    model = FlatModel(build("mlp", SCHEMA, {}, 0))
    times: dict[paths.Batching, float] = {"sequential": 2.0, "stacked": 1.0}
    paths.choose(model, SCHEMA, SETTINGS, cache=tmp_path, measure=lambda *_: times)
    [file] = (tmp_path / "paths").iterdir()
    for damage in ("", "{", '{"path": "magic"}', "[]"):
        file.write_text(damage)
        assert paths.choose(model, SCHEMA, SETTINGS, cache=tmp_path, measure=lambda *_: times) == "stacked"


def test_a_model_without_a_stacked_form_is_never_measured(tmp_path: Path) -> None:
    def never(*_: object) -> dict[paths.Batching, float]:
        raise AssertionError

    model = FlatModel(nn.Sequential(nn.Linear(2, 2)))
    assert paths.choose(model, SCHEMA, SETTINGS, cache=tmp_path, measure=never) == "sequential"


def test_the_trial_leaves_the_model_as_it_was_and_finds_positive_times() -> None:
    model = FlatModel(build("logistic", SCHEMA, {}, 0))
    before = model.numpy()
    times = paths.trial(model, SCHEMA, SETTINGS)
    assert (model.numpy() == before).all()
    assert set(times) == {"sequential", "stacked"}
    assert min(times.values()) > 0
