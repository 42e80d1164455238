"""The server's half of `helpers`, without I/O: three sums of masks come off the sum. See once_server.py.

Each pair's masks are asked of one of its two helpers; if that one is gone, of the other. Exact in the ring.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from carpool.privacy import signing
from carpool.privacy.errors import RoundError, VehicleError
from carpool.privacy.identity import Trust
from carpool.privacy.secagg import once
from carpool.privacy.secagg.announcement import VERSION, Announcement, Protocol
from carpool.privacy.secagg.committee import Committee
from carpool.privacy.secagg.helpers_vehicle import HELPERS, PAIRS, PART, held
from carpool.privacy.secagg.masks import Ring, shorten, unpack
from carpool.privacy.secagg.once_server import Again, Answers, Gathering
from carpool.privacy.secagg.once_vehicle import largest
from carpool.privacy.secagg.quantise import ROUNDING

_FIRST = (1, 3, 2)
"""Whom each pair is asked of first: everybody has one."""


@dataclass(frozen=True)
class Opened:
    """total: uint32 [d] mod 2^bits, the exact sum; vehicles: who is in it; transcript: 32 bytes."""

    total: Ring
    vehicles: tuple[int, ...]
    list_hash: bytes
    transcript: bytes


class HelpersServer:
    """One round; `gathering` knows who stands where."""

    def __init__(
        self,
        announced: Announcement,
        committee: Committee,
        trust: Trust,
        now: Callable[[], float],
        again: Again | None = None,
    ) -> None:
        right = announced.protocol is Protocol.HELPERS and committee.sizes == HELPERS
        if not right or announced.committee != committee.hash:
            raise ValueError("the announcement is of another protocol or committee")
        self.gathering = Gathering(announced, committee, PART, trust, now, again)
        self._certificate: bytes | None = None
        self._missing = set(range(len(PAIRS)))

    def contribute(self, vehicle: int, data: bytes) -> None:
        """Take a vehicle's only message."""
        self.gathering.contribute(vehicle, data)

    def proposals(self) -> Answers:
        """Close the contributions; RoundError below n_min."""
        return self.gathering.proposals()

    def complain(self, point: int, data: bytes) -> None:
        """Take a helper's complaint."""
        self.gathering.complain(point, data)

    def lists(self) -> Answers:
        """Close the complaints; RoundError below n_min."""
        return self.gathering.lists()

    def approve(self, point: int, data: bytes) -> None:
        """Take a helper's signature over the list."""
        self.gathering.approve(point, data)

    def requests(self, gone: Collection[int] = ()) -> dict[int, list[bytes]]:
        """What is still to be asked, by helper; gone: who no longer answers. RoundError if two are."""
        if self._certificate is None:
            self._certificate = next(iter(self.gathering.certificates().values()))
        asked: dict[int, list[bytes]] = {}
        for place in sorted(self._missing):
            holders = sorted(PAIRS[place], key=lambda point: point != _FIRST[place])
            left = [point for point in holders if point not in gone]
            if not left:
                raise RoundError(f"both helpers of pair {PAIRS[place]} are gone: void round")
            asked.setdefault(left[0], []).append(once.encode_request(place, self._certificate))
        return asked

    @property
    def missing(self) -> bool:
        """Whether a pair's masks are still to come."""
        return bool(self._missing)

    def release(self, point: int, data: bytes) -> None:
        """Take the masks of one pair off the total."""
        announced = self.gathering.announced
        place = once.decode_release(data, 1 + announced.size)[0][0]
        if place not in self._missing or not 1 <= point <= len(PAIRS) or place not in held(point):
            raise VehicleError(f"helper {point} released what it was not asked for")
        payload = self.gathering.release(point, data, 1 + announced.size, slot=place)
        np.subtract(self.gathering.total, unpack(payload[1:], announced.bits), out=self.gathering.total)
        self._missing.discard(place)

    def sum(self) -> Opened:
        """Close the releases: the sum. RoundError with a pair missing, or where something is wrong."""
        self.gathering.finish()
        if self._missing:
            lacking = ", ".join(str(PAIRS[place]) for place in sorted(self._missing))
            raise RoundError(f"the masks of {lacking} were not released: void round")
        announced, n = self.gathering.announced, len(self.gathering.headers)
        total = self.gathering.total
        shorten(total, announced.bits)
        spread = 8 * math.sqrt(n * (ROUNDING + announced.noise))
        if (far := largest(total, announced.bits)) > n * announced.levels + spread:
            raise RoundError(f"a number of the sum is {far} steps, too far for {n} vehicles; void round")
        parts = [announced.digest, self.gathering.list_hash]
        transcript = signing.digest("carpool/helpers/transcript", VERSION, parts)
        return Opened(total, tuple(sorted(self.gathering.headers)), self.gathering.list_hash, transcript)
