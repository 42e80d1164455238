"""The `local` mechanism: each vehicle adds enough noise for itself, and trusts nobody with anything.

Unit: what one contribution is of (vehicle; owner with one contribution a round; vehicle-day). Relation:
    zero-out, or replace-one, which the accountant counts twice; that a vehicle takes part is seen by all.
Sensitivity: one clip norm in L2 over ALL channels together, checked in exact integers before noise is added.
Theorem: Gaussian mechanism, Balle and Wang 2018, arXiv:1805.06530, Theorem 8 (never the textbook's
    sqrt(2 ln(1.25 / delta)) / epsilon, which holds for epsilon < 1 only); in whole numbers by grid.py.
Event: "gaussian" for each participation of ONE vehicle: a ledger of the fleet charges each round, as if a
    vehicle were in all of them; a vehicle's odometer charges its own. No sampling, no amplification.
Not covered: what leaves beside the contribution (its weight, loss, number of samples), and whether a vehicle
    replies at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from carpool.privacy.dp.events import Event, Relation
from carpool.privacy.dp.grid import Grid, check_noise, gaussian
from carpool.privacy.dp.randomness import Bits
from carpool.privacy.vectors import Vector


@dataclass(frozen=True)
class LocalPlan:
    """What each vehicle does.

    clip_norm: weight units; noise_multiplier: standard deviation of ONE vehicle's noise, in clip norms;
    sizes: numbers by channel. Raises ValueError.
    """

    clip_norm: float
    noise_multiplier: float
    sizes: Mapping[str, int]

    def __post_init__(self) -> None:
        check_noise(self.noise_multiplier)
        _ = self.grid

    @cached_property
    def grid(self) -> Grid:
        """What one contribution is."""
        return Grid(self.sizes, self.clip_norm)

    def noised(self, vectors: Mapping[str, Vector], bits: Bits) -> dict[str, Vector]:
        """What leaves the vehicle: its clipped contribution with noise on every number, float32 by channel.

        bits: fresh ones from the operating system; where `bits.private` is False, what comes out is NOT
        PRIVATE. Charge it first. Raises VehicleError as `Grid.whole` does.
        """
        whole = self.grid.whole(vectors)
        noise = gaussian(bits, self.noise_multiplier, self.grid.size)
        noise += whole
        return self.grid.floats(noise)

    def event(self, participations: int = 1) -> Event:
        """What so many participations of one vehicle are charged as."""
        return Event("gaussian", self.noise_multiplier, count=participations)

    def noise_std(self, contributions: int = 1) -> float:
        """Standard deviation of the noise on each number of a sum of contributions, weight units."""
        return self.noise_multiplier * self.clip_norm * math.sqrt(contributions)


def calibrated(epsilon: float, delta: float, participations: int, relation: Relation = "zero-out") -> float:
    """The noise multiplier with which one vehicle spends at most epsilon in so many participations.

    The analytic Gaussian mechanism, exact for one participation and for many. Raises UsageError.
    """
    from carpool.privacy.dp.calibrate import calibrate  # SciPy is slow to import, and noising needs none

    return calibrate(epsilon, delta, participations, relation=relation)
