"""What was released, as facts: no epsilon stands in a ledger, every epsilon is computed from these.

An event is one release (or `count` alike ones). Mechanisms make them, the ledger keeps them, the accountant
turns them into (epsilon, delta) and raises on what it does not know.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Relation = Literal["zero-out", "add-remove", "replace-one"]
Unit = Literal["vehicle", "owner", "vehicle-day", "example"]
RELATIONS: tuple[Relation, ...] = ("zero-out", "add-remove", "replace-one")
UNITS: tuple[Unit, ...] = ("vehicle", "owner", "vehicle-day", "example")


@dataclass(frozen=True)
class Event:
    """One release, or several alike.

    mechanism: "gaussian", "skellam" or "matrix" (one whole training); noise_multiplier: standard deviation of
    the noise in the released sum over the clip norm, REALISED (0: epsilon is infinite); sampling_rate: of
    Poisson sampling, 1 for none; count: how many alike, one after the other; sensitivity: L2, in clip norms,
    under zero-out (1 but for matrix: the factorisation's, and skellam, whose rounding adds to it);
    l1: L1 sensitivity in steps and step: clip norms a step, both above 0 for skellam and 0 for all else.
    Raises ValueError. Whether a mechanism is known, and what it may claim, is for the accountant to say.
    """

    mechanism: Literal["gaussian", "skellam", "matrix"]
    noise_multiplier: float
    sampling_rate: float = 1.0
    count: int = 1
    sensitivity: float = 1.0
    l1: float = 0.0
    step: float = 0.0

    def __post_init__(self) -> None:
        numbers = (self.noise_multiplier, self.sampling_rate, self.sensitivity, self.l1, self.step)
        if not all(math.isfinite(number) and number >= 0 for number in numbers):
            raise ValueError(f"an event of {numbers} is malformed; all numbers are finite and 0 or more")
        whole = self.count >= 1 and int(self.count) == self.count
        if not 0 < self.sampling_rate <= 1 or not whole or self.sensitivity <= 0:
            raise ValueError(
                f"a sampling rate of {self.sampling_rate}, {self.count} releases, sensitivity "
                f"{self.sensitivity}: use a rate above 0 up to 1, 1 release or more, a sensitivity above 0"
            )
        if (self.mechanism == "skellam") != (self.l1 > 0) or (self.l1 > 0) != (self.step > 0):
            raise ValueError(
                f"a {self.mechanism} event of L1 sensitivity {self.l1} and step {self.step}: skellam alone "
                "has both, above 0"
            )
