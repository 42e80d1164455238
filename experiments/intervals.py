"""When each vehicle of a fleet comes and goes, as flat arrays that are searched for all vehicles at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Times = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Flips:
    """Moments at which vehicles change state.

    initial: bool [vehicles], present before the first flip.
    offsets: int64 [vehicles + 1]; vehicle v flips at times[offsets[v]:offsets[v + 1]], which is increasing.
    times: float64 [n], virtual seconds; a flip at t holds from t on, so that presence is [start, end).
    """

    initial: Mask
    offsets: Ids
    times: Times

    def present(self, now: float) -> Mask:
        """Who is present at `now`: bool [vehicles]; one pass over all flips."""
        # Only whether a count is odd matters, so it may wrap around.
        passed = np.zeros(len(self.times) + 1, np.uint8)
        np.cumsum(self.times <= now, dtype=np.uint8, out=passed[1:])
        at = passed[self.offsets]
        odd: Mask = ((at[1:] ^ at[:-1]) & 1).astype(np.bool_)
        return self.initial ^ odd

    def present_one(self, vehicle: int, now: float) -> bool:
        """Whether one vehicle is present at `now`."""
        count = int(np.searchsorted(self._own(vehicle), now, side="right"))
        return bool(self.initial[vehicle]) ^ bool(count & 1)

    def next_of(self, vehicle: int, now: float) -> float:
        """The vehicle's first flip after `now`, or infinity."""
        own = self._own(vehicle)
        index = int(np.searchsorted(own, now, side="right"))
        return float(own[index]) if index < len(own) else math.inf

    def next_of_any(self, now: float) -> float:
        """The fleet's first flip after `now`, or infinity."""
        return float(self.times[self.times > now].min(initial=math.inf))

    def final(self) -> Mask:
        """Who is present after the last flip: bool [vehicles]."""
        return self.initial ^ (np.diff(self.offsets) & 1).astype(np.bool_)

    def _own(self, vehicle: int) -> Times:
        return self.times[self.offsets[vehicle] : self.offsets[vehicle + 1]]


def flips(initial: Mask, vehicle: Ids, times: Times) -> Flips:
    """Flips from pairs (vehicle, time) in any order of vehicles, but in order of time within each."""
    order = np.argsort(vehicle, kind="stable")
    counts = np.bincount(vehicle, minlength=len(initial))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Flips(initial, offsets, times[order])


def union(vehicles: int, vehicle: Ids, start: Times, end: Times) -> Flips:
    """The presence that intervals [start, end) describe; overlapping and touching ones become one.

    vehicle: int64 [n] in 0..vehicles-1; start < end: float64 [n], virtual seconds.
    """
    who = np.concatenate([vehicle, vehicle])
    when = np.concatenate([start, end])
    step = np.repeat(np.array([1, -1], np.int64), len(vehicle))
    # At one moment starts come before ends, so that touching intervals merge. Every vehicle's steps add up to
    # zero, so one running sum over the whole fleet counts the intervals that are open.
    order = np.lexsort((-step, when, who))
    step = step[order]
    depth = np.cumsum(step)
    edge = depth == (step > 0)
    return flips(np.zeros(vehicles, np.bool_), who[order][edge], when[order][edge])
