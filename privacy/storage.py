"""Files that are either whole or not there: temporary file, fsync, atomic rename; append, flush, fsync.

A full disk, a read-only folder or a missing parent becomes one RunError sentence that names the path.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from carpool.privacy.errors import RunError


@contextmanager
def refusals(path: Path, doing: str = "write") -> Iterator[None]:
    """Turn an OSError under this block into one RunError sentence about `path`."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise RunError(
            f"cannot {doing} {path}: {reason}; free the space, allow writing there, or name another folder"
        ) from error


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync it and rename it over `path`, else remove it."""
    with refusals(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
            sync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all; raises RunError."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path`, whole or not at all; raises RunError."""
    write_bytes(path, text.encode())


def append_line(path: Path, line: str) -> None:
    """Append one line and fsync it; raises RunError. A torn last line is the reader's to drop."""
    if "\n" in line:
        raise ValueError("a line has no newline in it")
    with refusals(path, "append to"), path.open("ab") as file:
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def clear_temporaries(folder: Path) -> None:
    """Remove what a killed writer left under `folder`; only while nobody else writes there."""
    with refusals(folder, "clean"):
        for leftover in folder.rglob(".*.tmp"):
            leftover.unlink(missing_ok=True)
