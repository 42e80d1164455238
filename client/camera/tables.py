"""Parquet and Arrow files as batches of columns, whichever of the two a file is; needs pyarrow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from carpool.privacy.errors import DataError, UsageError

SUFFIXES = (".parquet", ".arrow")
ROWS = 64
"""Rows that are in memory undecoded."""


def pyarrow() -> Any:
    """The library; raises UsageError that says how to install it."""
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(
            "the source parquet reads files with pyarrow, which is not installed; "
            "install it with pip install 'carpool[parquet]'"
        ) from error
    return pyarrow


@contextmanager
def complaints(file: Path) -> Iterator[None]:
    """Whatever pyarrow says against a file, as a DataError that names it."""
    pa = pyarrow()
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, EOFError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{file} is not a readable table ({reason}); copy it again") from error


def schema_of(file: Path) -> Any:
    """The Arrow schema with its metadata; raises DataError."""
    pa = pyarrow()
    with complaints(file):
        if file.suffix == ".parquet":
            return pa.parquet.read_schema(file)
        with pa.memory_map(str(file)) as source:
            return stream(pa, source).schema


def count_of(file: Path) -> int:
    """Number of rows, without reading pictures; raises DataError."""
    pa = pyarrow()
    with complaints(file):
        if file.suffix == ".parquet":
            return int(pa.parquet.read_metadata(file).num_rows)
        with pa.memory_map(str(file)) as source:
            return sum(batch.num_rows for batch in record_batches(stream(pa, source)))


def batches_of(file: Path, columns: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
    """The columns as Python values, at most ROWS rows at once, in the file's order; raises DataError."""
    pa = pyarrow()
    if file.suffix == ".parquet":
        with complaints(file), pa.parquet.ParquetFile(file) as table:
            parts = table.iter_batches(batch_size=ROWS, columns=list(columns))
            while (batch := next(parts, None)) is not None:
                yield {name: batch.column(name).to_pylist() for name in columns}
        return
    with complaints(file), pa.memory_map(str(file)) as source:
        for whole in record_batches(stream(pa, source)):
            for start in range(0, whole.num_rows, ROWS):
                part = whole.slice(start, ROWS)
                yield {name: part.column(name).to_pylist() for name in columns}


def stream(pa: Any, source: Any) -> Any:
    """A reader of Arrow's stream format (which `datasets` writes) or its file format."""
    try:
        return pa.ipc.open_stream(source)
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_file(source)


def record_batches(reader: Any) -> Iterator[Any]:
    """The record batches of either reader."""
    if hasattr(reader, "get_batch"):
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)
        return
    yield from reader
