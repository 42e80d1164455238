"""An odometer on a vehicle's disk: replaced as a whole, synced before a participation, nobody else's."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from carpool.privacy.dp.events import Relation, Unit
from carpool.privacy.dp.ledgerlines import event_of, is_text, plain
from carpool.privacy.dp.odometer import Cap, Odometer, Reading, Training
from carpool.privacy.errors import PrivacyRefused, UsageError
from carpool.privacy.logentries import canonical, parse
from carpool.privacy.storage import refusals, sync_folder

VERSION = 1
MOST_BYTES = 1 << 24
MODE = 0o600
_FIELDS = {"version", "holder", "unit", "relation", "events", "trainings", "moments", "hash"}


class FileOdometer(Odometer):
    """An odometer in a file of mode 0600, replaced as a whole and synced before a participation begins.

    One file may serve the vehicles of one owner on one machine. Raises PrivacyRefused for a file that is
    damaged or that others can read, UsageError for one of another holder, unit or relation, RunError.
    """

    def __init__(
        self,
        path: Path,
        holder: str,
        cap: Cap,
        *,
        unit: Unit = "vehicle",
        relation: Relation = "zero-out",
    ) -> None:
        super().__init__(holder, cap, unit=unit, relation=relation)
        self._path = path
        with refusals(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self.reading()

    def reading(self) -> Reading:
        """What the file says; an empty reading where there is none yet."""
        data = _guarded(self._path)
        if data is None:
            return Reading()
        try:
            document = parse(data)
            stated, reading = _decoded(document)
        except (ValueError, TypeError, KeyError) as error:
            raise PrivacyRefused(
                f"the odometer {self._path} does not hold: {error}; this {self.unit} takes part in nothing "
                f"until a copy that holds is in its place"
            ) from error
        if stated != (self.holder, self.unit, self.relation):
            raise UsageError(f"{self._path} counts for {', '.join(stated)}; name another file")
        return reading

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait until no other process counts in this file, for milliseconds."""
        place = self._path.with_name(f".{self._path.name}.lock")
        with refusals(place, "lock"):
            file = os.fdopen(os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, MODE), "rb")
        with file:
            with refusals(place, "lock"):
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _write(self, reading: Reading) -> None:
        data = _encoded(self.holder, self.unit, self.relation, reading)
        with refusals(self._path):
            handle, name = tempfile.mkstemp(
                dir=self._path.parent, prefix=f".{self._path.name}.", suffix=".tmp"
            )
            temporary = Path(name)
            try:
                with os.fdopen(handle, "wb") as file:
                    os.fchmod(file.fileno(), MODE)
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(self._path)
            finally:
                temporary.unlink(missing_ok=True)
            sync_folder(self._path.parent)


def _guarded(path: Path) -> bytes | None:
    """The bytes of a file that is this user's alone; None if there is none."""
    with refusals(path, "read"):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_uid not in (os.geteuid(), 0):
                raise PrivacyRefused(f"the odometer {path} is no regular file of this user's; put one there")
            if found.st_mode & 0o077:
                mode = stat.S_IMODE(found.st_mode)
                raise PrivacyRefused(
                    f"the odometer {path} has mode {mode:04o}; if nobody changed it, chmod 600"
                )
            return file.read(MOST_BYTES)


def _encoded(holder: str, unit: Unit, relation: Relation, reading: Reading) -> bytes:
    made: dict[str, Any] = {"version": VERSION, "holder": holder, "unit": unit, "relation": relation}
    made["events"] = [plain(asdict(one)) for one in reading.all_events()]
    made["trainings"] = {
        name: {**asdict(one), "event": plain(asdict(one.event))} for name, one in reading.trainings.items()
    }
    made["moments"] = list(reading.moments)
    return canonical({**made, "hash": hashlib.sha256(canonical(made)).hexdigest()})


def _decoded(document: Mapping[str, Any]) -> tuple[tuple[str, str, str], Reading]:
    """Whose it is, and the reading; raises ValueError, TypeError or KeyError."""
    made = {name: value for name, value in document.items() if name != "hash"}
    if document.keys() != _FIELDS or made["version"] != VERSION:
        raise ValueError("its fields or version are unknown")
    if document["hash"] != hashlib.sha256(canonical(made)).hexdigest():
        raise ValueError("its hash is not that of what it says")
    counted = [event_of(one) for one in made["events"]]
    events = {replace(one, count=1): one.count for one in counted}
    if len(events) != len(counted) or not isinstance(made["trainings"], dict):
        raise ValueError("its events and trainings stand there once each")
    trainings = {name: _training(one) for name, one in made["trainings"].items()}
    moments = made["moments"]
    if not isinstance(moments, list) or not all(is_text(one) for one in (*moments, *trainings)):
        raise ValueError("its moments and trainings have names")
    return (made["holder"], made["unit"], made["relation"]), Reading(events, trainings, tuple(moments))


def _training(one: Any) -> Training:
    if not isinstance(one, dict) or one.keys() != {"event", "separation", "most", "last", "times"}:
        raise ValueError("a training's fields are unknown")
    whole = {name: value for name, value in one.items() if name != "event"}
    if not all(type(value) is int and value >= 0 for value in whole.values()):
        raise ValueError("a training is counted in whole numbers")
    return Training(event_of(one["event"]), **whole)
