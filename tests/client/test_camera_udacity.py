"""Recordings of Udacity's simulator, small ones made here, whole and damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from carpool.client.camera import udacity
from carpool.client.camera.settings import DataSettings, Source
from carpool.privacy.errors import DataError

HEADER = "center,left,right,steering,throttle,brake,speed"


def stamp(index: int) -> str:
    """A tenth of a second a frame."""
    return f"2016_12_01_13_{30 + index // 600:02}_{index // 10 % 60:02}_{index % 10 * 100:03}"


def line(index: int, steering: object = None, folder: str = "C:\\Users\\me\\Desktop\\IMG\\") -> str:
    names = ", ".join(f"{folder}{view}_{stamp(index)}.jpg" for view in ("center", "left", "right"))
    return f"{names}, {index / 1000 if steering is None else steering}, 0.5, 0, 30.19"


def record(root: Path, n: int = 12, header: bool = True, size: tuple[int, int] = (32, 16)) -> Path:
    images = root / "IMG"
    images.mkdir(parents=True)
    for index in range(n):
        for number, view in enumerate(("left", "center", "right")):
            Image.new("RGB", size, (index * 5, 100 * number, 50)).save(
                images / f"{view}_{stamp(index)}.jpg", quality=95
            )
    lines = [line(index) for index in range(n)]
    lines = lines[1::2] + lines[::2]  # in no order
    (root / "driving_log.csv").write_text("\r\n".join([HEADER] * header + lines) + "\r\n")
    return root


def load(root: Path, **more: int) -> Source:
    return udacity.load(DataSettings(source="udacity", path=root, **more), 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("header", [True, False])
def test_windows_paths_in_no_order(tmp_path: Path, header: bool) -> None:
    pool = load(record(tmp_path, header=header)).train
    assert pool.schema.views == ("front_left", "front", "front_right")
    assert pool.frames.shape == (12, 3, 16, 32, 3)
    assert np.allclose(pool.targets["steering"], np.arange(12) / 1000)
    assert pool.targets["speed_mph"][0] == pytest.approx(30.19)
    assert (np.diff(pool.order) == 100).all()
    # The picture belongs to its line, and left, centre, right to their views.
    shown = pool.frames.mean((2, 3))
    assert np.allclose(shown[:, 1, 0], np.arange(12) * 5, atol=6)
    assert np.allclose(shown[3, :, 1], [0, 100, 200], atol=6)
    assert pool.vehicle is None
    assert len(set(pool.group.tolist())) == 1


def test_pictures_are_cropped_then_resized(tmp_path: Path) -> None:
    pool = load(record(tmp_path), width=8, height=4).train
    assert pool.frames.shape == (12, 3, 4, 8, 3)


def test_drives_end_at_pauses(tmp_path: Path) -> None:
    record(tmp_path, 40)
    log = tmp_path / "driving_log.csv"
    log.write_text("\n".join(line(index) for index in range(40) if not 10 <= index < 35))
    assert load(tmp_path).train.group.tolist() == [0] * 10 + [1] * 5


def test_a_folder_for_each_driver(tmp_path: Path) -> None:
    for name in ("anna", "ben"):
        record(tmp_path / name, 5)
    pool = load(tmp_path).train
    assert pool.vehicle is not None
    assert pool.vehicle.tolist() == [0] * 5 + [1] * 5
    assert pool.domain == {0: "anna", 1: "ben"}
    assert len(set(pool.group[:5]) & set(pool.group[5:])) == 0


def test_lines_without_their_pictures_are_left_out(tmp_path: Path) -> None:
    record(tmp_path)
    (tmp_path / "IMG" / f"left_{stamp(4)}.jpg").unlink()
    pool = load(tmp_path).train
    assert np.allclose(pool.targets["steering"] * 1000, [i for i in range(12) if i != 4])


def test_names_without_time_keep_the_order_of_the_log(tmp_path: Path) -> None:
    images = tmp_path / "IMG"
    images.mkdir()
    rows = []
    for index in (2, 0, 1):
        for view in "clr":
            Image.new("RGB", (8, 8)).save(images / f"{view}{index}.png")
        rows.append(f"IMG/c{index}.png,IMG/l{index}.png,IMG/r{index}.png,{index / 10}")
    (tmp_path / "driving_log.csv").write_text("\n".join(rows))
    pool = load(tmp_path).train
    assert np.allclose(pool.targets["steering"], [0.2, 0.0, 0.1])
    assert list(pool.targets) == ["steering"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (line(0, "nan"), "line 1: steering is 'nan'; it must be -1 to 1"),
        (line(0, "-25"), "line 1: steering is '-25'"),
        (line(0, "x"), "line 1: steering is 'x'"),
        (line(0).replace("30.19", "inf"), "line 1: speed is 'inf'; it must be a finite number"),
        (line(0) + ", 3", "line 1 has 8 fields"),
        (HEADER + "\n" + line(0) + ", 3", "line 2 has 8 fields, not 7"),
        ("center,left,steering\na,b,0", "has no column right"),
        ("center,left,right,steering,steering\n", "names a column twice"),
        ("", "has no lines"),
        (HEADER, "has no lines"),
        (line(0).replace(".jpg", ".exe"), "it must be a picture such as a.jpg"),
        (line(999), "1 of 1 lines lack a picture in IMG, such as 'left_"),
        ("\n".join(map(line, (0, 999, 998))), "2 of 3 lines lack a picture"),
        ('"' + line(0), "is not a csv file"),
    ],
)
def test_a_damaged_log_is_refused(tmp_path: Path, text: str, words: str) -> None:
    record(tmp_path)
    (tmp_path / "driving_log.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert words in str(caught.value)
    assert "driving_log.csv" in str(caught.value)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no driving_log.csv"):
        load(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        load(tmp_path / "gone")
    (tmp_path / "driving_log.csv").write_text(line(0))
    with pytest.raises(DataError, match="has no folder IMG"):
        load(tmp_path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    record(tmp_path)
    (tmp_path / "driving_log.csv").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(DataError, match="is not a csv file"):
        load(tmp_path)


def test_a_huge_log_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path)
    monkeypatch.setattr(udacity, "MAX_CSV_BYTES", 100)
    with pytest.raises(DataError, match="no driving log"):
        load(tmp_path)


def test_a_broken_picture_names_its_file(tmp_path: Path) -> None:
    record(tmp_path)
    broken = tmp_path / "IMG" / f"right_{stamp(2)}.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(DataError, match=f"{broken.name} is not a readable picture"):
        load(tmp_path)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    root = record(tmp_path / "drive")
    secret = tmp_path / "secret.jpg"
    Image.new("RGB", (32, 16)).save(secret)
    name = root / "IMG" / f"center_{stamp(0)}.jpg"
    name.unlink()
    name.symlink_to(secret)
    with pytest.raises(DataError, match="is a link out of"):
        load(root)
