from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from carpool.client.camera import cache, procedural
from carpool.client.camera.procedural import load
from carpool.client.camera.settings import DataSettings

SETTINGS = DataSettings(drives=1, frames=2, seed=9, views=("front",), width=16, height=12)
SHAPE = (4, 1, 2, 2, 3)
FRAMES = np.arange(48, dtype=np.uint8).reshape(SHAPE)
COLUMNS = {"sign": np.arange(4)}


def parts() -> Iterator[np.ndarray]:
    yield FRAMES[:1]
    yield FRAMES[1:]


def put(folder: Path, key: str = "k" * 64) -> cache.Entry | None:
    return cache.write(folder, key, SHAPE, parts(), lambda: COLUMNS)


def entries(folder: Path) -> list[Path]:
    return sorted((folder / "procedural").iterdir())


@pytest.fixture
def renders(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The vehicles that have been rendered since the test began."""
    done: list[int] = []
    record = procedural.record

    def counting(settings: DataSettings, vehicle: int) -> procedural.Recording:
        done.append(vehicle)
        return record(settings, vehicle)

    monkeypatch.setattr(procedural, "record", counting)
    return done


def test_written_entry_reads_back_as_a_read_only_map(tmp_path: Path) -> None:
    entry = put(tmp_path)
    assert entry is not None
    assert isinstance(entry.frames, np.memmap)
    assert not entry.frames.flags.writeable
    assert np.array_equal(entry.frames, FRAMES)
    assert np.array_equal(entry.columns["sign"], COLUMNS["sign"])
    assert [p.name for p in tmp_path.iterdir()] == ["k" * 64]


def test_missing_entry_is_none(tmp_path: Path) -> None:
    assert cache.read(tmp_path, "a" * 64) is None


@pytest.mark.parametrize("name", [cache.FRAMES, cache.COLUMNS, cache.META])
@pytest.mark.parametrize("damage", ["gone", "short", "empty", "first", "inside"])
def test_damaged_entry_is_not_read_and_is_replaced(tmp_path: Path, name: str, damage: str) -> None:
    put(tmp_path)
    path = tmp_path / ("k" * 64) / name
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        if damage in ("first", "inside"):
            data[0 if damage == "first" else -5] ^= 0xFF
        size = {"short": len(data) - 1, "empty": 0}.get(damage, len(data))
        path.write_bytes(bytes(data[:size]))
    assert cache.read(tmp_path, "k" * 64) is None
    entry = put(tmp_path)
    assert entry is not None
    assert np.array_equal(entry.frames, FRAMES)
    assert [p.name for p in tmp_path.iterdir()] == ["k" * 64]


def test_second_writer_keeps_the_first_ones_entry(tmp_path: Path) -> None:
    first = put(tmp_path)
    assert first is not None
    before = (tmp_path / ("k" * 64)).stat().st_ino
    second = cache.write(tmp_path, "k" * 64, SHAPE, iter([FRAMES]), lambda: COLUMNS)
    assert second is not None
    assert (tmp_path / ("k" * 64)).stat().st_ino == before
    assert len(list(tmp_path.iterdir())) == 1


def test_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield FRAMES[:1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.write(tmp_path, "k" * 64, SHAPE, broken(), lambda: COLUMNS)
    assert list(tmp_path.iterdir()) == []


def test_entry_appears_by_one_rename_of_a_finished_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []

    def refused(self: Path, target: Path) -> None:
        seen.append({path.name for path in self.iterdir()})
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "rename", refused)
    assert put(tmp_path) is None
    assert seen == [{cache.FRAMES, cache.COLUMNS, cache.META, cache.LOCK}]
    assert list(tmp_path.iterdir()) == []


def test_clean_spares_the_living_and_removes_the_dead(tmp_path: Path) -> None:
    dead, young, old = (tmp_path / f".tmp-{name}" for name in ("dead", "young", "old"))
    for place in (dead, young, old):
        place.mkdir()
    (dead / cache.LOCK).touch()
    os.utime(old, (1, 1))
    with cache._temporary(tmp_path, "x" * 64) as alive:
        cache.clean(tmp_path)
        assert alive.exists()
        assert young.exists()
        assert not dead.exists()
        assert not old.exists()


def test_key_depends_on_every_fact() -> None:
    base = {"seed": 1, "views": ("front",)}
    assert cache.key_of(base) == cache.key_of({"views": ["front"], "seed": 1})
    assert len({cache.key_of(base), cache.key_of({**base, "seed": 2}), cache.key_of({"seed": 1})}) == 3


def test_second_load_renders_nothing(tmp_path: Path, renders: list[int]) -> None:
    settings = replace(SETTINGS, cache=tmp_path)
    calls: list[tuple[int, int]] = []
    first = load(settings, 2, lambda done, total: calls.append((done, total)))
    assert renders == [0, 1]
    assert calls == [(1, 2), (2, 2)]
    again = load(settings, 2)
    assert renders == [0, 1]
    assert np.array_equal(first.train.frames, again.train.frames)
    assert np.array_equal(first.train.targets["sign"], again.train.targets["sign"])


@pytest.mark.parametrize(
    "change", [{"seed": 10}, {"frames": 3}, {"drives": 2}, {"width": 17}, {"views": ("rear",)}]
)
def test_another_setting_is_another_entry(tmp_path: Path, change: dict[str, object]) -> None:
    settings = replace(SETTINGS, cache=tmp_path)
    load(settings, 1)
    load(replace(settings, **change), 1)  # type: ignore[arg-type]
    load(replace(settings, targets=("sign",), alpha=0.9), 1)  # neither changes a pixel
    assert len(entries(tmp_path)) == 2


def test_damaged_frames_are_rendered_again(tmp_path: Path, renders: list[int]) -> None:
    settings = replace(SETTINGS, cache=tmp_path)
    good = np.array(load(settings, 1).train.frames)
    path = entries(tmp_path)[0] / cache.FRAMES
    path.write_bytes(path.read_bytes()[:-7])
    assert np.array_equal(load(settings, 1).train.frames, good)
    assert renders == [0, 0]
    load(settings, 1)
    assert renders == [0, 0]


def test_folder_that_cannot_be_written_falls_back_to_memory(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    kept = load(replace(SETTINGS, cache=blocked), 2).train
    normal = load(replace(SETTINGS, cache=tmp_path / "folder"), 2).train
    assert not isinstance(kept.frames, np.memmap)
    assert np.array_equal(kept.frames, normal.frames)
    assert np.array_equal(kept.targets["offset"], normal.targets["offset"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into read-only folders")
def test_read_only_folder_falls_back_to_memory(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        assert not isinstance(load(replace(SETTINGS, cache=tmp_path), 1).train.frames, np.memmap)
    finally:
        tmp_path.chmod(0o700)


def test_full_disk_falls_back_to_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert len(load(replace(SETTINGS, cache=tmp_path), 1).train) == 2
    assert entries(tmp_path) == []


WRITER = """
import sys, time
from dataclasses import replace
from pathlib import Path
from carpool.client.camera.procedural import load
from carpool.client.camera.settings import DataSettings
settings = DataSettings(drives=1, frames=2, seed=9, views=("front",), width=16, height=12)
def progress(done, total):
    print(done, flush=True)
    if done == int(sys.argv[2]):
        time.sleep(60)
load(replace(settings, cache=Path(sys.argv[1])), 4, progress)
print("whole", flush=True)
"""


def start_writer(folder: Path, stop_after: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(stop_after)], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("vehicles_done", [1, 4])
def test_killed_writer_leaves_nothing_that_looks_like_data(tmp_path: Path, vehicles_done: int) -> None:
    with start_writer(tmp_path, vehicles_done) as writer:
        assert writer.stdout is not None
        for _ in range(vehicles_done):
            writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        assert writer.wait() == -signal.SIGKILL
    left = entries(tmp_path)
    assert [path.name.startswith(".tmp-") for path in left] == [True]
    pool = load(replace(SETTINGS, cache=tmp_path), 4).train
    assert not left[0].exists()
    fresh = load(replace(SETTINGS, cache=tmp_path / "fresh"), 4).train
    assert np.array_equal(pool.frames, fresh.frames)


@pytest.mark.slow
def test_two_writers_at_once_both_finish(tmp_path: Path) -> None:
    with start_writer(tmp_path, 0) as one, start_writer(tmp_path, 0) as two:
        outputs = [writer.communicate(timeout=120)[0] for writer in (one, two)]
        assert [writer.returncode for writer in (one, two)] == [0, 0]
    assert all(output.splitlines()[-1] == "whole" for output in outputs)
    assert [path.name[0] for path in entries(tmp_path)] != ["."]
    assert len(entries(tmp_path)) == 1
    assert len(load(replace(SETTINGS, cache=tmp_path), 4).train) == 8
