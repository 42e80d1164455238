"""The embedded data source: our own pictures of roads, rendered on demand, the same for the same seed.

Nothing is downloaded. Vehicle v depends on (seed, v) and the settings of a drive alone: not on the number of
vehicles, nor on which other views are asked for.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs
from numpy.typing import NDArray

from carpool.client.camera import cache
from carpool.client.camera.domains import SIGNS, draw_domain
from carpool.client.camera.render import OBSTACLE_SHARE, VehicleRenderer
from carpool.client.camera.samples import Frames, Pool, Schema, Target
from carpool.client.camera.scene import CURVATURE_SCALE, OFFSET_SCALE, draw_drive
from carpool.client.camera.settings import VIEWS, DataSettings, Source
from carpool.privacy.errors import DataError

VERSION = 2
"""Of the renderer: whatever changes a pixel or a label must change it, since cached frames carry it."""

DEFAULT_VIEWS = ("front", "front_left", "front_right")
TARGETS = ("sign", "obstacle", "curvature", "offset")
PROCEDURAL_WIDTH, PROCEDURAL_HEIGHT = 64, 48

Progress = Callable[[int, int], None]
"""Called with (vehicles done, vehicles in all)."""


Names = tuple[str, ...]


def _chosen(given: Names, known: Names, default: Names, key: str) -> Names:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
            raise DataError(
                f"data.{key} has {name!r}, which procedural data lacks; did you mean {', '.join(near)}?"
            )
        if given.count(name) > 1:
            raise DataError(f"data.{key} names {name!r} twice; name it once")
    return given or default


def schema(settings: DataSettings) -> Schema:
    """Views, size and targets of this source; raises DataError on unknown names and impossible sizes."""
    views = _chosen(settings.views, VIEWS, DEFAULT_VIEWS, "views")
    names = _chosen(settings.targets, TARGETS, TARGETS, "targets")
    width, height = settings.width or PROCEDURAL_WIDTH, settings.height or PROCEDURAL_HEIGHT
    for key, value in (("width", width), ("height", height)):
        if not 8 <= value <= 2048:
            raise DataError(f"data.{key} is {value}; procedural data can be rendered from 8 to 2048 pixels")
    for key, value in (("drives", settings.drives), ("frames", settings.frames)):
        if value < 1:
            raise DataError(f"data.{key} is {value}; set it to at least 1")
    if settings.seed < 0:
        raise DataError(f"the seed of the data is {settings.seed}; set it to 0 or more")
    known = {
        "sign": Target("sign", "class", classes=SIGNS),
        "obstacle": Target("obstacle", "flags", width=len(views)),
        "curvature": Target("curvature", "value", unit="1/m", scale=CURVATURE_SCALE),
        "offset": Target("offset", "value", unit="m", scale=OFFSET_SCALE),
    }
    return Schema(views, height, width, tuple(known[name] for name in names))


@dataclass(frozen=True)
class Recording:
    """What one vehicle recorded: frames uint8 [n, views, height, width, 3] and its four columns [n]."""

    frames: Frames
    columns: dict[str, NDArray[np.generic]]


def record(settings: DataSettings, vehicle: int) -> Recording:
    """Render all drives of one vehicle; vehicle >= 0."""
    plan = schema(settings)
    per_drive, drives = settings.frames, settings.drives
    domain = draw_domain(settings.seed, vehicle)
    renderer = VehicleRenderer(domain, settings.seed, vehicle, plan.width, plan.height)
    frames = np.empty((drives * per_drive, len(plan.views), plan.height, plan.width, 3), np.uint8)
    sign = np.empty(len(frames), np.int64)
    obstacle = np.empty((len(frames), len(plan.views)), np.uint8)
    curvature, offset = np.empty(len(frames), np.float32), np.empty(len(frames), np.float32)
    for number in range(drives):
        part = slice(number * per_drive, (number + 1) * per_drive)
        drive = draw_drive(domain, settings.seed, vehicle, number, per_drive)
        sign[part], curvature[part], offset[part] = drive.sign, drive.curvature, drive.offset
        for i, view in enumerate(plan.views):
            covered = renderer.render(drive, number, view, frames[part, i])
            obstacle[part, i] = covered >= OBSTACLE_SHARE
    columns: dict[str, NDArray[np.generic]] = {"sign": sign, "obstacle": obstacle, "curvature": curvature}
    columns["offset"] = offset
    return Recording(frames, columns)


def render_moment(settings: DataSettings, vehicle: int, number: int, frame: int) -> Frames:
    """One moment of one drive as `record` has it, uint8 [views, height, width, 3]; the drive is rendered."""
    plan = schema(settings)
    domain = draw_domain(settings.seed, vehicle)
    renderer = VehicleRenderer(domain, settings.seed, vehicle, plan.width, plan.height)
    drive = draw_drive(domain, settings.seed, vehicle, number, settings.frames)
    found = np.empty((len(plan.views), plan.height, plan.width, 3), np.uint8)
    pictures = np.empty((settings.frames, plan.height, plan.width, 3), np.uint8)
    for i, view in enumerate(plan.views):
        renderer.render(drive, number, view, pictures)
        found[i] = pictures[frame]
    return found


def pool_of(settings: DataSettings, vehicles: range, frames: Frames, columns: cache.Columns) -> Pool:
    """The samples of consecutive vehicles as a pool; drives are numbered over the whole fleet."""
    plan = schema(settings)
    rows = np.arange(len(frames), dtype=np.int64)
    per_vehicle = settings.drives * settings.frames
    return Pool(
        schema=plan,
        frames=frames,
        targets={target.name: columns[target.name] for target in plan.targets},
        group=vehicles.start * settings.drives + rows // settings.frames,
        order=rows % settings.frames,
        vehicle=vehicles.start + rows // per_vehicle,
        domain={vehicle: draw_domain(settings.seed, vehicle).words for vehicle in vehicles},
    )


def render_vehicle(settings: DataSettings, vehicle: int) -> Pool:
    """The samples of one vehicle, rendered now and not cached; raises DataError where vehicle < 0."""
    if vehicle < 0:
        raise DataError(f"vehicle {vehicle} does not exist; vehicles are numbered from 0")
    recording = record(settings, vehicle)
    return pool_of(settings, range(vehicle, vehicle + 1), recording.frames, recording.columns)


def cache_folder(settings: DataSettings) -> Path:
    """Where rendered frames are kept: `settings.cache`, else the user's cache folder."""
    return (settings.cache or platformdirs.user_cache_path("carpool")) / "procedural"


def load(settings: DataSettings, vehicles: int, progress: Progress | None = None) -> Source:
    """The samples of vehicles 0..vehicles-1, from the cache or rendered and cached.

    Where the cache folder is read-only or full, the frames stay in memory. Raises DataError.
    """
    if vehicles < 1:
        raise DataError(f"the fleet has {vehicles} vehicles; set fleet.vehicles to at least 1")
    plan = schema(settings)
    key = cache.key_of({
        "version": VERSION, "seed": settings.seed, "vehicles": vehicles, "views": plan.views,
        "width": plan.width, "height": plan.height, "drives": settings.drives, "frames": settings.frames,
    })  # fmt: skip
    folder, fleet = cache_folder(settings), range(vehicles)
    shape = (vehicles * settings.drives * settings.frames, len(plan.views), plan.height, plan.width, 3)
    entry = cache.read(folder, key)
    if entry is None or entry.frames.shape != shape:
        columns: list[dict[str, NDArray[np.generic]]] = []
        entry = cache.write(
            folder, key, shape, _record_all(settings, vehicles, progress, columns), lambda: _joined(columns)
        )
    if entry is None:
        columns, frames = [], np.empty(shape, np.uint8)
        step = settings.drives * settings.frames
        for i, part in enumerate(_record_all(settings, vehicles, progress, columns)):
            frames[i * step : (i + 1) * step] = part
        entry = cache.Entry(frames, _joined(columns))
    return Source(pool_of(settings, fleet, entry.frames, entry.columns))


def _record_all(
    settings: DataSettings,
    vehicles: int,
    progress: Progress | None,
    columns: list[dict[str, NDArray[np.generic]]],
) -> Iterator[Frames]:
    """Frames of each vehicle in turn; its columns are appended to `columns`."""
    for vehicle in range(vehicles):
        recording = record(settings, vehicle)
        columns.append(recording.columns)
        yield recording.frames
        if progress is not None:
            progress(vehicle + 1, vehicles)


def _joined(columns: list[dict[str, NDArray[np.generic]]]) -> dict[str, NDArray[np.generic]]:
    return {name: np.concatenate([part[name] for part in columns]) for name in TARGETS}
