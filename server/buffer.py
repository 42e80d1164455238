"""What came in since the last step of an asynchronous server."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from carpool.server.inflight import Ask
from carpool.server.selection import Ids
from carpool.strategies.fold import Fold


@dataclass(frozen=True)
class Counted:
    """A contribution in the buffer; seconds: from ask to reply; staleness: in versions."""

    ask: Ask
    weight: float
    loss: float
    examples: int
    seconds: float
    staleness: int


@dataclass
class Buffer:
    """What happened since the last step.

    began: seconds of the clock; present: who was there then; ended: every ask that came to an end, whichever;
    refused, old, silent: how many of them were so.
    """

    fold: Fold
    began: float
    present: Ids | range
    counted: list[Counted] = field(default_factory=list)
    ended: list[Ask] = field(default_factory=list)
    failures: list[int] = field(default_factory=list)
    refused: int = 0
    old: int = 0
    silent: int = 0
    sent: int = 0
    bytes_up: int = 0
    bytes_down: int = 0

    @property
    def train_loss(self) -> float | None:
        """Mean loss of the local trainings, weighted like the update; None where it is not finite."""
        weight = math.fsum(one.weight for one in self.counted)
        mean = sum(one.weight * one.loss for one in self.counted) / weight if weight else math.nan
        return mean if math.isfinite(mean) else None
