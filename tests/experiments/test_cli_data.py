import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from carpool.experiments import cli
from carpool.experiments.cli_data import samples, spread, target_words

FRAMES, VEHICLES = 60, 3


@pytest.fixture(autouse=True)
def experiment(tmp_path, monkeypatch):
    """60 noise pictures on 12 tracks, and an experiment of 3 vehicles that reads them."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.Generator(np.random.Philox(1))
    np.savez(
        "d.npz",
        frames=rng.integers(0, 256, (FRAMES, 8, 10, 3), np.uint8),
        label=np.arange(FRAMES) % 4,
        track=np.arange(FRAMES) // 5,
    )
    Path("e.toml").write_text(
        f"[experiment]\nname = 'x'\n[fleet]\nvehicles = {VEHICLES}\n[selection]\ncohort = 2\n"
        "[data]\nsource = 'npz'\npath = 'd.npz'\n"
    )


def test_info_json_is_the_whole_description(capsys):
    assert cli.run(["data", "info", "e.toml", "--json"]) == 0
    told = capsys.readouterr()
    document = json.loads(told.out)
    assert told.err == ""
    assert document["schema"]["width"] == 10
    assert document["fleet"]["vehicles"] == len(document["vehicles"]) == VEHICLES
    assert document["fleet"]["samples"] + document["fleet"]["validation_samples"] == FRAMES


def test_info_for_people(capsys):
    assert cli.run(["data", "info", "e.toml", "--set", "data.split=iid"]) == 0
    told = capsys.readouterr().out
    assert "views    front at 10x8" in told
    assert "sign (43 classes)" in told
    assert "4 of 43" in told
    assert "more; --all lists them" not in told
    many = ["--set", "fleet.vehicles=30", "--set", "data.split=iid"]
    assert cli.run(["data", "info", "e.toml", *many]) == 0
    assert "and 10 more; --all lists them" in capsys.readouterr().out
    assert cli.run(["data", "info", "e.toml", *many, "--all"]) == 0
    assert "more; --all" not in capsys.readouterr().out


def test_bad_data_is_one_sentence_and_2(capsys):
    Path("d.npz").write_bytes(b"no archive")
    assert cli.run(["data", "info", "e.toml"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert "d.npz" in told.err
    assert told.err.count("\n") == 1


def test_preview_writes_a_picture(capsys):
    assert cli.run(["data", "preview", "e.toml", "--out", "m.png", "--frames", "4", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    with Image.open("m.png") as picture:
        assert picture.format == "PNG"
        assert picture.size == (document["width"], document["height"])
    assert document["frames"] == 4
    assert document["width"] >= 30
    assert cli.run(["data", "preview", "e.toml", "--out", "one.png", "--vehicle", "2"]) == 0
    assert "wrote one.png: 12 samples" in capsys.readouterr().out
    assert sorted(path.name for path in Path().iterdir()) == ["d.npz", "e.toml", "m.png", "one.png"]


def test_preview_refuses_before_it_reads(capsys):
    Path("d.npz").unlink()
    assert cli.run(["data", "preview", "e.toml", "--out", "m.jpg"]) == 2
    assert capsys.readouterr().err == "error: --out is m.jpg; it must end in .png\n"


def test_preview_of_a_vehicle_that_is_not_there(capsys):
    assert cli.run(["data", "preview", "e.toml", "--vehicle", "3"]) == 2
    assert capsys.readouterr().err == "error: --vehicle is 3; it must be 0 to 2\n"


class Fleet:
    """Vehicle 1 holds nothing."""

    vehicles = 3

    def training(self, vehicle):
        rows = np.arange(vehicle * 10, vehicle * 10 + (0 if vehicle == 1 else 10))
        return type("Shard", (), {"rows": rows, "__len__": lambda self: len(self.rows)})()


def test_samples_are_spread_over_the_vehicles_that_hold_any():
    chosen = samples(Fleet(), 4, -1)
    assert [vehicle for vehicle, _ in chosen] == [0, 0, 2, 2]
    assert len(set(chosen)) == 4
    assert all(vehicle * 10 <= row < vehicle * 10 + 10 for vehicle, row in chosen)
    assert samples(Fleet(), 4, 1) == []
    assert samples(Fleet(), 2, 2) == [(2, 20), (2, 25)]
    assert list(spread(5, 9)) == [0, 1, 2, 3, 4]


def test_target_words():
    target = {"name": "t", "classes": ["a", "b"], "width": 8, "unit": "1/m"}
    assert target_words(target | {"kind": "class"}) == "t (2 classes)"
    assert target_words(target | {"kind": "flags"}) == "t (8 flags)"
    assert target_words(target | {"kind": "value"}) == "t (1/m)"
