import dataclasses
import json
import os

import numpy as np
import pytest
from PIL import Image

from carpool.client.camera.pipeline import Pipeline
from carpool.client.camera.samples import Schema, Target
from carpool.experiments import cli, pictures_in, predictions, run
from carpool.experiments.load import load_experiment
from carpool.experiments.pictures_in import read_pictures
from carpool.privacy.errors import DataError

TARGET = Target("sign", "class", ("none", "red", "blue"))
ONE = Schema(("front",), 16, 20, (TARGET,))
TWO = Schema(("front", "rear"), 16, 20, (TARGET,))
COLORS = np.array([[90, 90, 90], [230, 20, 20], [20, 30, 230]], np.uint8)


def rng(seed=1):
    return np.random.Generator(np.random.Philox(seed))


def picture(path, color=(0, 0, 0), size=(40, 32), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, tuple(int(c) for c in color)).save(path, **options)
    return path


def scenes(n):
    """Grey noise with a red or blue square, and which."""
    label = np.arange(n) % 3
    frames = rng().integers(70, 110, (n, 1, 16, 20, 3), np.uint8)
    for row, one in enumerate(label):
        if one:
            frames[row, 0, 4:12, 6:14] = COLORS[one]
    return frames, label


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that has learned red from blue."""
    home = tmp_path_factory.mktemp("runs")
    frames, label = scenes(96)
    schema = {
        "views": ["front"],
        "targets": [{"name": "sign", "kind": "class", "classes": list(TARGET.classes)}],
    }
    np.savez(
        home / "d.npz",
        frames=frames,
        sign=label,
        vehicle=np.repeat(np.arange(4), 24),
        drive=np.tile(np.repeat(np.arange(4), 6), 4),
        schema=np.array(json.dumps(schema)),
    )
    (home / "e.toml").write_text(
        "[experiment]\nname = 'tiny'\nrounds = 5\n[fleet]\nvehicles = 4\n[selection]\ncohort = 2\n"
        f"quorum = 0.5\n[data]\nsource = 'npz'\npath = '{home / 'd.npz'}'\n"
        "[model]\noptions = { channels = 8, hidden = 16 }\n[train]\nlr = 0.1\nsteps = 10\n"
    )
    folder, result = run.start(load_experiment(home / "e.toml"), out=home / "tiny")
    assert result["final"]["accuracy"] > 0.9
    return folder


@pytest.mark.slow
def test_predict_reads_a_folder_and_draws(finished, tmp_path, capsys):
    frames, label = scenes(6)
    for row in range(6):
        Image.fromarray(frames[row, 0]).resize((60, 48)).save(tmp_path / f"p{row}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    arguments = ["predict", str(finished), str(tmp_path), "--out", str(tmp_path / "seen"), "--json"]
    assert cli.run(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    found = document["predictions"]
    assert [one["picture"] for one in found] == [f"p{row}.png" for row in range(6)]
    assert [one["targets"]["sign"]["value"] for one in found] == [TARGET.classes[i] for i in label]
    for one in found:
        answer = one["targets"]["sign"]
        shares = [entry["probability"] for entry in answer["top"]]
        assert len(shares) == 3
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert answer["top"][0]["class"] == answer["value"]
        assert answer["probability"] == pytest.approx(shares[0], rel=1e-5)
    with Image.open(document["picture"]) as drawn:
        pixels = np.asarray(drawn.convert("RGB")).astype(int)
    orange = (pixels[:, :, 0] > 200) & (abs(pixels[:, :, 1] - 110) < 30) & (pixels[:, :, 2] < 40)
    assert orange.sum() > 100
    red = (pixels == COLORS[1]).all(2)
    assert red.sum() > 100


@pytest.mark.slow
def test_predict_for_people_and_its_faults(finished, tmp_path, capsys):
    good = picture(tmp_path / "good.png", COLORS[0])
    assert cli.run(["predict", str(finished), str(good)]) == 0
    assert "good.png" in capsys.readouterr().out
    (tmp_path / "bad.png").write_bytes(good.read_bytes()[:50])
    assert cli.run(["predict", str(finished), str(good), str(tmp_path / "bad.png"), "--json"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert "bad.png is not a readable picture" in told.err
    assert told.err.count("\n") == 1
    assert cli.run(["predict", str(tmp_path), str(good)]) == 2
    assert "not a run's folder" in capsys.readouterr().err


def test_one_view_files_and_folders(tmp_path):
    picture(tmp_path / "b.png", (9, 9, 9))
    picture(tmp_path / "a.JPG", (200, 200, 200))
    picture(tmp_path / ".hidden.png")
    extra = picture(tmp_path / "sub" / "c.ppm", (1, 2, 3))
    names, frames = read_pictures([tmp_path, extra], ONE)
    assert names == ["a.JPG", "b.png", "c.ppm"]
    assert frames.shape == (3, 1, 16, 20, 3)
    assert frames.dtype == np.uint8
    assert (frames[1] == 9).all()
    assert (frames[2] == [1, 2, 3]).all()


def test_several_views_by_name(tmp_path):
    for drive, level in (("d1", 10), ("d2", 20)):
        picture(tmp_path / drive / "rear.png", (level + 1,) * 3)
        picture(tmp_path / drive / "front.jpg", (level,) * 3, quality=100)
        picture(tmp_path / drive / "left.png", (250,) * 3)
    for names, frames in (
        read_pictures([tmp_path], TWO),
        read_pictures([tmp_path / "d1", tmp_path / "d2"], TWO),
    ):
        assert names == ["d1", "d2"]
        assert frames[:, :, 0, 0, 0].tolist() == [[10, 11], [20, 21]]


def test_faults_name_the_file_and_the_fix(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    front = picture(tmp_path / "half" / "front.png")
    (tmp_path / "text.png").write_text("hello")
    os.mkfifo(tmp_path / "pipe.png")
    faults = [
        (empty, ONE, "empty has no pictures"),
        (tmp_path / "gone.png", ONE, "gone.png is missing"),
        (tmp_path / "text.png", ONE, "text.png is not a readable picture"),
        (tmp_path / "pipe.png", ONE, "pipe.png is not a file"),
        (
            front,
            TWO,
            "front.png is one picture, and this model looks at 2; give a folder with front",
        ),
        (front.parent, TWO, "half has no rear.png"),
        (empty, TWO, "it needs front.png, rear.png"),
        (tmp_path / "gone", TWO, "there is no"),
    ]
    for path, schema, sentence in faults:
        with pytest.raises(DataError, match=sentence):
            read_pictures([path], schema)
    picture(tmp_path / "half" / "rear.png")
    picture(tmp_path / "half" / "rear.jpg")
    with pytest.raises(DataError, match=r"rear.jpg and rear.png, two pictures of one view"):
        read_pictures([front.parent], TWO)


def test_sizes_are_looked_at_before_pixels(tmp_path, monkeypatch):
    huge = tmp_path / "huge.ppm"
    huge.write_bytes(b"P6 60000 60000 255\n" + b"x" * 100)
    with pytest.raises(DataError, match=r"huge.ppm"):
        read_pictures([huge], ONE)
    small = picture(tmp_path / "small.png")
    monkeypatch.setattr(pictures_in, "MAX_FILE", 10)
    with pytest.raises(DataError, match=r"small.png has more than"):
        read_pictures([small], ONE)
    monkeypatch.setattr(pictures_in, "MAX_SAMPLES", 1)
    with pytest.raises(DataError, match="2 samples are too many"):
        read_pictures([small, small], ONE)


def test_a_phone_picture_is_turned_upright(tmp_path):
    pixels = np.zeros((20, 16, 3), np.uint8)
    pixels[:, :8] = 255  # left half white
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to look at it
    Image.fromarray(pixels).save(tmp_path / "phone.png", exif=exif)
    _, frames = read_pictures([tmp_path / "phone.png"], Schema(("front",), 16, 20, (TARGET,)))
    assert (frames[0, 0, :8] == 255).all()
    assert (frames[0, 0, 8:] == 0).all()


def test_overlay_is_orange_where_it_matters_and_grey_elsewhere():
    frame = np.full((4, 4, 3), 100, np.uint8)
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0], heat[3, 3] = 2.0, -5.0
    drawn = predictions.overlay(frame, heat, 2.0)
    assert (drawn[1:] == 75).all()
    assert drawn[0, 0].tolist() == [228, 115, 11]
    assert (predictions.overlay(frame, -heat * 0, 0.0) == 75).all()


def test_pictures_are_cropped_like_those_in_training(tmp_path):
    sky = np.zeros((40, 20, 3), np.uint8)
    sky[:20] = 255
    Image.fromarray(sky).save(tmp_path / "road.png")
    whole, cut = ONE, dataclasses.replace(ONE, pipeline=Pipeline(crop_top=0.5))
    assert read_pictures([tmp_path / "road.png"], whole)[1].max() == 255
    assert read_pictures([tmp_path / "road.png"], cut)[1].max() == 0
