"""The record of participation on disk: written and fsynced before a task goes out, read again after a crash.

A file of lines "CRC-32 round id id ...", the first one the schema. A torn last line was never acted upon and
is cut off; any other damage is refused, since forgetting a participation would break the promise that the
noise rests on.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carpool.privacy.dp.schema import Participation, Schema
from carpool.privacy.errors import PrivacyRefused, RunError
from carpool.privacy.storage import append_line, refusals, write_text

_HEAD = "participation-1"


class ParticipationFile:
    """`Participation` that survives kill -9; one process at a time writes it."""

    def __init__(self, path: Path, schema: Schema, rounds: int, *, resume: bool = False) -> None:
        """Begin the record at `path`, or with `resume` go on with the one that is there.

        Raises RunError for a record that is there (or is not, with `resume`), is damaged, or is of another
        schema.
        """
        self._path, self._record, self._broken = path, Participation(schema, rounds), False
        head = f"{_HEAD} {schema.min_separation} {schema.max_participations} {rounds}"
        if not resume:
            if path.exists():
                raise RunError(
                    f"{path} is the record of another training; resume that, or use another folder"
                )
            write_text(path, _line(head))
            return
        with refusals(path, "read"):
            data = path.read_bytes()
        whole, _, torn = data.rpartition(b"\n")
        lines = [self._body(line, number) for number, line in enumerate(whole.split(b"\n"), 1)]
        if lines[0] != head:
            raise RunError(
                f"{path} is the record of {lines[0]!r}, not of {head!r} (separation, participations, "
                "rounds); go on with the schema that the training began with"
            )
        for number, line in enumerate(lines[1:], 2):
            self._replay(line, number)
        if torn:
            with refusals(path), path.open("r+b") as file:
                file.truncate(len(data) - len(torn))
                os.fsync(file.fileno())
            self._keep_if_whole(torn, len(lines) + 1)

    @property
    def latest(self) -> int:
        """The last round that anybody was admitted to, 0 for none."""
        return int(self._record.dump()["last"].max(initial=0))

    def dump(self) -> dict[str, NDArray[Any]]:
        """Who took part, how often and when last: see `Participation.dump`."""
        return self._record.dump()

    def allowed(self, vehicles: ArrayLike, round_: int) -> NDArray[np.bool_]:
        """For each vehicle whether it may take part in `round_`."""
        return self._record.allowed(vehicles, round_)

    def admit(self, vehicles: ArrayLike, round_: int) -> None:
        """Count the vehicles as taking part, on disk before this returns: only then may their tasks go out.

        All or none. Raises PrivacyRefused for a vehicle that may not, RunError where the disk refuses; after
        that the record takes nothing more until it is opened again.
        """
        if self._broken:
            raise RunError(f"{self._path} could not be written before; open the record again")
        ids = self._record.check(vehicles, round_)
        if len(ids):
            self._append(" ".join(map(str, [round_, *ids.tolist()])))
            self._record.admit(ids, round_)

    def _append(self, body: str) -> None:
        self._broken = True  # a line may stand there in part until we know better
        append_line(self._path, _line(body)[:-1])
        self._broken = False

    def _keep_if_whole(self, torn: bytes, number: int) -> None:
        """A last line that lacks its newline alone is kept: one participation too many hurts nobody."""
        check, _, body = torn.partition(b" ")
        if check == _check(body):
            text = self._body(torn, number)
            self._replay(text, number)
            self._append(text)

    def _body(self, line: bytes, number: int) -> str:
        check, _, body = line.partition(b" ")
        if check != _check(body) or not body.isascii():
            raise self._damaged(number)
        return body.decode()

    def _replay(self, body: str, number: int) -> None:
        try:
            round_, *ids = map(int, body.split(" "))
            self._record.admit(ids, round_)
        except (ValueError, PrivacyRefused) as error:
            raise self._damaged(number) from error

    def _damaged(self, number: int) -> RunError:
        return RunError(
            f"line {number} of {self._path} is damaged: nobody knows who took part; restore the file or "
            "begin a new training with its own charge"
        )


def _line(body: str) -> str:
    return f"{_check(body.encode()).decode()} {body}\n"


def _check(body: bytes) -> bytes:
    return b"%08x" % zlib.crc32(body)
