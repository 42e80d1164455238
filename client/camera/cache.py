"""Rendered frames on disk: a folder an entry, whole or not there.

An entry is written in a folder of its own beside the place where it will stand, synced, and put there by one
rename; so a writer that is killed leaves only a temporary folder, whose lock dies with it and which the next
writer removes. Two writers at once both finish; the second one's work is dropped. An entry whose size or
checksum is wrong is not used. POSIX only, as is the rest of Carpool.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carpool.client.camera.samples import Frames
from carpool.privacy.storage import sync_folder

FRAMES, COLUMNS, META, LOCK = "frames.npy", "columns.npz", "meta.json", "lock"
_TEMPORARY = ".tmp-"
_OLD = 3600.0  # s
_PROBES, _PROBE = 64, 4096  # pieces of the frames that the checksum covers, bytes each

Columns = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Entry:
    """What the cache holds under one key: frames uint8 (a read-only memory map) and columns by name."""

    frames: Frames
    columns: Columns


def key_of(facts: Mapping[str, object]) -> str:
    """SHA-256, hex, over everything that decides what the frames look like; `facts` must be JSON."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def read(folder: Path, key: str) -> Entry | None:
    """The entry of that key, or None where there is none or it is damaged."""
    place = folder / key
    try:
        meta = json.loads((place / META).read_text())
        if not isinstance(meta, dict) or meta.get("checksum") != _checksum(place):
            return None
        frames = np.load(place / FRAMES, mmap_mode="r", allow_pickle=False)
        with np.load(place / COLUMNS, allow_pickle=False) as stored:
            columns = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return Entry(frames, columns)


def write(
    folder: Path,
    key: str,
    shape: tuple[int, ...],
    parts: Iterator[Frames],
    columns: Callable[[], Columns],
) -> Entry | None:
    """Write the frames uint8 `shape`, given in parts, then the columns; None where the disk refuses.

    `columns` is called when all parts are written. What `parts` raises goes through, and nothing is left.
    """
    try:
        with _temporary(folder, key) as place:
            with (place / FRAMES).open("wb") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                _reserve(file.fileno(), file.tell() + math.prod(shape))
                for part in parts:
                    file.write(np.ascontiguousarray(part).data)
                _sync(file.fileno(), file.flush)
            with (place / COLUMNS).open("wb") as file:
                np.savez(file, allow_pickle=False, **dict(columns()))
                _sync(file.fileno(), file.flush)
            with (place / META).open("w") as text:
                json.dump({"key": key, "shape": shape, "checksum": _checksum(place)}, text)
                _sync(text.fileno(), text.flush)
            sync_folder(place)
            _publish(place, folder / key)
    except OSError:
        return None
    return read(folder, key)


def _sync(descriptor: int, flush: Callable[[], object]) -> None:
    flush()
    os.fsync(descriptor)


def _reserve(descriptor: int, size: int) -> None:
    """Ask for the space first: a full disk says so now, not after minutes of rendering."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # file systems that cannot
            raise


def _checksum(place: Path) -> str:
    """SHA-256, hex, of the columns, and of the size, header and 64 evenly spread pieces of the frames."""
    total = hashlib.sha256((place / COLUMNS).read_bytes())
    path = place / FRAMES
    size = path.stat().st_size
    total.update(size.to_bytes(8, "little"))
    with path.open("rb") as file:
        for at in np.linspace(0, max(size - _PROBE, 0), _PROBES).astype(int):
            file.seek(int(at))
            total.update(file.read(_PROBE))
    return total.hexdigest()


def _publish(place: Path, target: Path) -> None:
    """Rename onto `target`; an entry that another writer put there stays, a damaged one goes."""
    for _ in range(2):
        try:
            place.rename(target)
        except OSError:
            if not target.exists() or read(target.parent, target.name) is not None:
                break
            # Away first, in one step: a reader never sees half of it removed.
            waste = Path(tempfile.mkdtemp(dir=target.parent, prefix=_TEMPORARY))
            target.rename(waste / "damaged")
            shutil.rmtree(waste, ignore_errors=True)
        else:
            break
    sync_folder(target.parent)


@contextmanager
def _temporary(folder: Path, key: str) -> Iterator[Path]:
    """A locked folder to write in; gone afterwards unless it was renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    clean(folder)
    place = Path(tempfile.mkdtemp(dir=folder, prefix=f"{_TEMPORARY}{key[:12]}-"))
    try:
        with (place / LOCK).open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def clean(folder: Path) -> None:
    """Remove the temporary folders of writers that are dead: those whose lock nobody holds."""
    for place in folder.glob(_TEMPORARY + "*"):
        try:
            with (place / LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(place, ignore_errors=True)
        except FileNotFoundError:
            # A writer that has only just begun or just finished; if it is old, one that died at that moment.
            with suppress(OSError):
                if time.time() - place.stat().st_mtime > _OLD:
                    shutil.rmtree(place, ignore_errors=True)
        except OSError:
            continue  # in use
