"""Decoded data sets on disk: read once, noticed when they change, never half written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from carpool.client.camera import decoded, sources
from carpool.client.camera.pipeline import Pipeline
from carpool.client.camera.samples import Pool
from carpool.client.camera.settings import DataSettings, Source
from carpool.client.camera.sources import load_source
from carpool.privacy.errors import DataError


def folder(root: Path, test: bool = True) -> Path:
    for split in ("train", "test")[: 1 + test]:
        for label, name in enumerate(("a", "b")):
            (root / split / name).mkdir(parents=True)
            for index in range(2):
                file = root / split / name / f"{index}.png"
                Image.new("RGB", (8, 6), (50 * label + index, 0, 100 * (split == "test"))).save(file)
    return root


@pytest.fixture
def settings(tmp_path: Path) -> DataSettings:
    root = folder(tmp_path / "data")
    return DataSettings(source="imagefolder", path=root, cache=tmp_path / "cache")


class Counter:
    """Stands for a reader and counts how often it is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls, self._load = 0, sources.SOURCES["imagefolder"]
        monkeypatch.setitem(sources.SOURCES, "imagefolder", self)

    def __call__(self, *arguments: Any) -> Source:
        self.calls += 1
        return self._load(*arguments)


def same(one: Pool | None, other: Pool | None) -> bool:
    assert one is not None
    assert other is not None
    return (
        one.schema == other.schema
        and bool((one.frames == other.frames).all())
        and all((one.targets[name] == other.targets[name]).all() for name in one.targets)
        and bool((one.group == other.group).all() and (one.order == other.order).all())
        and (one.vehicle is None) == (other.vehicle is None)
        and dict(one.domain) == dict(other.domain)
    )


def test_the_second_time_nothing_is_decoded(settings: DataSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = sources.SOURCES["imagefolder"](settings, 2, None)
    counter = Counter(monkeypatch)
    first, second = load_source(settings, 2), load_source(settings, 3)
    assert counter.calls == 1
    for source in (first, second):
        assert same(source.train, plain.train)
        assert same(source.test, plain.test)
        assert isinstance(source.train.frames, np.memmap)
        assert not source.train.frames.flags.writeable


def test_vehicles_and_words_are_kept(tmp_path: Path, settings: DataSettings) -> None:
    def load() -> Source:
        pool = sources.SOURCES["imagefolder"](settings, 2, None).train
        return Source(replace(pool, vehicle=np.array([3, 3, 7, 7]), domain={3: "dusk", 7: "regen, Köln"}))

    first, second = decoded.kept(settings, load), decoded.kept(settings, lambda: pytest.fail("again"))
    assert second.train.vehicle is not None
    assert second.train.vehicle.tolist() == [3, 3, 7, 7]
    assert second.train.domain == {3: "dusk", 7: "regen, Köln"}
    assert same(first.train, second.train)
    assert second.test is None


def test_what_changes_a_frame_changes_the_entry(
    settings: DataSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = Counter(monkeypatch)
    load_source(settings, 2)
    for change in ({"width": 4}, {"height": 3}, {"pipeline": Pipeline(crop_top=0.5)}):
        before = counter.calls
        load_source(replace(settings, **change), 2)
        assert counter.calls == before + 1
    before = counter.calls
    # Neither of these does; each is applied to what was kept.
    pool = load_source(replace(settings, seed=9, stride=2, pipeline=Pipeline(colour="gray")), 2).train
    assert pool.schema.pipeline.colour == "gray"
    assert counter.calls == before


def test_a_changed_data_set_is_read_anew(settings: DataSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.path is not None
    counter = Counter(monkeypatch)
    load_source(settings, 2)
    file = settings.path / "train" / "a" / "0.png"
    Image.new("RGB", (8, 6), (200, 0, 0)).save(file)
    os.utime(file, ns=(1, 1))
    assert load_source(settings, 2).train.frames[0, 0, 0, 0, 0] == 200
    (settings.path / "train" / "a" / "7.png").write_bytes(file.read_bytes())
    assert len(load_source(settings, 2).train) == 5
    (settings.path / "train" / "a" / "7.png").rename(settings.path / "train" / "b" / "7.png")
    assert load_source(settings, 2).train.targets["label"].tolist() == [0, 0, 1, 1, 1]
    assert counter.calls == 4


def test_a_data_set_that_changes_while_it_is_read_is_not_kept(settings: DataSettings) -> None:
    assert settings.path is not None
    file = settings.path / "train" / "a" / "0.png"

    def load() -> Source:
        source = sources.SOURCES["imagefolder"](settings, 2, None)
        os.utime(file, ns=(1, 1))
        return source

    source = decoded.kept(settings, load)
    assert not isinstance(source.train.frames, np.memmap)
    assert not list((settings.cache or Path()).glob("decoded/*"))


def test_a_damaged_entry_is_made_again(settings: DataSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = Counter(monkeypatch)
    load_source(settings, 2)
    assert settings.cache is not None
    for number, name in enumerate(("frames.npy", "columns.npz", "meta.json"), 2):
        for file in settings.cache.glob(f"decoded/*/{name}"):
            file.write_bytes(file.read_bytes()[:-3])
        assert load_source(settings, 2).train.frames[1, 0, 0, 0, 0] == 1
        assert counter.calls == number
    # An entry of another version has other facts in it.
    for file in settings.cache.glob("decoded/*/columns.npz"):
        file.unlink()
    assert len(load_source(settings, 2).train) == 4


def test_where_the_cache_cannot_be_written_the_frames_stay_in_memory(
    settings: DataSettings, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file, no folder")
    assert len(load_source(settings, 2).train) == 4


def test_errors_go_through_and_leave_nothing(settings: DataSettings) -> None:
    assert settings.path is not None
    (settings.path / "train" / "a" / "0.png").write_bytes(b"broken")
    with pytest.raises(DataError, match="is not a readable picture"):
        load_source(settings, 2)
    assert not (settings.cache or Path()).exists()
    with pytest.raises(DataError, match="is not a folder"):
        load_source(replace(settings, path=settings.path / "gone"), 2)


def test_raw_npz_frames_are_not_copied(tmp_path: Path) -> None:
    picture = np.zeros((2, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "raw.npz", frames=picture, label=np.zeros(2, np.int64))
    settings = DataSettings(source="npz", path=tmp_path / "raw.npz", cache=tmp_path / "cache")
    load_source(settings, 2)
    assert not (tmp_path / "cache").exists()


def test_a_gtsrb_folder_may_have_links_and_its_test_set_beside_it(tmp_path: Path) -> None:
    images = tmp_path / "Final_Training" / "Images"
    images.mkdir(parents=True)
    (tmp_path / "Final_Test" / "Images").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (images / "00000").symlink_to(tmp_path / "elsewhere")
    settings = DataSettings(source="gtsrb", path=images)
    before = decoded.fingerprint(settings)
    (tmp_path / "elsewhere" / "x.ppm").write_bytes(b"1")
    after = decoded.fingerprint(settings)
    assert before != after
    (tmp_path / "Final_Test" / "Images" / "x.ppm").write_bytes(b"1")
    assert decoded.fingerprint(settings) != after


KILLED = """
import os, signal, sys
from pathlib import Path
from carpool.client.camera import decoded
from carpool.client.camera.settings import DataSettings
from carpool.client.camera.sources import load_source

parts = decoded.parts
def dying(frames):
    yield from parts(frames)
    os.kill(os.getpid(), signal.SIGKILL)

decoded.parts = dying
load_source(DataSettings(source="imagefolder", path=Path(sys.argv[1]), cache=Path(sys.argv[2])), 2)
"""


@pytest.mark.slow
def test_a_killed_writer_leaves_nothing_that_is_used(
    settings: DataSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(settings.path), str(settings.cache)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert settings.cache is not None
    left = list((settings.cache / "decoded").iterdir())
    assert left
    assert all(place.name.startswith(".tmp-") for place in left)
    counter = Counter(monkeypatch)
    load_source(settings, 2)
    load_source(settings, 2)
    assert counter.calls == 1
    assert not list((settings.cache / "decoded").glob(".tmp-*"))
