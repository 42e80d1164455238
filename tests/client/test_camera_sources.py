"""The catalogue: named sources, the user's own file, views and targets chosen by the settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from carpool.client.camera import sources
from carpool.client.camera.fleetdata import build_fleet
from carpool.client.camera.settings import DataSettings, Source
from carpool.privacy.errors import DataError

FACTORY = """
import numpy as np
from carpool.client.camera.samples import Pool, Schema, Target
from carpool.client.camera.settings import Source

def build(settings, vehicles):
    n = 3 * vehicles
    rows = np.arange(n, dtype=np.int64)
    frames = np.zeros((n, 2, 4, 5, 3), np.uint8)
    frames[:, 1] = 9
    targets = (Target("sign", "class", classes=("a", "b")), Target("speed", "value"))
    values = {"sign": rows % 2, "speed": rows.astype(np.float32)}
    return Source(Pool(Schema(("front", "rear"), 4, 5, targets), frames, values, rows, rows))

def other(settings, vehicles):
    return 3

def broken(settings, vehicles):
    raise KeyError("speed")

number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my_data.py"
    path.write_text(FACTORY)
    return path


def test_a_factory_in_a_file(file: Path) -> None:
    source = sources.load_source(DataSettings(source=f"{file}:build"), 4)
    assert len(source.train) == 12
    assert source.train.schema.views == ("front", "rear")


def test_views_and_targets_are_narrowed_and_ordered(file: Path) -> None:
    settings = DataSettings(source=f"{file}:build", views=("rear",), targets=("speed",))
    pool = sources.load_source(settings, 2).train
    assert pool.schema.views == ("rear",)
    assert pool.frames.shape == (6, 1, 4, 5, 3)
    assert (pool.frames == 9).all()
    assert list(pool.targets) == ["speed"]
    both = DataSettings(source=f"{file}:build", views=("rear", "front"), targets=("speed", "sign"))
    pool = sources.load_source(both, 2).train
    assert pool.frames[0, :, 0, 0, 0].tolist() == [9, 0]
    assert [target.name for target in pool.schema.targets] == ["speed", "sign"]


def test_nothing_chosen_copies_nothing(file: Path) -> None:
    pool = sources.load_source(DataSettings(source=f"{file}:build"), 2).train
    assert sources.narrowed(pool, DataSettings(views=("front", "rear"))) is pool


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source": "cifar"}, "'cifar' is not known; use procedural, gtsrb, npz"),
        ({"source": "{}/none.py:build"}, "none.py, which is not a file"),
        ({"source": "{}/my_data.py:missing"}, "has no function 'missing'"),
        ({"source": "{}/my_data.py:number"}, "has no function 'number'"),
        ({"source": "{}/my_data.py:other"}, "other gives int; it must give a Source"),
        ({"source": "{}/my_data.py:broken"}, "fails .KeyError: 'speed'"),
        ({"source": "{}/syntax.py:build"}, "fails when it is loaded .SyntaxError"),
        ({"views": ("up",)}, "data.views is .'up'.; name different ones of front, rear"),
        ({"views": ("rear", "rear")}, "name different ones"),
        ({"targets": ("sing",)}, "no target 'sing' in this data; it has sign, speed"),
        ({"targets": ("sign", "sign")}, "has a name twice"),
        ({"width": -1}, "data.width x data.height is -1 x 0"),
    ],
)
def test_mistakes_are_one_sentence(file: Path, change: dict[str, str], words: str) -> None:
    (file.parent / "syntax.py").write_text("def (:")
    wanted = {"source": "{}/my_data.py:build"} | change
    wanted["source"] = wanted["source"].format(file.parent)
    with pytest.raises(DataError, match=words) as caught:
        sources.load_source(DataSettings(**wanted), 2)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_renderer(tmp_path: Path) -> None:
    settings = DataSettings(drives=2, frames=3, views=("front",), cache=tmp_path)
    pool = sources.load_source(settings, 2).train
    assert pool.frames.shape == (12, 1, 48, 64, 3)
    assert pool.vehicle is not None
    assert np.unique(pool.vehicle).tolist() == [0, 1]
    small = replace(settings, targets=("sign",), width=32, height=24)
    fleet = build_fleet(small, 2)
    assert (fleet.schema.width, fleet.schema.height) == (32, 24)
    assert [len(fleet.training(vehicle)) for vehicle in range(2)] == [3, 3]
    assert [target.name for target in fleet.schema.targets] == ["sign"]


def test_a_test_set_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    source = sources.load_source(DataSettings(source=f"{file}:build"), 2)
    other = sources.narrowed(source.train, DataSettings(views=("rear",)))
    monkeypatch.setitem(
        sources.SOURCES, "npz", lambda settings, vehicles, progress: Source(source.train, other)
    )
    with pytest.raises(DataError, match="the test set's schema is not that of the training set"):
        sources.load_source(DataSettings(source="npz"), 2)
