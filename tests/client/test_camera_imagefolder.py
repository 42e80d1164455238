"""Class folders of pictures, made here."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from carpool.client.camera import film, imagefolder
from carpool.client.camera.pipeline import Pipeline
from carpool.client.camera.settings import DataSettings, Source
from carpool.privacy.errors import DataError


def picture(file: Path, colour: int = 0, size: tuple[int, int] = (12, 10)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, 0, 0)).save(file)


def load(root: Path | None, **more: object) -> Source:
    return imagefolder.load(DataSettings(source="imagefolder", path=root, **more), 2)  # type: ignore[arg-type]


def test_classes_right_below_the_root(tmp_path: Path) -> None:
    for name in ("stop", "go"):
        for index in (10, 9, 1):
            picture(tmp_path / name / f"{index}.png", index)
    (tmp_path / "README.md").write_text("no picture")
    (tmp_path / "empty").mkdir()
    (tmp_path / "stop" / ".DS_Store").write_bytes(b"\0")
    source = load(tmp_path)
    assert source.test is None
    pool = source.train
    assert pool.schema.views == ("front",)
    assert pool.schema.targets[0].classes == ("go", "stop")
    assert pool.targets["label"].tolist() == [0, 0, 0, 1, 1, 1]
    assert pool.frames[:, 0, 0, 0, 0].tolist() == [1, 9, 10, 1, 9, 10]  # 10 after 9
    assert pool.group.tolist() == list(range(6))
    assert pool.vehicle is None


def test_deeper_folders_are_groups(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for drive in ("day 1/x", "day 1/y", "day 2"):
            picture(tmp_path / name / drive / "0.png")
            picture(tmp_path / name / drive / "1.JPG")
    pool = load(tmp_path).train
    assert pool.group.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


@pytest.mark.parametrize(("training", "testing"), [("train", "test"), ("Training", "val"), ("train", None)])
def test_train_and_test_folders(tmp_path: Path, training: str, testing: str | None) -> None:
    for label, name in enumerate(("a", "b")):
        picture(tmp_path / training / name / "0.png", label + 1)
    if testing is not None:
        picture(tmp_path / testing / "b" / "7.png", 9)
    source = load(tmp_path)
    assert source.train.targets["label"].tolist() == [0, 1]
    assert source.train.frames[:, 0, 0, 0, 0].tolist() == [1, 2]
    if testing is None:
        assert source.test is None
    else:
        assert source.test is not None
        assert source.test.targets["label"].tolist() == [1]
        assert source.test.frames[0, 0, 0, 0, 0] == 9
        assert source.test.schema == source.train.schema


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("bus", "train"):
        picture(tmp_path / name / "0.png")
    assert load(tmp_path).train.schema.targets[0].classes == ("bus", "train")


def test_the_size_is_that_of_the_first_or_given(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "0.png", size=(20, 10))
    picture(tmp_path / "b" / "0.png", size=(10, 10))
    with pytest.raises(DataError, match="0.png is 10x10, and the first picture is 20x10; set data.width"):
        load(tmp_path)
    assert load(tmp_path, width=6, height=4).train.frames.shape == (2, 1, 4, 6, 3)
    half = Pipeline(crop_left=0.5)
    assert load(tmp_path, width=5, height=10, pipeline=half).train.frames.shape == (2, 1, 10, 5, 3)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["a/0.png"], "has 1 class folders with pictures"),
        ([], "has 0 class folders with pictures"),
        (["a/0.png", "b/0.png", "loose.png"], "loose.png lies in no class folder"),
        (["train/a/0.png", "train/b/0.png", "test/c/0.png"], "test has the class 'c', which train lacks"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path: Path, files: list[str], words: str) -> None:
    for name in files:
        picture(tmp_path / name)
    with pytest.raises(DataError, match=words):
        load(tmp_path)


def test_no_path_and_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="data.path is empty; the source imagefolder needs"):
        load(None)
    with pytest.raises(DataError, match="is not a folder"):
        load(tmp_path / "gone")


def two(root: Path) -> Path:
    for name in ("a", "b"):
        picture(root / name / "0.png")
    return root


def test_hostile_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = two(tmp_path)
    (root / "a" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
    with pytest.raises(DataError, match="1.png is not a readable picture"):
        load(root)
    monkeypatch.setattr(film, "MAX_FILE", 10)
    with pytest.raises(DataError, match="0.png has more than"):
        load(root)
    monkeypatch.setattr(film, "MAX_FILES", 1)
    with pytest.raises(DataError, match="has more than 1 files"):
        load(root)


def test_links_stay_inside(tmp_path: Path) -> None:
    root = two(tmp_path / "data")
    picture(tmp_path / "outside" / "0.png")
    (root / "a" / "inside.png").symlink_to(root / "a" / "0.png")
    (root / "a" / "gone.png").symlink_to(root / "a" / "nothing.png")
    assert len(load(root).train) == 3
    (root / "c").symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match="c is a link out of"):
        load(root)
    (root / "c").unlink()
    (root / "loop").symlink_to(root)
    assert len(load(root).train) == 3
