"""The catalogue: named sources, the user's own file, views and targets chosen by the settings."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from carpool.client.camera import sources
from carpool.client.camera.samples import Pool, Schema, Target
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


def test_the_renderer_gets_its_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    rows = np.arange(2, dtype=np.int64)
    schema = Schema(("front",), 1, 1, (Target("speed", "value"),))
    pool = Pool(schema, np.zeros((2, 1, 1, 1, 3), np.uint8), {"speed": rows.astype(np.float32)}, rows, rows)

    def load(settings: DataSettings, vehicles: int, progress: object = None) -> Source:
        seen.append((settings.width, settings.height))
        return Source(pool)

    fake = ModuleType("carpool.client.camera.procedural")
    fake.load = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "carpool.client.camera.procedural", fake)
    monkeypatch.setattr("carpool.client.camera.procedural", fake, raising=False)
    sources.load_source(DataSettings(), 2)
    sources.load_source(DataSettings(width=32), 2)
    assert seen == [(64, 48), (32, 48)]


def test_a_test_set_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    source = sources.load_source(DataSettings(source=f"{file}:build"), 2)
    other = sources.narrowed(source.train, DataSettings(views=("rear",)))
    monkeypatch.setitem(
        sources.SOURCES, "npz", lambda settings, vehicles, progress: Source(source.train, other)
    )
    with pytest.raises(DataError, match="the test set's schema is not that of the training set"):
        sources.load_source(DataSettings(source="npz"), 2)
