"""The one interface to camera data: pools of frames, and the part of a pool that one vehicle holds.

A source (procedural, gtsrb, npz, ...) reads or renders a `Pool`; `splits.py` says which rows belong to which
vehicle; training takes batches. Frames stay uint8 and where they are; only a batch becomes float.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from carpool.client.camera.pipeline import DEFAULT, Pipeline
from carpool.privacy.errors import DataError

Frames = NDArray[np.uint8]
"""uint8 [n, views, height, width, 3], RGB."""
Rows = NDArray[np.int64]
"""int64 [n], indices into a pool."""


@dataclass(frozen=True)
class Target:
    """What is to be predicted from a sample.

    kind "class": int64 [n], 0..len(classes)-1, cross-entropy.
    kind "flags": uint8 [n, width] of 0/1 (one a view for obstacles), binary cross-entropy.
    kind "value": float32 [n], in `unit`, scaled by `scale` before the squared error.
    """

    name: str
    kind: Literal["class", "flags", "value"]
    classes: tuple[str, ...] = ()
    width: int = 1
    unit: str = ""
    scale: float = 1.0

    @property
    def outputs(self) -> int:
        """Number of numbers that a model head gives for this target."""
        return len(self.classes) if self.kind == "class" else self.width


@dataclass(frozen=True)
class Schema:
    """Shape and meaning of a pool's samples, and what is done with their pixels."""

    views: tuple[str, ...]
    height: int
    width: int
    targets: tuple[Target, ...]
    pipeline: Pipeline = DEFAULT

    def target(self, name: str) -> Target:
        """The target of that name; raises DataError with the known names."""
        for target in self.targets:
            if target.name == name:
                return target
        raise DataError(f"no target {name!r} in this data; it has {', '.join(t.name for t in self.targets)}")


@dataclass(frozen=True)
class Pool:
    """Samples of one data set, held once in memory or as a memory map.

    frames: uint8 [N, views, height, width, 3].
    targets: one array [N] or [N, width] a target of the schema.
    group: int64 [N], the natural key that must not straddle training and validation (track, drive).
    vehicle: int64 [N], who recorded it, or None where the data set does not know.
    order: int64 [N], position in time inside the group.
    domain: a word a recording vehicle ("highway, dusk, rain"), for people; may be empty.
    """

    schema: Schema
    frames: Frames
    targets: Mapping[str, NDArray[np.generic]]
    group: Rows
    order: Rows
    vehicle: Rows | None = None
    domain: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.check()

    def __len__(self) -> int:
        return len(self.frames)

    def check(self) -> None:
        """Refuse what does not fit the schema; raises DataError with the value and the place."""
        n, schema = len(self.frames), self.schema
        shape = (n, len(schema.views), schema.height, schema.width, 3)
        if self.frames.dtype != np.uint8 or self.frames.shape != shape:
            raise DataError(f"frames must be uint8 {shape}, not {self.frames.dtype} {self.frames.shape}")
        if n == 0:
            raise DataError("the data set has no samples")
        for name, column in (("group", self.group), ("order", self.order), ("vehicle", self.vehicle)):
            if column is not None and (column.shape != (n,) or column.dtype != np.int64):
                raise DataError(f"{name} must be int64 ({n},), not {column.dtype} {column.shape}")
        for target in schema.targets:
            if target.name not in self.targets:
                raise DataError(
                    f"column {target.name!r} is missing; the data has {', '.join(sorted(self.targets))}"
                )
            check_target(target, self.targets[target.name], n)


def check_target(target: Target, values: NDArray[np.generic], n: int) -> None:
    """Refuse a column of the wrong shape, type or range; raises DataError naming the first bad row."""
    shape = (n, target.width) if target.kind == "flags" else (n,)
    kinds = {"class": np.int64, "flags": np.uint8, "value": np.float32}
    if values.shape != shape or values.dtype != kinds[target.kind]:
        raise DataError(
            f"column {target.name!r} must be {np.dtype(kinds[target.kind])} {shape}, "
            f"not {values.dtype} {values.shape}"
        )
    if target.kind == "class":
        bad = (values < 0) | (values >= len(target.classes))  # type: ignore[operator]
        allowed = f"0..{len(target.classes) - 1}"
    elif target.kind == "flags":
        bad = (values > 1).any(axis=1)  # type: ignore[operator]
        allowed = "0 or 1"
    else:
        bad = ~np.isfinite(values)
        allowed = "a finite number"
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(f"column {target.name!r} is {values[row]} in row {row}; it must be {allowed}")


@dataclass(frozen=True)
class Shard:
    """The rows of a pool that one vehicle holds; nothing is copied until a batch is taken."""

    pool: Pool
    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, index: Rows) -> tuple[Frames, dict[str, NDArray[np.generic]]]:
        """Frames uint8 [b, views, h, w, 3] and targets of the rows `index` (positions inside the shard)."""
        rows = self.rows[index]
        return self.pool.frames[rows], {name: column[rows] for name, column in self.pool.targets.items()}


class FleetData(Protocol):
    """What the vehicles hold and what the experimenter validates on."""

    @property
    def schema(self) -> Schema:
        """Shape and meaning of every sample of the fleet."""

    @property
    def vehicles(self) -> int:
        """Number of vehicles."""

    @property
    def sizes(self) -> Rows:
        """Training samples of each vehicle, int64 [vehicles]; found without making any."""

    def training(self, vehicle: int) -> Shard:
        """What vehicle 0..vehicles-1 trains on."""

    def own_validation(self, vehicle: int) -> Shard:
        """What the vehicle holds back from training (whole groups); may be empty."""

    def validation(self) -> Shard:
        """What the experimenter measures on: the official test set, or all that is held back."""

    def domain(self, vehicle: int) -> str:
        """A few words on where and when this vehicle drives, or an empty string."""
