"""Recordings of Udacity's driving simulator: driving_log.csv and IMG/, one or several beside each other.

A line of the log names a left, a centre and a right picture and says steering, throttle, brake, speed. Paths
are those of the machine that recorded, often Windows: only the file name counts. Layout in docs/data.md.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PureWindowsPath

import numpy as np

from carpool.client.camera.film import PICTURES, Film, files_in, folder_of, natural, unreadable
from carpool.client.camera.layout import KNOWN, LOG_VIEWS
from carpool.client.camera.npz import cut_drives
from carpool.client.camera.pictures import Progress
from carpool.client.camera.samples import Pool, Schema
from carpool.client.camera.settings import DataSettings, Source
from carpool.privacy.errors import DataError

LOG = "driving_log.csv"
COLUMNS = ("center", "left", "right", "steering", "throttle", "brake", "speed")
CAMERAS = ("left", "center", "right")
"""Columns of the log in the order of LOG_VIEWS."""
TARGETS = {"steering": "steering", "throttle": "throttle", "brake": "brake", "speed": "speed_mph"}
"""Column of the log -> name of the target."""
MAX_CSV_BYTES = 64 * 2**20
MAX_MISSING = 0.5
"""Part of the lines that may lack a picture: people delete bad pictures, but not most of them."""
TICK_MS = 100
"""Between two lines of a log whose pictures have no time in their names; the simulator writes 10 a second."""
TIME = re.compile(r"(\d{4})_(\d\d)_(\d\d)_(\d\d)_(\d\d)_(\d\d)_(\d{3})$")


@dataclass(frozen=True)
class Line:
    """One usable line: pictures in the order of LOG_VIEWS, values by column, time in ms or None."""

    pictures: tuple[Path, ...]
    values: Mapping[str, float]
    time: int | None


def load(settings: DataSettings, vehicles: int, progress: Progress | None = None) -> Source:
    """Views front_left, front, front_right; targets steering and, where they are logged, the others.

    `settings.path` is a folder with the log in it or in folders right below it, each of which is then a
    vehicle of its own; with one log vehicle is None. Lines are put in the order of the times in the picture
    names, and cut into drives as in `npz.cut_drives`. Lines without all their pictures are left out. Raises
    DataError naming file and line for unreadable logs, values that are not finite, broken pictures.
    """
    del vehicles
    root = folder_of(settings, f"{LOG} and IMG")
    logs = logs_in(root)
    lines: list[Line] = []
    vehicle: list[int] = []
    times: list[int] = []
    for number, log in enumerate(logs):
        own = read_log(log)
        timed = all(line.time is not None for line in own)
        lines += own
        vehicle += [number] * len(own)
        times += [(line.time or 0) if timed else index * TICK_MS for index, line in enumerate(own)]
    who, when = np.array(vehicle, np.int64), np.array(times, np.int64)
    order = np.lexsort((when, who))
    group, kept = cut_drives(who[order], when[order])
    chosen = order[kept]
    film = Film(len(chosen), len(LOG_VIEWS), settings, str(root), progress)
    for row, index in enumerate(chosen.tolist()):
        for view, picture in enumerate(lines[index].pictures):
            film.read(row, view, picture)
    names = [name for name in TARGETS if all(name in line.values for line in lines)]
    frames = film.frames()
    targets = tuple(KNOWN[TARGETS[name]] for name in names)
    values = {
        TARGETS[name]: np.array([lines[index].values[name] for index in chosen], np.float32) for name in names
    }
    return Source(
        Pool(
            schema=Schema(LOG_VIEWS, frames.shape[2], frames.shape[3], targets),
            frames=frames,
            targets=values,
            group=group[kept],
            order=when[chosen],
            vehicle=who[chosen] if len(logs) > 1 else None,
            domain={number: log.parent.name for number, log in enumerate(logs)} if len(logs) > 1 else {},
        )
    )


def logs_in(root: Path) -> list[Path]:
    """The logs in a folder, or in those right below it; raises DataError where there is none."""
    found = [root / LOG] if (root / LOG).is_file() else list(root.glob(f"*/{LOG}"))
    if not found:
        raise DataError(f"{root} has no {LOG}, nor has a folder in it; name the folder of the recording")
    return sorted(found, key=lambda log: natural(str(log)))


def read_log(log: Path) -> list[Line]:
    """The lines of a log whose pictures are all there; raises DataError naming the line."""
    images = log.parent / "IMG"
    if not images.is_dir():
        raise DataError(f"{log} has no folder IMG beside it; put the pictures there")
    there = {one.name for one in files_in(images)}
    lines, missing, total = [], "", 0
    for number, row in rows(log):
        total += 1
        names = [PureWindowsPath(row[camera]).name for camera in CAMERAS]
        for name in names:
            if not name.lower().endswith(PICTURES):
                raise DataError(f"{log} line {number} names {name!r}; it must be a picture such as a.jpg")
        values = {name: value_of(row[name], name, log, number) for name in TARGETS if name in row}
        if gone := [name for name in names if name not in there]:
            missing = missing or gone[0]
            continue
        lines.append(Line(tuple(images / name for name in names), values, time_of(names[1])))
    if not lines or total - len(lines) > MAX_MISSING * total:
        raise DataError(
            f"{log}: {total - len(lines)} of {total} lines lack a picture in IMG, such as {missing!r}; "
            "put the pictures of this log there"
        )
    return lines


def rows(log: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, named fields) of a log with or without a header; raises DataError."""
    try:
        if log.stat().st_size > MAX_CSV_BYTES:
            raise DataError(f"{log} is above {MAX_CSV_BYTES // 2**20} MiB; it is no driving log, replace it")
        text = log.read_text(encoding="utf-8-sig")
        table = list(csv.reader(text.splitlines(), strict=True, skipinitialspace=True))
    except OSError as error:
        raise unreadable(log, error) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{log} is not a csv file ({error}); copy it again") from error
    lines = [(number, [cell.strip() for cell in row]) for number, row in enumerate(table, 1) if row]
    header = header_of(lines[0][1], log) if lines else None
    names: Sequence[str] = COLUMNS
    if header is not None:
        names, lines = header, lines[1:]
    elif lines:
        names = COLUMNS[: len(lines[0][1])]
    if not lines:
        raise DataError(f"{log} has no lines; record again")
    for number, row in lines:
        if len(row) != len(names):
            raise DataError(f"{log} line {number} has {len(row)} fields, not {len(names)}; repair it")
        yield number, dict(zip(names, row, strict=True))


def header_of(first: Sequence[str], log: Path) -> list[str] | None:
    """The column names if the first line has them, None for a log without; raises DataError."""
    names = [cell.lower() for cell in first]
    if "center" in names or "steering" in names:
        if lacking := [name for name in COLUMNS[:4] if name not in names]:
            raise DataError(f"{log} has no column {lacking[0]}; its header must be {','.join(COLUMNS)}")
        if len(set(names)) < len(names):
            raise DataError(f"{log} names a column twice; its header must be {','.join(COLUMNS)}")
        return names
    if len(first) not in (4, len(COLUMNS)):
        raise DataError(f"{log} line 1 has {len(first)} fields; they must be {','.join(COLUMNS)}")
    return None


def value_of(text: str, name: str, log: Path, line: int) -> float:
    """A number of the log; raises DataError unless it is finite, and steering within -1..1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or (name == "steering" and abs(value) > 1):
        allowed = "-1 to 1, of full lock" if name == "steering" else "a finite number"
        raise DataError(f"{log} line {line}: {name} is {text[:40]!r}; it must be {allowed}")
    return value


def time_of(name: str) -> int | None:
    """Milliseconds of center_2016_12_01_13_30_48_287.jpg; None where the name has no time."""
    match = TIME.search(Path(name).stem)
    if match is None:
        return None
    year, month, day, hour, minute, second, thousandth = (int(part) for part in match.groups())
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None
    return int(moment.timestamp()) * 1000 + thousandth
