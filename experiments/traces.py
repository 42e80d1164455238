"""Recorded traces of when vehicles were available: CSV or Parquet with columns vehicle, start, end[, state].

vehicle: any text or integer. start < end: seconds as numbers, or ISO 8601 timestamps (UTC where no zone is
given), one kind a file. Time 0 is the earliest start of the file. state: if the column is there, only rows
that say "eligible" or "available" are presence; every other row (home, parked, driving, empty) still names
its vehicle and its time.
"""

from __future__ import annotations

import csv
import math
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carpool.privacy.errors import DataError, UsageError

MAX_ROWS = 50_000_000
PRESENT_STATES = frozenset({"eligible", "available"})
_COLUMNS = ("vehicle", "start", "end")
_FIX = "give columns vehicle, start, end and, if you like, state"


@dataclass(frozen=True)
class Table:
    """Presence of a recorded fleet; intervals may overlap.

    ids: the trace's vehicle ids, sorted (as numbers if all are integers); vehicle: int64 [n], index into ids.
    start < end: float64 [n], seconds since the earliest start of the file.
    """

    ids: tuple[str, ...]
    vehicle: NDArray[np.int64]
    start: NDArray[np.float64]
    end: NDArray[np.float64]


def read(path: Path, max_rows: int = MAX_ROWS) -> Table:
    """Read a trace (.csv, or .parquet with pyarrow); raises DataError with the line and value at fault."""
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet", ".pq"):
        raise DataError(f"{path} is neither .csv nor .parquet; save the trace as one of the two")
    try:
        return _read_csv(path, max_rows) if suffix == ".csv" else _read_parquet(path, max_rows)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"cannot read the trace {path}: {reason}; check fleet.trace") from error


def seconds(text: str) -> tuple[float, bool]:
    """A time as seconds, and whether it was a timestamp (then seconds since 1970); raises ValueError.

    >>> seconds("90.5"), seconds("1970-01-01T00:01:00Z")
    ((90.5, False), (60.0, True))
    """
    try:
        value, stamp = float(text), False
    except ValueError:
        moment = datetime.fromisoformat(text.strip())
        value, stamp = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp(), True
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite time")
    return value, stamp


class _Clock:
    """Reads times of one file and insists that they are all of one kind."""

    def __init__(self) -> None:
        self._stamps: bool | None = None

    def read(self, text: str, where: str) -> float:
        try:
            value, stamp = seconds(text)
        except ValueError as error:
            raise DataError(f"{where} is {text!r}; write finite seconds or an ISO timestamp") from error
        self.agree(stamp, where)
        return value

    def agree(self, stamp: bool, where: str) -> None:
        if self._stamps not in (None, stamp):
            raise DataError(f"{where} mixes seconds and timestamps; use one of the two in the whole file")
        self._stamps = stamp


def _columns(names: Sequence[str], path: Path) -> dict[str, int]:
    clean = [name.strip().lower() for name in names]
    missing = [name for name in _COLUMNS if name not in clean]
    if missing:
        has = ", ".join(clean) or "none"
        raise DataError(f"{path} has no column {', '.join(missing)} (it has {has}); {_FIX}")
    twice = [name for name in (*_COLUMNS, "state") if clean.count(name) > 1]
    if twice:
        raise DataError(f"{path} has two columns named {twice[0]}; {_FIX}")
    return {name: clean.index(name) for name in (*_COLUMNS, "state") if name in clean}


def _too_many(path: Path, max_rows: int) -> DataError:
    return DataError(f"{path} has more than {max_rows} rows; cut the trace into a shorter one")


def _read_csv(path: Path, max_rows: int) -> Table:
    codes: dict[str, int] = {}
    vehicle, start, end, counts = array("q"), array("d"), array("d"), array("b")
    states: set[str] = set()
    clock = _Clock()
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file)
        try:
            header = next(lines, [])
            at = _columns(header, path)
            for row in lines:
                if not row:
                    continue
                where = f"{path} line {lines.line_num}"
                if len(start) >= max_rows:
                    raise _too_many(path, max_rows)
                if len(row) != len(header):
                    raise DataError(
                        f"{where} has {len(row)} fields and the header {len(header)}; make them equal"
                    )
                name = row[at["vehicle"]].strip()
                first = clock.read(row[at["start"]], f"{where}: start")
                last = clock.read(row[at["end"]], f"{where}: end")
                if not name:
                    raise DataError(f"{where}: vehicle is empty; name the vehicle")
                if last <= first:
                    raise DataError(_backwards(where, row[at["start"]], row[at["end"]]))
                state = row[at["state"]].strip().lower() if "state" in at else "available"
                if len(states) < 10:
                    states.add(state)
                vehicle.append(codes.setdefault(name, len(codes)))
                start.append(first)
                end.append(last)
                counts.append(state in PRESENT_STATES)
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(
                f"{path} line {lines.line_num + 1} is not CSV text ({error}); save it as UTF-8"
            ) from error
    columns = (np.asarray(vehicle), np.asarray(start), np.asarray(end), np.asarray(counts, np.bool_))
    return _table(path, list(codes), *columns, states)


def _backwards(where: str, start: object, end: object) -> str:
    return f"{where}: end {end} is not after start {start}; correct or remove it"


def _read_parquet(path: Path, max_rows: int) -> Table:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UsageError("a Parquet trace needs pyarrow; run: pip install 'carpool[parquet]'") from error
    clock = _Clock()
    try:
        with pq.ParquetFile(path) as file:
            at = _columns(file.schema_arrow.names, path)
            if file.metadata.num_rows > max_rows:
                raise _too_many(path, max_rows)
            names = {name: file.schema_arrow.names[index] for name, index in at.items()}
            data = file.read(columns=list(names.values()))
        columns = {name: data.column(own).combine_chunks() for name, own in names.items()}
        _refuse_nulls(path, columns)
        start, end = (_times(pa, columns[name], f"{path}: column {name}", clock) for name in ("start", "end"))
        encoded = _text(pa, columns["vehicle"]).dictionary_encode()
        states = _text(pa, columns["state"]).dictionary_encode() if "state" in columns else None
    except pa.ArrowException as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise DataError(f"{path} cannot be read as a Parquet trace ({reason}); {_FIX}") from error
    bad = np.flatnonzero(end <= start)
    if len(bad):
        raise DataError(
            _backwards(f"{path} row {bad[0] + 1}", columns["start"][bad[0]], columns["end"][bad[0]])
        )
    counts, seen = np.ones(len(start), np.bool_), {"available"}
    if states is not None:
        known = [str(state).strip().lower() for state in states.dictionary.to_pylist()]
        seen = set(known[:10])
        counts = np.isin(states.indices.to_numpy(), [i for i, s in enumerate(known) if s in PRESENT_STATES])
    ids = [str(name).strip() for name in encoded.dictionary.to_pylist()]
    return _table(path, ids, encoded.indices.to_numpy().astype(np.int64), start, end, counts, seen)


def _refuse_nulls(path: Path, columns: dict[str, Any]) -> None:
    for name in _COLUMNS:
        if columns[name].null_count:
            row = int(np.argmax(columns[name].is_null().to_numpy(zero_copy_only=False))) + 1
            raise DataError(f"{path} row {row}: {name} is empty; fill it in or remove the row")


def _text(pa: Any, column: Any) -> Any:
    plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return plain.cast(pa.string()).fill_null("")


def _times(pa: Any, column: Any, where: str, clock: _Clock) -> NDArray[np.float64]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        texts = enumerate(column.to_pylist(), 1)
        return np.array([clock.read(text, f"{where} row {row}") for row, text in texts], np.float64)
    stamp = pa.types.is_timestamp(kind) or pa.types.is_date(kind)
    clock.agree(stamp, where)
    if stamp:
        zone = getattr(kind, "tz", None)
        whole: NDArray[np.float64] = (
            column.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64()).to_numpy() / 1e6
        )
        return whole
    values: NDArray[np.float64] = column.cast(pa.float64()).to_numpy().astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise DataError(f"{where} row {bad[0] + 1} is {values[bad[0]]}; write finite seconds or a timestamp")
    return values


def _table(
    path: Path,
    ids: list[str],
    vehicle: NDArray[np.int64],
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    counts: NDArray[np.bool_],
    states: set[str],
) -> Table:
    if not len(start):
        raise DataError(f"{path} has a header but no rows; {_FIX}")
    if not counts.any():
        raise DataError(
            f"{path} has no row whose state is eligible or available (it has {', '.join(sorted(states))}); "
            "name those rows so, or drop the column state"
        )
    numbers = all(re.fullmatch(r"-?\d{1,18}", name, re.ASCII) for name in ids)
    # Equal ids after stripping, and "1" beside "01", keep an order that does not depend on the file's.
    names = sorted(set(ids), key=lambda name: (int(name), name) if numbers else (0, name))
    place = {name: index for index, name in enumerate(names)}
    rank = np.array([place[name] for name in ids], np.int64)
    zero = start.min()
    return Table(tuple(names), rank[vehicle[counts]], start[counts] - zero, end[counts] - zero)
