"""Camera data in one .npz file; the layout, with an example that writes one, is in docs/data.md.

Pictures are raw (`frames`) or packed JPEG/PNG bytes (`jpeg` and `offsets`, `count` frames a picture).
Columns may have the prefixes `train_` and `test_`; without them everything is training data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from carpool.client.camera.archive import Archive
from carpool.client.camera.layout import Layout, read_layout
from carpool.client.camera.pictures import Progress, allocate, decode, prepared
from carpool.client.camera.pipeline import window
from carpool.client.camera.samples import Frames, Pool, Rows, Schema, Target
from carpool.client.camera.settings import DataSettings, Source
from carpool.privacy.errors import DataError

GAP_MS = 2_000
"""A pause in a vehicle's log above this starts a new drive."""
DRIVE_MS = 20_000
"""A log without pauses is cut into drives of about this length."""
GUARD_MS = 1_000
"""Frames dropped before such a cut, since the frames on both sides of it are near copies."""

GROUPS = ("group", "track", "drive")
ORDERS = ("order", "frame")
OFFSETS = ("offsets", "jpeg_offsets")


@dataclass(frozen=True)
class Part:
    """One split of an archive: its columns under the names that the layout knows."""

    archive: Archive
    prefix: str

    def has(self, name: str) -> bool:
        """Is there a column of that name in this split."""
        return self.prefix + name in self.archive

    def first(self, names: tuple[str, ...]) -> str | None:
        """The first of `names` that is there, with its prefix."""
        return next((self.prefix + name for name in names if self.has(name)), None)

    def error(self, text: str) -> DataError:
        """The error to raise about this file."""
        return DataError(f"{self.archive.path}: {text}")


def load(settings: DataSettings, vehicles: int, progress: Progress | None = None) -> Source:
    """Training and, where the file has it, test samples, at the file's own size where width and height are 0.

    Raises DataError naming the file and the column for a missing file, object arrays, sizes that do not fit,
    broken pictures, labels out of range.
    """
    del vehicles
    if settings.path is None:
        raise DataError("data.path is empty; the source npz needs the path of an .npz file")
    archive = Archive(settings.path)
    split = any(name.startswith("train_") for name in archive.headers)
    layout = read_layout(archive, "train_" if split else "")
    train = read_part(Part(archive, "train_" if split else ""), layout, settings, progress)
    if not any(name in archive for name in ("test_frames", "test_jpeg")):
        return Source(train)
    size = replace(settings, width=train.schema.width, height=train.schema.height)
    return Source(train, read_part(Part(archive, "test_"), layout, size, progress))


def read_part(part: Part, layout: Layout, settings: DataSettings, progress: Progress | None) -> Pool:
    """One pool out of the columns of one split."""
    if part.has("frames"):
        frames = raw_frames(part, layout, settings)
    elif part.has("jpeg"):
        frames = packed_frames(part, layout, settings, progress)
    else:
        raise part.error(
            f"neither {part.prefix}frames nor {part.prefix}jpeg is there; docs/data.md has the layout"
        )
    n = len(frames)
    group, order, vehicle, keep = keys(part, n)
    targets = {target.name: column(part, target, layout.columns[target.name], n) for target in layout.targets}
    schema = Schema(layout.views, frames.shape[2], frames.shape[3], layout.targets)
    if len(keep) < n:
        frames, group, order = frames[keep], group[keep], order[keep]
        vehicle = None if vehicle is None else vehicle[keep]
        targets = {name: values[keep] for name, values in targets.items()}
    try:
        return Pool(schema, frames, targets, group, order, vehicle, layout.domain)
    except DataError as error:
        raise part.error(str(error)) from error


def raw_frames(part: Part, layout: Layout, settings: DataSettings) -> Frames:
    """`frames`, uint8 [n, views, h, w, 3] or [n, h, w, 3] for one view, resized if the settings say so."""
    name = part.prefix + "frames"
    header = part.archive.headers[name]
    shape = header.shape if len(header.shape) == 5 else (*header.shape[:1], 1, *header.shape[1:])
    if header.dtype != np.uint8 or len(shape) != 5 or shape[4] != 3 or 0 in shape[2:]:
        raise part.error(
            f"column {name!r} is {header.dtype} {header.shape}; it must be uint8 [n, views, height, width, 3]"
        )
    n, views, height, width, _ = shape
    if views != len(layout.views):
        raise part.error(
            f"column {name!r} has {views} views, the schema names {len(layout.views)}; make them agree"
        )
    where, pipeline = str(part.archive.path), settings.pipeline
    left, top, right, bottom = window(pipeline, width, height, where)
    wide, high = settings.width or right - left, settings.height or bottom - top
    if (wide, high) == (width, height) and not pipeline.crops:
        return np.ascontiguousarray(part.archive.read(name), np.uint8).reshape(shape)
    frames = allocate(n, views, high, wide, where)
    source = np.asarray(part.archive.read(name), np.uint8).reshape(shape)
    for row in range(n):
        for view in range(views):
            frames[row, view] = prepared(source[row, view], pipeline, wide, high, where)
    return frames


def packed_frames(part: Part, layout: Layout, settings: DataSettings, progress: Progress | None) -> Frames:
    """`jpeg` bytes cut by `offsets` into pictures; each is `count` frames side by side, a frame its views."""
    data, offsets, count = packed_columns(part)
    views, where = len(layout.views), str(part.archive.path)
    name = part.prefix + "jpeg"
    frames: Frames | None = None
    size = wide = high = row = 0
    for index, number in enumerate(count.tolist()):
        place = f"{where}: picture {index} of {name}"
        panels = number * views
        strip = np.asarray(decode(data[offsets[index] : offsets[index + 1]].tobytes(), place))
        height, width = strip.shape[:2]
        if frames is None:
            size = width // panels
            left, top, right, bottom = window(settings.pipeline, size, height, place)
            wide, high = settings.width or right - left, settings.height or bottom - top
            frames = allocate(int(count.sum()), views, high, wide, where)
            shape = (height, size)
        if width != panels * size or (height, size) != shape:
            raise DataError(
                f"{place} is {width}x{height}; {number} frames of {views} views at {shape[1]}x{shape[0]} "
                f"make {panels * shape[1]}x{shape[0]}"
            )
        cut = strip.reshape(height, panels, size, 3).transpose(1, 0, 2, 3)
        if (wide, high) != (size, height) or settings.pipeline.crops:
            cut = np.stack([
                prepared(np.ascontiguousarray(panel), settings.pipeline, wide, high, place) for panel in cut
            ])  # fmt: skip
        frames[row : row + number] = cut.reshape(number, views, high, wide, 3)
        row += number
        if progress is not None and (index % 64 == 63 or index == len(count) - 1):
            progress(index + 1, len(count))
    if frames is None:
        raise part.error(f"column {name!r} holds no pictures; write at least one")
    return frames


def packed_columns(part: Part) -> tuple[NDArray[np.uint8], Rows, Rows]:
    """Bytes, offsets [m + 1] and count [m] of the packed form, with all checked that can be cheaply."""
    name = part.prefix + "jpeg"
    header = part.archive.headers[name]
    if header.dtype != np.uint8 or len(header.shape) != 1:
        raise part.error(f"column {name!r} is {header.dtype} {header.shape}; it must be uint8 [bytes]")
    where = part.first(OFFSETS)
    if where is None:
        raise part.error(
            f"column {part.prefix}offsets is missing; it says where each picture of {name!r} starts"
        )
    offsets = part.archive.integers(where)
    if len(offsets) < 1 or offsets[0] < 0 or offsets[-1] > header.shape[0] or (np.diff(offsets) <= 0).any():
        raise part.error(f"column {where!r} must rise from 0 to the {header.shape[0]} bytes of {name!r}")
    pictures = len(offsets) - 1
    if not part.has("count"):
        return np.asarray(part.archive.read(name), np.uint8), offsets, np.ones(pictures, np.int64)
    count = part.archive.integers(part.prefix + "count", (pictures,))
    if (bad := (count < 1) | (count > 10_000)).any():
        row = int(np.argmax(bad))
        raise part.error(f"column '{part.prefix}count' is {count[row]} in row {row}; it must be 1..10000")
    return np.asarray(part.archive.read(name), np.uint8), offsets, count


def keys(part: Part, n: int) -> tuple[Rows, Rows, Rows | None, Rows]:
    """group, order, vehicle and the rows to keep (all, unless logs are cut into drives)."""
    every = np.arange(n, dtype=np.int64)
    vehicle = part.archive.integers(part.prefix + "vehicle", (n,)) if part.has("vehicle") else None
    order_name = part.first(ORDERS) or part.first(("time_ms",))
    order = part.archive.integers(order_name, (n,)) if order_name else every
    group_name = part.first(GROUPS)
    if group_name is not None:
        group = part.archive.integers(group_name, (n,))
        if vehicle is not None:  # drive 0 of one vehicle is not drive 0 of another
            group = (
                np.unique(np.stack([vehicle, group]), axis=1, return_inverse=True)[1]
                .reshape(n)
                .astype(np.int64)
            )
        return group, order, vehicle, every
    if vehicle is None:
        return every, order, None, every
    if not part.has("time_ms"):
        raise part.error(
            f"column {part.prefix}vehicle needs {part.prefix}group or {part.prefix}time_ms beside it, "
            "so that near copies stay on one side of the validation split"
        )
    time = part.archive.integers(part.prefix + "time_ms", (n,))
    group, keep = cut_drives(vehicle, time)
    return group, time, vehicle, keep


def cut_drives(vehicle: Rows, time_ms: Rows) -> tuple[Rows, Rows]:
    """Drives of logs without a key: cut at pauses above GAP_MS and about every DRIVE_MS; gives group, kept.

    The last GUARD_MS before a cut that is not a pause are not kept, since they look like what comes after it.
    """
    group = np.zeros(len(time_ms), np.int64)
    keep = np.ones(len(time_ms), bool)
    first = 0
    by_time = np.lexsort((time_ms, vehicle))
    pause = (np.diff(time_ms[by_time]) > GAP_MS) | (np.diff(vehicle[by_time]) != 0)
    for drive in np.split(by_time, np.flatnonzero(pause) + 1):
        passed = time_ms[drive] - time_ms[drive[0]]
        pieces = max(1, round(int(passed[-1]) / DRIVE_MS))
        length = int(passed[-1]) // pieces + 1
        piece = passed // length
        group[drive] = first + piece
        keep[drive] = (piece == pieces - 1) | (passed % length < length - GUARD_MS)
        first += pieces
    return group, np.flatnonzero(keep).astype(np.int64)


def column(part: Part, target: Target, name: str, n: int) -> NDArray[np.generic]:
    """A target's column in the dtype that pools have; its range is checked by the pool."""
    name = part.prefix + name
    shape = (n, target.width) if target.kind == "flags" else (n,)
    if target.kind != "value":
        whole = part.archive.integers(name, shape)
        if target.kind == "class":
            return whole
        return np.where((whole == 0) | (whole == 1), whole, 2).astype(np.uint8)
    values = part.archive.read(name)
    part.archive.check_shape(name, shape)
    if values.dtype.kind not in "buif":
        raise part.error(f"column {name!r} is {values.dtype}; it must be numbers")
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite, which the pool refuses by row
        return values.astype(np.float32)
