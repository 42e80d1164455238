"""A fold whose sum is private: joint clipping, whole grid steps, and nothing to be had before the noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from carpool.privacy.dp.grid import GridSum
from carpool.privacy.dp.joint import clip_jointly
from carpool.privacy.errors import RoundError
from carpool.privacy.vectors import Vector
from carpool.strategies.contract import Channel, Facts, Reduced
from carpool.strategies.fold import Fold


class PrivateFold(Fold):
    """Adds up contributions that all count alike, each of joint L2 norm at most clip_norm.

    The server clips again: a vehicle that does not clip moves the sum by no more than the others.
    """

    def __init__(self, channels: Sequence[Channel], size: int, facts: Facts, clip_norm: float) -> None:
        super().__init__(channels, size, facts)
        self.grid = GridSum({c.name: size if c.size == "shared" else c.size for c in channels}, clip_norm)

    def add(self, vectors: Mapping[str, Vector], weight: float, *, checked: bool = False) -> None:
        """Count one contribution as 1, whatever it says of its weight; raises VehicleError, ValueError."""
        if not checked:
            self.check(vectors, weight)
        clipped, _ = clip_jointly(vectors, self.grid.grid.clip_norm)
        self.grid.add(clipped)
        self.weight += 1.0
        self.count += 1

    def reduce(self, denominator: float | None = None) -> Reduced:
        """Never: what may be known of this sum is known with its noise (`Private.noised`)."""
        raise RoundError("a private sum is not reduced without its noise")
