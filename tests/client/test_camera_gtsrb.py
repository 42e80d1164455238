"""The official GTSRB folders, small ones made here, whole and damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from carpool.client.camera import gtsrb, pictures
from carpool.client.camera.settings import DataSettings
from carpool.client.camera.signs import CLASSES
from carpool.privacy.errors import DataError

HEADER = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2"


def picture(file: Path, colour: int, size: tuple[int, int] = (40, 30)) -> None:
    Image.new("RGB", size, (colour, 10, 20)).save(file)


def line(name: str, label: int) -> str:
    return f"{name};40;30;5;5;35;25;{label}"


def tree(root: Path, images: str = "Final_Training/Images", test: str | None = "Final_Test/Images") -> Path:
    for label in (0, 7):
        folder = root / images / f"{label:05d}"
        folder.mkdir(parents=True)
        names = [f"{track:05d}_{frame:05d}.ppm" for track in (0, 1) for frame in (2, 0, 1)]
        for index, name in enumerate(names):
            picture(folder / name, 20 * label + index)
        listing = [HEADER + ";ClassId", *(line(name, label) for name in names)]
        (folder / f"GT-{label:05d}.csv").write_text("\r\n".join(listing) + "\r\n")
    if test is not None:
        (root / test).mkdir(parents=True)
        for index in range(3):
            picture(root / test / f"{index:05d}.ppm", 200 + index)
        listing = [HEADER + ";ClassId", *(line(f"{index:05d}.ppm", 42 - index) for index in range(3))]
        (root / test / "GT-final_test.csv").write_text("\n".join(listing))
    return root


def settings(path: Path | None, **more: int) -> DataSettings:
    return DataSettings(source="gtsrb", path=path, **more)  # type: ignore[arg-type]


def test_the_official_layout(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    source = gtsrb.load(settings(tree(tmp_path)), 4, lambda done, total: seen.append((done, total)))
    pool, test = source.train, source.test
    assert pool.frames.shape == (12, 1, 32, 32, 3)
    assert pool.schema.views == ("front",)
    assert pool.schema.targets[0].classes == CLASSES
    assert pool.targets["sign"].tolist() == [0] * 6 + [7] * 6
    assert pool.group.tolist() == [0, 0, 0, 1, 1, 1, 700_000, 700_000, 700_000, 700_001, 700_001, 700_001]
    assert pool.order.tolist() == [2, 0, 1] * 4
    assert pool.vehicle is None
    assert pool.frames[7, 0, 0, 0].tolist() == [141, 10, 20]
    assert test is not None
    assert test.targets["sign"].tolist() == [42, 41, 40]
    assert test.frames[2, 0, 31, 31, 0] == 202
    assert len(np.unique(test.group)) == 3
    assert seen[-1] == (15, 15)


@pytest.mark.parametrize("images", ["GTSRB/Final_Training/Images", "GTSRB/Training", "Training", "."])
def test_other_roots_without_a_test_set(tmp_path: Path, images: str) -> None:
    source = gtsrb.load(settings(tree(tmp_path, images, None)), 1)
    assert len(source.train) == 12
    assert source.test is None


def test_the_images_folder_itself_finds_its_test_set(tmp_path: Path) -> None:
    tree(tmp_path)
    source = gtsrb.load(settings(tmp_path / "Final_Training/Images"), 1)
    assert source.test is not None
    assert len(source.test) == 3


def test_the_labels_may_lie_beside_the_test_folder(tmp_path: Path) -> None:
    tree(tmp_path)
    shutil.move(tmp_path / "Final_Test/Images/GT-final_test.csv", tmp_path / "GT-final_test.csv")
    source = gtsrb.load(settings(tmp_path), 1)
    assert source.test is not None


def test_size_from_the_settings(tmp_path: Path) -> None:
    pool = gtsrb.load(settings(tree(tmp_path), width=40, height=30), 1).train
    assert pool.frames.shape[2:4] == (30, 40)
    assert pool.schema.width == 40


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


CLASS = "Final_Training/Images/00007/GT-00007.csv"
TEST = "Final_Test/Images/GT-final_test.csv"


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        (CLASS, ";ClassId", "", "GT-00007.csv has no column ClassId; .*GT-final_test.csv"),
        (CLASS, "Roi.X1", "X1", "has no column Roi.X1"),
        (CLASS, "35;25;7", "35;25;8", "line 2 has ClassId 8; here it must be 00007"),
        (CLASS, "35;25;7", "35;25;43", "line 2 has ClassId '43'; it must be 0..42"),
        (CLASS, "35;25;7", "35;25;-1", "ClassId '-1'"),
        (CLASS, "35;25;7", "35;25;²", "ClassId '²'"),
        (CLASS, "35;25;7", "35;25", "line 2 has 7 fields, not 8"),
        (CLASS, "00000_00002.ppm", "../x.ppm", "line 2 names '../x.ppm'"),
        (CLASS, "00000_00002.ppm", "00009_00002.ppm", "00009_00002.ppm is missing"),
        (TEST, "00000.ppm", "../../etc.ppm", "names '../../etc.ppm'"),
        (TEST, "5;25;42", "5;25;99", "line 2 has ClassId '99'"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, file: str, old: str, new: str, words: str) -> None:
    change(tree(tmp_path) / file, old, new)
    with pytest.raises(DataError, match=words) as caught:
        gtsrb.load(settings(tmp_path), 1)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_an_unlabelled_test_set_names_the_file_with_the_labels(tmp_path: Path) -> None:
    folder = tree(tmp_path) / "Final_Test/Images"
    shutil.move(folder / "GT-final_test.csv", folder / "GT-final_test.test.csv")
    with pytest.raises(DataError, match=r"no GT-final_test\.csv.*GTSRB_Final_Test_GT\.zip"):
        gtsrb.load(settings(tmp_path), 1)
    (folder / "GT-final_test.csv").write_text(HEADER + "\n00000.ppm;40;30;5;5;35;25\n")
    with pytest.raises(DataError, match=r"no column ClassId; the file with the labels is GT-final_test\.csv"):
        gtsrb.load(settings(tmp_path), 1)


def test_missing_and_empty_places(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.path is empty"):
        gtsrb.load(settings(None), 1)
    with pytest.raises(DataError, match="nowhere is not a folder"):
        gtsrb.load(settings(tmp_path / "nowhere"), 1)
    with pytest.raises(DataError, match="no class folders"):
        gtsrb.load(settings(tmp_path), 1)
    (tmp_path / "00000").mkdir()
    with pytest.raises(DataError, match=r"GT-00000\.csv cannot be read: no such file"):
        gtsrb.load(settings(tmp_path), 1)
    (tmp_path / "00000/GT-00000.csv").write_text(HEADER + ";ClassId\n")
    with pytest.raises(DataError, match="list no pictures"):
        gtsrb.load(settings(tmp_path), 1)
    (tmp_path / "00000/GT-00000.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is not a csv file"):
        gtsrb.load(settings(tmp_path), 1)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a picture",
        b"P6\n40 30\n255\n" + b"\0" * 100,
        b"P6\n-4 30\n255\n",
        b"P6\n40 30\n70000\n",
        b"GIF89a\x01\x00\x01\x00",
    ],
)
def test_a_broken_picture_is_named(tmp_path: Path, content: bytes) -> None:
    file = tree(tmp_path) / "Final_Training/Images/00000/00001_00000.ppm"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"00001_00000\.ppm is not a readable picture"):
        gtsrb.load(settings(tmp_path), 1)


@pytest.mark.parametrize("side", [8_000, 12_000, 60_000])
def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    file = tree(tmp_path) / "Final_Training/Images/00000/00001_00000.ppm"
    file.write_bytes(b"P6\n%d %d\n255\n" % (side, side))
    with pytest.raises(DataError, match=r"00001_00000\.ppm is .*(limit|exceeds)"):
        gtsrb.load(settings(tmp_path), 1)


def test_too_large_a_target_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"GiB.*data\.width"):
        gtsrb.load(settings(tree(tmp_path), width=40_000, height=40_000), 1)
    assert pictures.MAX_BYTES < 2**40
