"""What a vehicle finds out before it uploads: which buffer takes its update, with the server's signature.

It is public and in the log, so that everybody is told the same. A simulated vehicle asks when its upload
begins; where the buffer of that moment is closed and the next one not open yet, it waits for the next one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from carpool.privacy.errors import VehicleError


@dataclass(frozen=True)
class Posted:
    """A buffer's announcement and its committee, as bytes; closed: when, seconds of the server's clock."""

    announced: bytes
    committee: bytes
    closed: float = math.inf


class Board:
    """The announcements that a vehicle under way may have been told, oldest first; one at most is open."""

    def __init__(self) -> None:
        self._posted: list[Posted] = []

    def post(self, announced: bytes, committee: bytes, oldest: float) -> None:
        """Open a buffer; oldest: nobody under way was asked before."""
        self._posted = [one for one in self._posted if one.closed > oldest]
        self._posted.append(Posted(announced, committee))

    def close(self, now: float) -> None:
        """Close the open one."""
        self._posted[-1] = replace(self._posted[-1], closed=now)

    def at(self, moment: float) -> tuple[bytes, bytes]:
        """Announcement and committee that a vehicle is told that asks then; raises VehicleError for none."""
        for one in self._posted:
            if one.closed > moment:
                return one.announced, one.committee
        raise VehicleError("no buffer is open")
