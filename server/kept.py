"""Masked messages that may be needed once more, in a file without a name: not in the server's memory."""

from __future__ import annotations

import tempfile
from io import FileIO
from pathlib import Path

from carpool.privacy.errors import RunError


class Kept:
    """Messages in a file that is gone with the process, by vehicle."""

    def __init__(self, folder: Path | None) -> None:
        try:
            self._file: FileIO = tempfile.TemporaryFile(buffering=0, dir=folder)  # noqa: SIM115
        except OSError as error:
            raise RunError(f"cannot keep masked messages in {folder}: {error}") from error
        self._places: dict[int, tuple[int, int]] = {}
        self._end = 0

    @property
    def size(self) -> int:
        """Bytes of all messages."""
        return self._end

    def put(self, vehicle: int, data: bytes) -> None:
        """Keep a message; raises RunError."""
        view, at = memoryview(data), self._end
        try:
            self._file.seek(at)
            while view:
                view = view[self._file.write(view) or 0 :]
        except OSError as error:
            raise RunError(f"cannot keep a masked message: {error}; free some space") from error
        self._places[vehicle] = at, len(data)
        self._end = at + len(data)

    def __call__(self, vehicle: int) -> bytes:
        """The message of a vehicle once more."""
        at, size = self._places[vehicle]
        self._file.seek(at)
        return self._file.read(size) or b""

    def close(self) -> None:
        """Let the file go."""
        self._file.close()
