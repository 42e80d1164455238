"""A fleet's training data in memory that worker processes share.

Camera frames are mapped, not copied: from the cache's file where they lie in one, else from shared memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carpool.client.camera.fleetdata import PooledFleet
from carpool.client.camera.samples import Pool, Schema, Shard
from carpool.privacy.errors import DataError, RunError


@dataclass(frozen=True)
class Mapped:
    """Where an array lies: in a file (path, offset) or in a shared memory block (its name)."""

    name: str
    offset: int | None
    dtype: str
    shape: tuple[int, ...]

    def open(self) -> tuple[NDArray[Any], shared_memory.SharedMemory | None]:
        """The array, read-only, and the block that must be kept open for it."""
        if self.offset is not None:
            return np.memmap(self.name, self.dtype, "r", self.offset, self.shape), None
        block = shared_memory.SharedMemory(self.name, create=False)
        array: NDArray[Any] = np.ndarray(self.shape, self.dtype, block.buf)
        array.flags.writeable = False
        return array, block


@dataclass(frozen=True)
class SharedData:
    """A fleet's training data for the workers; columns by target name, rows of all vehicles end to end.

    held: rows of the validation samples; None where they are no rows of these frames.
    """

    schema: Schema
    frames: Mapped
    columns: Mapping[str, Mapped]
    rows: Mapped
    bounds: Mapped
    held: Mapped | None


class Blocks:
    """Shared memory of this process: made once, removed by `close`."""

    def __init__(self) -> None:
        self._blocks: list[shared_memory.SharedMemory] = []

    def share(self, array: NDArray[Any]) -> Mapped:
        """Map the array's file, or copy it into shared memory once; raises RunError where that is full."""
        file = getattr(array, "filename", None)
        if isinstance(array, np.memmap) and file is not None and array.flags.c_contiguous:
            return Mapped(str(Path(file).resolve()), int(array.offset), array.dtype.str, array.shape)
        try:
            block = shared_memory.SharedMemory(create=True, size=max(1, array.nbytes))
        except OSError as error:
            raise RunError(
                f"cannot share {array.nbytes / 1e6:.0f} MB with worker processes: {error.strerror}; "
                "enlarge /dev/shm or set experiment.workers = 1"
            ) from error
        self._blocks.append(block)
        np.ndarray(array.shape, array.dtype, block.buf)[...] = array
        return Mapped(block.name, None, array.dtype.str, array.shape)

    def fleet(self, fleet: PooledFleet) -> SharedData:
        """Share what the vehicles train on."""
        bounds = np.cumsum([0, *(len(rows) for rows in fleet.rows)]).astype(np.int64)
        return SharedData(
            fleet.pool.schema,
            self.share(fleet.pool.frames),
            {name: self.share(np.asarray(column)) for name, column in fleet.pool.targets.items()},
            self.share(np.concatenate(fleet.rows)),
            self.share(bounds),
            self.share(fleet.held) if fleet.test is None else None,
        )

    def close(self) -> None:
        """Remove every block."""
        for block in self._blocks:
            block.close()
            with suppress(FileNotFoundError):
                block.unlink()
        self._blocks.clear()


class SharedFleet:
    """The training half of FleetData over shared arrays, in a worker."""

    def __init__(self, data: SharedData) -> None:
        self._open = [data.frames.open(), data.rows.open(), data.bounds.open()]
        columns = {name: mapped.open() for name, mapped in data.columns.items()}
        self._open += columns.values()
        self._held = None
        if data.held is not None:
            self._open.append(data.held.open())
            self._held = self._open[-1][0]
        frames, self._rows, self._bounds = (array for array, _ in self._open[:3])
        none = np.zeros(len(frames), np.int64)
        self._pool = Pool(data.schema, frames, {n: array for n, (array, _) in columns.items()}, none, none)

    @property
    def schema(self) -> Schema:
        """Shape and meaning of every sample."""
        return self._pool.schema

    @property
    def vehicles(self) -> int:
        """Number of vehicles."""
        return len(self._bounds) - 1

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Training samples of each vehicle, int64 [vehicles]."""
        return np.diff(self._bounds)

    def training(self, vehicle: int) -> Shard:
        """What a vehicle trains on."""
        return Shard(self._pool, self._rows[self._bounds[vehicle] : self._bounds[vehicle + 1]])

    def own_validation(self, vehicle: int) -> Shard:
        """Not shared: nobody asks workers for it."""
        raise DataError("workers do not know what a vehicle holds back")

    def validation(self) -> Shard:
        """All that is held back; raises DataError where that is not shared."""
        if self._held is None:
            raise DataError("workers have no validation data")
        return Shard(self._pool, self._held)

    def domain(self, vehicle: int) -> str:
        """Not shared."""
        return ""
