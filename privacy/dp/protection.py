"""What vehicles and server agree on about noise, before anything of a training is sent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from carpool.privacy.dp.events import Relation, Unit

Mechanism = Literal["none", "central", "distributed", "local", "sgd", "matrix"]
ON_THE_SUM = ("central", "matrix")
"""Mechanisms whose noise the server adds: it sees sums without noise."""
NOISED_BEFORE = ("local", "sgd")
"""Mechanisms whose contributions are private each by itself: a sum of them has no form of its own."""


@dataclass(frozen=True)
class Protection:
    """A training under differential privacy.

    clip_norm: joint L2 norm of what a vehicle sends, weight units; noise_multiplier: standard deviation of
    the noise in a released sum (local: of one vehicle), in clip norms; cohort: the public number that sums
    are divided by; private: false where noise comes from a seeded generator, of tests and demonstrations.
    """

    mechanism: Mechanism
    clip_norm: float
    noise_multiplier: float
    cohort: int
    unit: Unit = "vehicle"
    relation: Relation = "zero-out"
    private: bool = True

    @property
    def joint(self) -> bool:
        """Whether a vehicle's channels are clipped together; example-level noise clips examples instead."""
        return self.mechanism != "sgd"


def sure(counted: int, roster: int, gamma: float, relation: Relation) -> int:
    """Vehicles among those in a sum that are sure to add noise nobody else knows, 0 or more.

    counted: in the sum; roster: of whom they are. At most floor(gamma roster) are in league with whoever
    looks, and those are the last to leave: they may all be in the sum. Under add-remove the neighbouring
    fleet lacks one more, its noise included; under zero-out and replace-one somebody's noise is in its place.

    >>> sure(80, 100, 0.05, "zero-out"), sure(80, 100, 0.05, "add-remove"), sure(4, 100, 0.05, "zero-out")
    (75, 74, 0)
    """
    return max(0, counted - math.floor(gamma * roster + 1e-9) - (relation == "add-remove"))


def honest(n_min: int, most: int, gamma: float, relation: Relation) -> int:
    """Those for whom noise is planned: `sure` of a sum of n_min from the largest roster; ValueError if none.

    most: vehicles in that roster, n_min or more: all who lie may be among the n_min that stay.
    """
    found = sure(n_min, max(n_min, most), gamma, relation)
    if found < 1:
        raise ValueError(
            f"of {n_min} vehicles in a sum of {most} asked, none is sure to add noise; raise "
            "privacy.secagg.n_min or lower corrupt_fraction"
        )
    return found
