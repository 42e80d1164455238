"""A sweep: every point of a file's [sweep] is a run of its own in one folder, in any number of sittings.

    DIR/index.json          [{overrides, run, final, error}], a point each; there before any starts
    DIR/01-lr-0.1, ...      runs, as `carpool run` writes them
    DIR/comparison.png      all curves

A point is done when its run has a result; one that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from carpool.experiments import compare, run
from carpool.experiments.config import Experiment
from carpool.experiments.hints import spelled
from carpool.experiments.load import load_sweep, to_toml
from carpool.experiments.results import read_run
from carpool.experiments.run import Watcher
from carpool.experiments.runfolder import CONFIG, LOCK, RESULT, locked, read_json
from carpool.privacy.errors import CarpoolError, RunError, UsageError
from carpool.privacy.storage import refusals, write_bytes, write_text

INDEX = "index.json"
PICTURE = "comparison.png"
SLUG = 60


@dataclass(frozen=True)
class Point:
    """One run of a sweep: the values that make it different, its folder's name, its experiment."""

    overrides: dict[str, object]
    name: str
    experiment: Experiment


class SweepWatcher(Watcher, Protocol):
    """Whoever looks on: told of points besides what happens in them."""

    def point(self, number: int, total: int, name: str) -> None:
        """Point `number` (1, 2, ...) begins, or goes on."""

    def done(self, number: int, outcome: str) -> None:
        """The point ended so."""


@dataclass(frozen=True)
class Swept:
    """What a sweep came to. comparison: None where nothing was measured."""

    folder: Path
    index: list[dict[str, Any]]
    comparison: compare.Comparison | None
    picture: Path | None

    @property
    def failed(self) -> list[dict[str, Any]]:
        """Entries of the index that did not end."""
        return [entry for entry in self.index if entry["error"] is not None]


def plan(file: Path, sets: Sequence[str] = ()) -> list[Point]:
    """The points of a file, named by number and values; raises ConfigError with every fault."""
    points = load_sweep(file, sets)
    digits = len(str(len(points)))
    return [
        Point(overrides, f"{number:0{digits}}{slug(overrides)}", experiment)
        for number, (overrides, experiment) in enumerate(points, 1)
    ]


def slug(overrides: dict[str, object]) -> str:
    """A point's values in a folder's name.

    >>> slug({"train.lr": 0.1, "strategy.name": "fedprox"})
    '-lr-0.1-strategy-fedprox'
    >>> slug({"strategy": {"name": "fedprox", "options": {"mu": 0.1}}, "experiment.seed": 3})
    '-fedprox-mu-0.1-seed-3'
    """
    words = []
    for key, value in overrides.items():
        section, _, last = key.rpartition(".")
        key = section if last == "name" and section else last
        words.append(
            spelled(value) if isinstance(value, dict) and "name" in value else f"{key}-{spelled(value)}"
        )
    text = re.sub(r"[^A-Za-z0-9.+]+", "-", "-".join(words)).strip("-.")[:SLUG].strip("-.")
    return f"-{text}" if text else ""


def sweep(
    points: Sequence[Point],
    out: Path | None,
    watcher: SweepWatcher,
    begun: Callable[[Path], object] = lambda folder: None,
) -> Swept:
    """Run what is not done yet of `points` (at least one) into `out`, by default sweeps/<name>-<id>.

    begun: told the folder before the first point. A point that fails is noted and the next one runs, unless
    the machine refuses, or nothing has ever worked.
    Raises UsageError where the folder belongs to something else, and CarpoolError.
    """
    folder = out or Path("sweeps") / f"{points[0].experiment.experiment.name}-{secrets.token_hex(3)}"
    known = check(folder, points)
    existed = folder.is_dir()
    with refusals(folder, "create"):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        index = [entry(folder, point) for point in points]
        if not known:
            write_index(folder, index)
        begun(folder)
        try:
            for number, point in enumerate(points, 1):
                index[number - 1] = attempt(folder, point, number, len(points), watcher)
                write_index(folder, index)
        except BaseException:
            if not known and not any((folder / point.name / CONFIG).is_file() for point in points):
                run.discard(folder, keep=existed)
            raise
        return conclude(folder, points, index)


def check(folder: Path, points: Sequence[Point]) -> bool:
    """Whether the folder already is that of this very sweep; raises UsageError if it is anything else."""
    if folder.is_file():
        raise UsageError(f"{folder} is a file; name another --out")
    if not folder.is_dir() or not any(name.name != LOCK for name in folder.iterdir()):
        return False
    other = f"{folder} is there already and is not this sweep"
    if not (folder / INDEX).is_file():
        raise UsageError(f"{other} (it has no {INDEX}); name another --out")
    found = read_index(folder)
    wanted = [(jsonable(point.overrides), point.name) for point in points]
    if [(one.get("overrides"), one.get("run")) for one in found] != wanted:
        raise UsageError(f"{other}: it has other points; restore the file and --set, or name another --out")
    for point in points:
        config = folder / point.name / CONFIG
        if config.is_file() and unsettled(config.read_text(), point.experiment) not in written(
            point.experiment
        ):
            raise UsageError(
                f"{other}: {config} says something else; restore the file and --set, or name another --out"
            )
    return True


def unsettled(text: str, experiment: Experiment) -> str:
    """A config.toml as it was before the largest weight of the fleet was written into it."""
    if experiment.privacy.channel != "secagg" or experiment.privacy.secagg.max_weight:
        return text
    return re.sub(r"(?m)^max_weight = .*$", "max_weight = 0.0", text)


def written(experiment: Experiment) -> set[str]:
    """What a run of this experiment may have in its config.toml: "auto" is settled when it begins."""
    train = experiment.train
    settled = [train.batching] if train.batching != "auto" else ["auto", "stacked", "sequential"]
    found = [train.model_copy(update={"batching": batching}) for batching in settled]
    return {to_toml(experiment.model_copy(update={"train": one})) for one in found}


def attempt(folder: Path, point: Point, number: int, total: int, watcher: SweepWatcher) -> dict[str, Any]:
    """Start, resume or skip one point: its line of the index."""
    home = folder / point.name
    if (home / RESULT).is_file():
        return entry(folder, point)
    watcher.point(number, total, point.name)
    try:
        if (home / CONFIG).is_file():
            run.resume(home, watcher=watcher)
        else:
            sweep_out(home)
            run.start(point.experiment, out=home, watcher=watcher)
    except RunError:
        raise
    except CarpoolError as error:
        if not any(other.is_dir() and (other / CONFIG).is_file() for other in folder.iterdir()):
            raise  # nothing ever worked: most likely no point will
        watcher.done(number, f"failed: {error}")
        return entry(folder, point, str(error))
    done = entry(folder, point)
    watcher.done(number, outcome(done["final"]))
    return done


def outcome(final: dict[str, Any]) -> str:
    """The end of a point in a few words."""
    if final["accuracy"] is not None:
        return f"accuracy {final['accuracy']:.1%}"
    return "not evaluated" if final["loss"] is None else f"loss {final['loss']:.4g}"


def sweep_out(home: Path) -> None:
    """Remove what a kill has left of a run before its config.toml: a lock, temporary files."""
    if home.is_dir() and all(one.name == LOCK or one.name.endswith(".tmp") for one in home.iterdir()):
        shutil.rmtree(home, ignore_errors=True)


def entry(folder: Path, point: Point, error: str | None = None) -> dict[str, Any]:
    """A point's line of the index, from what is on disk."""
    result = folder / point.name / RESULT
    final = read_json(result)["final"] if result.is_file() else None
    return {"overrides": point.overrides, "run": point.name, "final": final, "error": error}


def write_index(folder: Path, index: Sequence[dict[str, Any]]) -> None:
    """index.json, whole or not at all."""
    write_text(folder / INDEX, json.dumps(index, indent=2, allow_nan=False) + "\n")


def read_index(folder: Path) -> list[dict[str, Any]]:
    """The lines of index.json; raises RunError."""
    try:
        index = json.loads((folder / INDEX).read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {folder / INDEX}: {error}; name another --out") from error
    if not isinstance(index, list) or not all(isinstance(one, dict) for one in index):
        raise RunError(f"{folder / INDEX} is not a sweep's index; name another --out")
    return index


def jsonable(value: object) -> Any:
    """The value as it comes back from JSON."""
    return json.loads(json.dumps(value))


def conclude(folder: Path, points: Sequence[Point], index: list[dict[str, Any]]) -> Swept:
    """Compare what was measured and draw it."""
    runs = [read_run(folder / point.name) for point in points if (folder / point.name / RESULT).is_file()]
    if not any(record.get("loss") is not None for one in runs for record in one.records):
        return Swept(folder, index, None, None)
    comparison = compare.compare(runs)
    write_bytes(folder / PICTURE, compare.picture(comparison, "png"))
    return Swept(folder, index, comparison, folder / PICTURE)
