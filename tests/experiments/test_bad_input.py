"""Whatever is wrong: one sentence on standard error, the right exit code, nothing half-written."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from carpool.experiments.cli import run

pytestmark = pytest.mark.slow
Write = Callable[..., Path]
HEADER = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n"


@pytest.fixture
def gtsrb(tmp_path: Path) -> Path:
    """The official layout with two classes, three tracks each, four frames a track, and a test set."""
    rng = np.random.default_rng(0)
    root = tmp_path / "gtsrb"
    for label in range(2):
        folder = root / "Final_Training" / "Images" / f"{label:05d}"
        folder.mkdir(parents=True)
        lines = HEADER
        for track in range(3):
            for frame in range(4):
                name = f"{track:05d}_{frame:05d}.ppm"
                Image.fromarray(rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(folder / name)
                lines += f"{name};20;20;1;1;18;18;{label}\n"
        (folder / f"GT-{label:05d}.csv").write_text(lines)
    folder = root / "Final_Test" / "Images"
    folder.mkdir(parents=True)
    lines = HEADER
    for number in range(4):
        Image.fromarray(rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(folder / f"{number:05d}.ppm")
        lines += f"{number:05d}.ppm;20;20;1;1;18;18;{number % 2}\n"
    (folder / "GT-final_test.csv").write_text(lines)
    return root


def experiment(tmp_path: Path, data: Path, more: str = "", vehicles: int = 3) -> Path:
    file = tmp_path / "bad.toml"
    file.write_text(
        f'[experiment]\nname = "bad"\nrounds = 2\n[fleet]\nvehicles = {vehicles}\n'
        f'[data]\nsource = "gtsrb"\npath = "{data}"\nwidth = 8\nheight = 8\nholdout = 0.0\n'
        '[model]\nname = "logistic"\n[selection]\ncohort = 2\nover_select = 0.5\nquorum = 0.5\n' + more
    )
    return file


def fails(capsys: pytest.CaptureFixture[str], code: int, words: str, out: Path, *args: str | Path) -> None:
    """The command ends with `code` and one sentence that has `words`; `out` does not exist."""
    assert run([*map(str, args), "--out", str(out)]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    sentences = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1, printed.err
    assert words in sentences[0]
    assert "Traceback" not in printed.err
    assert not out.exists()


def test_the_tree_without_a_fault_runs(gtsrb: Path, tmp_path: Path) -> None:
    file = experiment(tmp_path, gtsrb)
    assert run(["run", str(file), "--json", "--out", str(tmp_path / "out")]) == 0


def test_missing_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = experiment(tmp_path, tmp_path / "nowhere")
    fails(capsys, 2, "nowhere", tmp_path / "out", "run", file)


def test_corrupt_picture(gtsrb: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = gtsrb / "Final_Training/Images/00001/00002_00001.ppm"
    picture.write_bytes(picture.read_bytes()[:100])
    fails(capsys, 2, "00002_00001.ppm", tmp_path / "out", "run", experiment(tmp_path, gtsrb))


def test_wrong_column(gtsrb: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = gtsrb / "Final_Training/Images/00000/GT-00000.csv"
    table.write_text(table.read_text().replace("ClassId", "Class"))
    fails(capsys, 2, "ClassId", tmp_path / "out", "run", experiment(tmp_path, gtsrb))


def test_label_out_of_range(gtsrb: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = gtsrb / "Final_Training/Images/00000/GT-00000.csv"
    table.write_text(table.read_text().replace(";18;18;0\n", ";18;18;43\n", 1))
    fails(capsys, 2, "43", tmp_path / "out", "run", experiment(tmp_path, gtsrb))


def test_more_vehicles_than_tracks(gtsrb: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fails(capsys, 2, "7", tmp_path / "out", "run", experiment(tmp_path, gtsrb, vehicles=7))


def test_more_vehicles_than_samples(gtsrb: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = experiment(tmp_path, gtsrb, vehicles=25)
    fails(capsys, 2, "25", tmp_path / "out", "run", file, "--set", "data.split=iid")


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        ("strategy.name=fedavgn", "fedavg"),
        ("strategy.options.server_lrr=1", "server_lr"),
        ("strategy.options.server_lr=-1", "-1"),
        ("train.learning_rate=1", "train.lr"),
        ("experiment.rounds=0", "0"),
        ("privacy.channel=secagg", "n_min is 12"),
        ("experiment.engine=superlink", "not in this version"),
        ("model.options.hidden=3", "hidden"),
        ("selection.cohort=30", "30"),
    ],
)
def test_unknown_names_and_values(
    gtsrb: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], sets: str, words: str
) -> None:
    fails(capsys, 2, words, tmp_path / "out", "run", experiment(tmp_path, gtsrb), "--set", sets)


def test_not_toml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.toml"
    file.write_text("experiment:\n  name: yaml\n")
    fails(capsys, 2, "bad.toml", tmp_path / "out", "run", file)


def test_binary_for_toml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(bytes(range(256)))
    fails(capsys, 2, "bad.toml", tmp_path / "out", "run", file)


def test_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fails(capsys, 2, "none.toml", tmp_path / "out", "run", tmp_path / "none.toml")


def test_read_only_folder(
    gtsrb: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Permission bits do not bind root, so the file system's refusal is played here.
    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    file = experiment(tmp_path, gtsrb)
    monkeypatch.setattr(Path, "mkdir", refuse)
    fails(capsys, 1, "read-only file system", tmp_path / "out", "run", file)


def test_out_is_below_a_file(gtsrb: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = experiment(tmp_path, gtsrb)
    fails(capsys, 1, "not a directory", file / "out", "run", file)


def test_disk_full_in_the_first_write(
    gtsrb: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = experiment(tmp_path, gtsrb)
    monkeypatch.setattr(os, "fsync", full)
    fails(capsys, 1, "no space left on device", tmp_path / "out", "run", file)


def test_nan_in_training(tiny: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["run", str(tiny()), "--set", "train.lr=1e38", "--out", str(tmp_path / "out")]
    assert run(args) == 1
    printed = capsys.readouterr()
    assert "lower train.lr" in printed.err
    assert not (tmp_path / "out/result.json").exists()
    assert not (tmp_path / "out/model.safetensors").exists()


def test_resume_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "--resume", str(tmp_path)]) == 2
    assert "is not a run's folder" in capsys.readouterr().err


def test_json_is_the_only_thing_on_standard_output(
    tiny: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    assert run(["run", str(tiny()), "--json", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["run"] == str(tmp_path / "out")
    assert document["final"]["accuracy"] > 0.8
    assert printed.err == ""
