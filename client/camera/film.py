"""What readers of folders share: which files there are, and frames filled in picture by picture."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carpool.client.camera.pictures import MAX_PIXELS, Progress, allocate, decode, prepared
from carpool.client.camera.samples import Frames
from carpool.client.camera.settings import DataSettings
from carpool.privacy.errors import DataError

PICTURES = (".jpg", ".jpeg", ".png", ".ppm")
MAX_FILES = 2_000_000
"""A folder with more files than this is not walked to its end; it is hardly the one that was meant."""
MAX_FILE = 100 * 2**20
"""Bytes of one picture file."""


@dataclass(frozen=True)
class Found:
    """A file of the data set: its path below the root, with size in bytes and time of change in ns."""

    name: str
    size: int
    changed: int


def folder_of(settings: DataSettings, what: str) -> Path:
    """`settings.path` if it is a folder; raises DataError that says `what` the folder must hold."""
    if settings.path is None:
        raise DataError(f"data.path is empty; the source {settings.source} needs the folder with {what}")
    if not settings.path.is_dir():
        raise DataError(f"data.path {settings.path} is not a folder; name the one with {what}")
    return settings.path


def files_in(root: Path, *, links: bool = False) -> list[Found]:
    """Every file below `root` in natural order, without hidden ones.

    Unless `links`, those to folders are not followed, and one that leads out of `root` is refused: a data set
    from elsewhere must not draw in files of this machine. Raises DataError for that, for more than MAX_FILES
    files, and where a folder cannot be read.
    """
    found: list[Found] = []
    for place in walk(root, links):
        try:
            facts = place.stat()
        except OSError as error:
            raise unreadable(place, error) from error
        found.append(Found(place.relative_to(root).as_posix(), facts.st_size, facts.st_mtime_ns))
        if len(found) > MAX_FILES:
            raise DataError(f"{root} has more than {MAX_FILES} files; name the data set's own folder")
    return sorted(found, key=lambda one: natural(one.name))


def walk(root: Path, links: bool) -> Iterator[Path]:
    """Files below `root`; a folder that links lead to twice is entered once."""
    top = root.resolve()
    seen = {top}

    def refuse(error: OSError) -> None:
        raise unreadable(Path(error.filename or root), error)

    for here, folders, files in os.walk(root, onerror=refuse, followlinks=links):
        places = [Path(here) / name for name in (*folders, *files) if not hidden(name)]
        for place in places:
            if not links and place.is_symlink() and not place.resolve().is_relative_to(top):
                raise DataError(f"{place} is a link out of {root}; put a copy in its place")
            if place.is_file():
                yield place
        inner = {place.name: place.resolve() for place in places if place.is_dir()}
        folders[:] = [name for name, real in inner.items() if real not in seen]
        seen.update(inner.values())


def hidden(name: str) -> bool:
    """Is this something that operating systems leave behind."""
    return name.startswith((".", "__MACOSX"))


def natural(name: str) -> list[tuple[int, int, str]]:
    """A sort key by which 10 comes after 9.

    >>> sorted(["f10", "f9", "e"], key=natural)
    ['e', 'f9', 'f10']
    """
    parts = re.split(r"([0-9]{1,18})", name)
    return [(0, int(part), "") if index % 2 else (1, 0, part) for index, part in enumerate(parts)]


def unreadable(place: Path, error: OSError) -> DataError:
    """The error for a file or folder that the system refuses to open."""
    return DataError(f"{place} cannot be read: {(error.strerror or str(error)).lower()}; correct its rights")


class Film:
    """Frames uint8 [n, views, h, w, 3] that are filled in; the first picture gives the size left at 0.

    where: the data set, for error messages; progress is told of pictures. Raises DataError for a picture of
    another size than the first where the settings give none, and for more than `pictures.MAX_BYTES`.
    """

    def __init__(
        self, n: int, views: int, settings: DataSettings, where: str, progress: Progress | None = None
    ) -> None:
        self._shape, self._where, self._progress = (n, views), where, progress
        self._width, self._height, self._pipeline = settings.width, settings.height, settings.pipeline
        self._frames: Frames | None = None
        self._done = 0

    def put(self, row: int, view: int, picture: NDArray[np.uint8], place: str) -> None:
        """Crop and resize uint8 [h, w, 3], and keep it."""
        ready = prepared(picture, self._pipeline, self._width, self._height, place)
        if self._frames is None:
            self._frames = allocate(*self._shape, ready.shape[0], ready.shape[1], self._where)
        height, width = self._frames.shape[2:4]
        if ready.shape[:2] != (height, width):
            raise DataError(
                f"{place} is {ready.shape[1]}x{ready.shape[0]}, and the first picture is {width}x{height}; "
                "set data.width and data.height, to which all are resized"
            )
        self._frames[row, view] = ready
        self._done += 1
        total = self._shape[0] * self._shape[1]
        if self._progress is not None and (self._done % 64 == 0 or self._done == total):
            self._progress(self._done, total)

    def read(self, row: int, view: int, file: Path) -> None:
        """`put` a picture file of at most MAX_FILE bytes."""
        try:
            size = file.stat().st_size
        except OSError:
            size = 0  # decode says what is wrong
        if size > MAX_FILE:
            raise DataError(f"{file} has more than {MAX_FILE // 2**20} MiB; replace it by a smaller picture")
        self.put(row, view, np.asarray(decode(file, str(file))), str(file))

    def frames(self, rows: int | None = None) -> Frames:
        """All frames, or the first `rows`; raises DataError where there is none."""
        if self._frames is None or rows == 0:
            raise DataError(f"{self._where} holds no picture; name a folder with pictures")
        return self._frames[:rows]


def check_size(width: int, height: int, where: str) -> None:
    """Refuse a picture above MAX_PIXELS before it is decoded; raises DataError."""
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{where} is {width}x{height}; the limit is {MAX_PIXELS // 10**6} million pixels; "
            "replace it by a smaller one"
        )
