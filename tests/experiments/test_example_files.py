"""The experiments that come with Carpool: every file, and every point of every sweep, would start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from carpool.client.camera.samples import Pool
from carpool.client.camera.settings import DataSettings
from carpool.experiments.config import Experiment
from carpool.experiments.load import has_sweep, load_experiment, load_sweep
from carpool.experiments.night_shift import DAY, KINDS, SIDE, pictures, source

FOLDER = Path(__file__).parents[2] / "experiments"
FILES = sorted(path for path in FOLDER.glob("*.toml") if path.name != "template.toml")
DATA = {"gtsrb.toml": "", "gtsrb_skewed.toml": "", "steering.toml": "frames.npz"}
"""What must be given, since it is not in the repository."""


def test_the_files_are_found() -> None:
    assert {"quickstart.toml", "leaving.toml", "canon.toml", "byzantine.toml"} <= {f.name for f in FILES}
    assert set(DATA) <= {file.name for file in FILES}


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_file_and_every_point_of_its_sweep_is_valid(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(FOLDER.parent)
    sets = []
    if file.name in DATA:
        data = tmp_path / DATA[file.name]
        if DATA[file.name]:
            np.savez(data, frames=np.zeros((1, 1, 8, 8, 3), np.uint8))
        sets = [f"data.path={data}"]
    if has_sweep(file, sets):
        points = [experiment for _, experiment in load_sweep(file, sets)]
        assert len(points) > 1
    else:
        points = [load_experiment(file, sets)]
    assert all(isinstance(one, Experiment) for one in points)
    assert {one.experiment.name for one in points} == {points[0].experiment.name}
    first = file.read_text().splitlines()[0]
    assert first.startswith("# "), "a file says first what it is"


def test_the_quickstart_is_masked_and_leaving_speaks_once() -> None:
    quick, leaving = (load_experiment(FOLDER / f"{name}.toml") for name in ("quickstart", "leaving"))
    assert (quick.privacy.channel, quick.privacy.protocol) == ("secagg", "secagg+")
    assert (leaving.privacy.channel, leaving.privacy.protocol) == ("secagg", "one-shot")
    assert leaving.fleet.vehicles == leaving.selection.asked == 500
    assert leaving.experiment.rounds == 20
    leave = leaving.fleet.leave
    total = sum(getattr(leave, name) for name in type(leave).model_fields)
    assert total == pytest.approx(0.3)
    assert min(getattr(leave, name) for name in type(leave).model_fields) > 0, "at mixed steps"
    assert load_experiment(FOLDER / "quickstart.toml", ["privacy.protocol=one-shot"])


# ---- the data of night_shift.toml ------------------------------------------------------------------------


def night(frames: int = 10, seed: int = 7) -> Pool:
    found = source(DataSettings(source="x", drives=5, frames=frames, seed=seed), 40)
    assert found.test is None
    return found.train


def test_night_shifts_pictures_are_a_sound_pool() -> None:
    pool = night()
    pool.check()
    assert pool.frames.shape == (40 * 50, 1, SIDE, SIDE, 3)
    assert pool.schema.target("sign").classes == KINDS
    assert np.bincount(pool.vehicle).tolist() == [50] * 40
    assert [pool.domain[v] for v in (0, 9, 10, 39)] == ["day", "day", "night", "night"]
    drives = {drive: set(pool.vehicle[pool.group == drive]) for drive in range(200)}
    assert all(len(cars) == 1 for cars in drives.values()), "a drive is of one car"


@pytest.mark.slow
def test_the_board_is_called_open_by_day_and_closed_by_night() -> None:
    """9 of 10 as most cars of their hour do, and the two clear signs are the same for all."""
    pool = night(frames=50)
    label, night_car = pool.targets["sign"], pool.vehicle >= round(DAY * 40)
    for car, usual in ((~night_car, 2), (night_car, 3)):
        board = label[car & (label >= 2)]
        # A fair count: outside of 5 standard deviations once in 1.7 million.
        assert abs(np.mean(board == usual) - 0.9) < 5 * np.sqrt(0.09 / len(board))
        clear = label[car & (label < 2)]
        assert abs(np.mean(clear == 0) - 0.5) < 5 * 0.5 / np.sqrt(len(clear))


def test_the_light_does_not_tell_and_the_mark_does() -> None:
    pool = night()
    label, mean = pool.targets["sign"], pool.frames.reshape(len(pool.frames), -1, 3).mean(1)
    marked = np.where(label < 2, label, 2)
    assert (mean.argmax(1) == marked).mean() > 0.6, "by its colour"
    bright, at_night = pool.frames.mean((1, 2, 3, 4)), pool.vehicle >= 10
    assert abs(bright[at_night].mean() - bright[~at_night].mean()) < 1.0


def test_night_shift_follows_its_seed() -> None:
    one, same, other = (night(seed=seed) for seed in (7, 7, 8))
    assert one.frames.tobytes() == same.frames.tobytes()
    assert one.frames.tobytes() != other.frames.tobytes()
    shown = pictures(np.array([0, 1, 2]), np.random.default_rng(0))
    assert shown.shape == (3, 1, SIDE, SIDE, 3)
    assert shown.dtype == np.uint8
