"""Segments of comma2k19: a minute of highway as video, with steering angle and speed from the car's bus.

Schafer et al. 2018, "A Commute in Data: The comma2k19 Dataset", arXiv:1812.05752. Needs PyAV (the extra
`video`). The layout is in docs/data.md. Logs are sampled at the time of each video frame.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carpool.client.camera.film import Film, check_size, files_in, folder_of
from carpool.client.camera.pictures import Progress
from carpool.client.camera.samples import Pool, Schema, Target
from carpool.client.camera.settings import DataSettings, Source
from carpool.privacy.errors import DataError, UsageError

VIDEOS = ("video.hevc", "video.mp4")
STEERING = Target("steering", "value", unit="degrees at the wheel", scale=10.0)
SPEED = Target("speed", "value", unit="m/s", scale=10.0)
TIMES = ("global_pose", "global_pos")
SPEEDS = ("speed", "car_speed")
MAX_ARRAY = 64 * 2**20
"""Bytes of one log array; those of a segment have some kilobytes."""
GAP_S = 0.2
"""A frame is kept if the log has a sample this near before and after it; the bus has one every 10 ms."""
MAX_LACKING = 0.05
"""Part of a segment's frames that the video may lack; the last ones are sometimes cut off."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Segment:
    """One minute: video, route (dongle and start), which frames are kept, and their values."""

    video: Path
    route: str
    number: int
    kept: NDArray[np.bool_]
    steering: Floats
    speed: Floats


def load(settings: DataSettings, vehicles: int, progress: Progress | None = None) -> Source:
    """One view "front", targets "steering" (degrees, as logged) and "speed" (m/s); a group is a route.

    The data set has two cars, so vehicle is None and whole routes are dealt to vehicles. Frames without a log
    sample within GAP_S on both sides are left out. Raises UsageError where PyAV is not installed, DataError
    naming the file for broken videos and logs, values that are not finite, videos without their frames.
    """
    del vehicles
    root = folder_of(settings, "route folders with segments in them")
    segments = segments_in(root)
    film = Film(sum(int(one.kept.sum()) for one in segments), 1, settings, str(root), progress)
    routes = {route: index for index, route in enumerate(dict.fromkeys(one.route for one in segments))}
    steering, speed, group, order = [], [], [], []
    row = 0
    for segment in segments:
        wanted = np.flatnonzero(segment.kept)
        taken = 0
        for index, picture in enumerate(frames_of(segment.video, len(segment.kept))):
            if segment.kept[index]:
                film.put(row + taken, 0, picture, f"{segment.video}: frame {index}")
                taken += 1
        if taken < (1 - MAX_LACKING) * len(wanted):
            raise DataError(
                f"{segment.video} has pictures for {taken} of the {len(wanted)} frames in its log; "
                "copy it again"
            )
        row += taken
        steering.append(segment.steering[wanted[:taken]])
        speed.append(segment.speed[wanted[:taken]])
        group.append(np.full(taken, routes[segment.route], np.int64))
        order.append(segment.number * 100_000 + wanted[:taken])
    frames = film.frames(row)
    return Source(
        Pool(
            schema=Schema(("front",), frames.shape[2], frames.shape[3], (STEERING, SPEED)),
            frames=frames,
            targets={
                STEERING.name: np.concatenate(steering).astype(np.float32),
                SPEED.name: np.concatenate(speed).astype(np.float32),
            },
            group=np.concatenate(group),
            order=np.concatenate(order).astype(np.int64),
        )
    )


def segments_in(root: Path) -> list[Segment]:
    """Every folder with a video below `root`, in natural order; raises DataError where there is none."""
    videos = [root / one.name for one in files_in(root) if Path(one.name).name in VIDEOS]
    folders = dict.fromkeys(video.parent for video in videos)
    if not folders:
        raise DataError(f"{root} has no {' or '.join(VIDEOS)} in it; name the folder of a chunk or a route")
    found = []
    for number, folder in enumerate(folders):
        video = next(video for video in videos if video.parent == folder)
        # A name is the segment's number inside its route; without numbers the order of names has to do.
        own = int(folder.name) if re.fullmatch(r"\d{1,6}", folder.name) else number
        route = folder.parent.relative_to(root).as_posix() if folder != root else "."
        found.append(segment_of(folder, video, route, own))
    return found


def segment_of(folder: Path, video: Path, route: str, number: int) -> Segment:
    """Read the logs of a segment; raises DataError."""
    times = array(first_of(folder, [f"{pose}/frame_times" for pose in TIMES]))
    if len(times) == 0 or (np.diff(times) <= 0).any():
        raise DataError(f"{folder}: frame_times is empty or does not rise; copy the segment again")
    can = folder / "processed_log" / "CAN"
    steering, kept = at(times, can / "steering_angle")
    speed, also = at(times, first_of(can, SPEEDS))
    return Segment(video, route, number, kept & also, steering, speed)


def at(times: Floats, log: Path) -> tuple[Floats, NDArray[np.bool_]]:
    """A log's value at each of `times` by linear interpolation, and where it has samples near enough."""
    moments, values = array(first_of(log, ["t"])), array(first_of(log, ["value"]))
    if len(moments) != len(values) or len(moments) == 0:
        raise DataError(
            f"{log}: t has {len(moments)} entries and value {len(values)}; copy the segment again"
        )
    if (np.diff(moments) < 0).any():
        raise DataError(f"{log}: t does not rise; copy the segment again")
    before = np.clip(np.searchsorted(moments, times, side="right") - 1, 0, len(moments) - 1)
    after = np.clip(np.searchsorted(moments, times, side="left"), 0, len(moments) - 1)
    inside = (times >= moments[0]) & (times <= moments[-1])
    near = (times - moments[before] <= GAP_S) & (moments[after] - times <= GAP_S)
    return np.interp(times, moments, values), inside & near


def first_of(folder: Path, names: tuple[str, ...] | list[str]) -> Path:
    """The first of `names` in `folder` that is there, with or without .npy; raises DataError."""
    for name in names:
        for place in (folder / name, folder / f"{name}.npy"):
            if place.exists():
                return place
    raise DataError(f"{folder} has no {' or '.join(names)}; copy the segment again")


def array(file: Path) -> Floats:
    """One column of numbers, float64 [n], of an array file; raises DataError unless all are finite."""
    try:
        if file.stat().st_size > MAX_ARRAY:
            raise DataError(f"{file} is above {MAX_ARRAY // 2**20} MiB; it is no log of a minute, replace it")
        # A memory map allocates nothing for a header that claims more than the file has.
        stored = np.load(file, mmap_mode="r", allow_pickle=False)
        if not isinstance(stored, np.ndarray) or stored.dtype.kind not in "iuf":
            raise ValueError("it holds no numbers")
        column = np.asarray(stored, np.float64)
    except (OSError, ValueError, EOFError, TypeError, SyntaxError, OverflowError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{file} is not a readable array ({reason}); copy the segment again") from error
    if column.ndim == 2 and column.shape[1] == 1:
        column = column[:, 0]
    if column.ndim != 1:
        raise DataError(f"{file} has the shape {column.shape}; it must be one column")
    if not (good := np.isfinite(column)).all():
        entry = int(np.argmin(good))
        raise DataError(f"{file} is {column[entry]} in entry {entry}; it must be a finite number")
    return column


def frames_of(video: Path, most: int) -> Iterator[NDArray[np.uint8]]:
    """The first `most` frames uint8 [h, w, 3] of a video; raises UsageError without PyAV, DataError."""
    try:
        import av
    except ImportError as error:
        raise UsageError(
            "the source comma2k19 reads video with PyAV, which is not installed; "
            "install it with pip install 'carpool[video]'"
        ) from error
    try:
        with av.open(str(video), format="hevc" if video.suffix == ".hevc" else None) as container:
            if not container.streams.video:
                raise DataError(f"{video} has no pictures in it; copy it again")
            stream = container.streams.video[0]
            check_size(stream.codec_context.width, stream.codec_context.height, str(video))
            for index, frame in enumerate(container.decode(stream)):
                if index >= most:
                    return
                check_size(frame.width, frame.height, str(video))
                yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{video} is not a readable video ({reason}); copy it again") from error
