"""The one fold loop: contributions in, weighted sums (or sets) out; O(d) memory for `sum` channels.

Pure: no clock, no socket, no randomness. The caller gives the order, and the same order gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from carpool.privacy.vectors import Vector, check_vector
from carpool.strategies.contract import Channel, Reduced

BLOCK = 1 << 15
"""Elements a block: the product and the sum stay in the first-level cache."""


class Fold:
    """Adds up contributions of the declared channels, each float32 [size].

    >>> fold = Fold((Channel("delta"),), 2)
    >>> fold.add({"delta": np.array([1, 2], np.float32)}, weight=3.0)
    >>> fold.add({"delta": np.array([5, 6], np.float32)}, weight=1.0)
    >>> fold.reduce().mean("delta")
    array([2., 3.], dtype=float32)
    """

    def __init__(self, channels: Sequence[Channel], size: int) -> None:
        self._channels = tuple(channels)
        self._size = size
        self._sums = {c.name: np.zeros(size, np.float32) for c in channels if c.reduce == "sum"}
        self._sets: dict[str, list[Vector]] = {c.name: [] for c in channels if c.reduce == "set"}
        self._product = np.empty(min(BLOCK, size), np.float32)
        self.weight = 0.0
        self.count = 0

    def add(self, vectors: Mapping[str, Vector], weight: float) -> None:
        """Count one contribution, or raise VehicleError/ValueError before anything has changed.

        weight: finite, > 0. A vector with NaN or Inf, of another shape, or an unknown or missing channel is
        refused: nothing of it is added.
        """
        self.check(vectors, weight)
        for name, total in self._sums.items():
            self._add_scaled(total, vectors[name], np.float32(weight))
        for name, kept in self._sets.items():
            kept.append(np.array(vectors[name]))
        self.weight += weight
        self.count += 1

    def check(self, vectors: Mapping[str, Vector], weight: float) -> None:
        """Raise VehicleError (bad vector) or ValueError (bad weight, wrong channels); change nothing."""
        names = {channel.name for channel in self._channels}
        if set(vectors) != names:
            raise ValueError(f"a contribution carries {sorted(names)}, not {sorted(vectors)}")
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"a contribution's weight must be finite and above 0, not {weight}")
        for name, vector in vectors.items():
            check_vector(vector, self._size, name)

    def _add_scaled(self, total: Vector, vector: Vector, weight: np.float32) -> None:
        for start in range(0, self._size, BLOCK):
            part = vector[start : start + BLOCK]
            product = np.multiply(part, weight, out=self._product[: len(part)])
            total[start : start + BLOCK] += product

    def reduce(self, denominator: float | None = None) -> Reduced:
        """The result so far; `denominator` replaces the total weight (a public constant under privacy).

        Raises ValueError when nothing was counted, or for a denominator that is not finite and above 0.
        """
        if self.count == 0:
            raise ValueError("nothing was counted, so there is nothing to reduce")
        by = self.weight if denominator is None else denominator
        if not (math.isfinite(by) and by > 0):
            raise ValueError(f"the denominator must be finite and above 0, not {by}")
        sets = {name: np.stack(kept) for name, kept in self._sets.items()}
        sums = {name: total.copy() for name, total in self._sums.items()}
        return Reduced(sums, sets, by, self.count)
