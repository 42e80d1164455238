"""Time as the server sees it: a monotonic clock on real fleets, a virtual one in the simulator."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds since some start; never goes back."""

    def now(self) -> float:
        """Seconds."""

    def wait(self, until: float) -> None:
        """Return at `until`, or earlier when something may have happened; always goes forward in time."""


class RealClock:
    """The machine's monotonic clock; waits in slices, so that the caller can poll."""

    def __init__(self, poll: float = 0.25) -> None:
        self._poll = poll

    def now(self) -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()

    def wait(self, until: float) -> None:
        """Sleep until `until`, at most one polling interval."""
        time.sleep(max(0.0, min(until - time.monotonic(), self._poll)))
