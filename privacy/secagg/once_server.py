"""The server's half of what `one-shot` and `helpers` have in common, without I/O.

    contributions -> proposals | complaints -> list | approvals -> certificate | releases -> the sum

Vectors are added up as they arrive. Who is complained about is taken out again, for which the message is
asked for once more (`again`), since the server keeps no vector. A message that is malformed, forged or out of
turn raises VehicleError and changes nothing; RoundError means that the round is void: nothing was revealed,
and vehicles must send anew, under fresh keys, in a round with another id.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable

import numpy as np

from carpool.privacy import merkle, signing
from carpool.privacy.errors import RoundError, VehicleError
from carpool.privacy.identity import Trust
from carpool.privacy.secagg import once
from carpool.privacy.secagg.announcement import Announcement
from carpool.privacy.secagg.committee import Committee
from carpool.privacy.secagg.masks import Ring, unpack
from carpool.privacy.secagg.once_member import approval_form, complaint_form, release_form

Answers = dict[int, bytes]
"""What is sent to each member, by point."""
Again = Callable[[int], bytes]
"""The message of a vehicle, once more."""


class Gathering:
    """One round. headers: who is in it, by vehicle; total: uint32 [d] of the masked vectors."""

    def __init__(
        self,
        announced: Announcement,
        committee: Committee,
        part: int,
        trust: Trust,
        now: Callable[[], float],
        again: Again | None = None,
    ) -> None:
        self.announced, self.committee = announced, committee
        self.headers: dict[int, once.Header] = {}
        self.refused: dict[int, int] = {}  # by vehicle: how many members complained
        self.thin: set[int] = set()  # vehicles left out because too few trained on their task
        self.set_aside: set[int] = set()  # members who complained about too many
        self.approvals: dict[int, bytes] = {}
        self.releases: set[tuple[int, int]] = set()
        self.total: Ring = np.zeros(announced.numbers, np.uint32)
        self.list_hash = b""
        self._part, self._trust, self._now, self._again = part, trust, now, again
        self._sealed: dict[int, tuple[bytes, ...]] = {}
        self._complaints: dict[int, tuple[int, ...]] = {}
        self._phase = 0

    def contribute(self, vehicle: int, data: bytes) -> None:
        """Add a vehicle's masked vector to the total."""
        members = len(self.committee.members)
        one = once.decode_contribution(data, self.announced, members, self._part)
        fits = one.header.vehicle == vehicle and vehicle not in self.headers
        self._turn(0, fits and len(self.headers) < self.announced.most, f"vehicle {vehicle}")
        if one.header.vector_hash != hashlib.sha256(one.vector).digest():
            raise VehicleError(f"the vector of vehicle {vehicle} is not the one that it signed")
        one.header.check(self.announced, self._trust, self._now())
        if merkle.root([merkle.leaf(part) for part in one.sealed]) != one.header.tree:
            raise VehicleError(f"the sealed parts of vehicle {vehicle} are not those that it signed")
        vector = unpack(one.vector, self.announced.bits)
        np.add(self.total, vector, out=self.total)
        self.headers[vehicle], self._sealed[vehicle] = one.header, one.sealed

    def proposals(self) -> Answers:
        """Close the contributions: for each member every header with the part that is sealed for it."""
        self._close(0)
        entries: dict[int, list[once.Entry]] = {j + 1: [] for j in range(len(self.committee.members))}
        for vehicle in sorted(self.headers):
            sealed = self._sealed.pop(vehicle)
            for j, path in enumerate(merkle.paths([merkle.leaf(part) for part in sealed])):
                entries[j + 1].append(once.Entry(self.headers[vehicle], sealed[j], tuple(path)))
        return {point: once.encode_proposal(rows) for point, rows in entries.items()}

    def complain(self, point: int, data: bytes) -> None:
        """Take a member's complaint, an empty one included."""
        word = once.decode_complaint(data)
        fits = 1 <= point <= len(self.committee.members) and point not in self._complaints
        self._turn(1, fits and set(word.vehicles) <= set(self.headers), f"member {point}")
        form = complaint_form(self.announced, point, word)
        signing.verify(self.committee.members[point - 1].key, word.signature, *form)
        self._complaints[point] = word.vehicles

    def lists(self) -> Answers:
        """Close the complaints: the list without who is complained about, for each member that spoke.

        A member that complains about more than a tenth of the vehicles is set aside, not they. Left out is
        also who trained on a task of too few, of which members would sign no list.
        """
        if self._phase != 1:
            raise RoundError("the phases of a round close in order")
        most = max(1, len(self.headers) // 10)
        self.set_aside = {j for j, bad in self._complaints.items() if len(bad) > most}
        for point, bad in self._complaints.items():
            for vehicle in bad if point not in self.set_aside else ():
                self.refused[vehicle] = self.refused.get(vehicle, 0) + 1
        for vehicle in self.refused:
            self._take_out(vehicle)
        tasks = Counter(one.task for one in self.headers.values())
        self.thin = {v for v, one in self.headers.items() if tasks[one.task] < self.announced.per_task}
        for vehicle in self.thin:
            self._take_out(vehicle)
        self._close(1)
        self.list_hash = once.list_hash(self.announced, [one.hash for one in self.headers.values()])
        data = once.encode_list(sorted(self.headers))
        return dict.fromkeys(sorted(set(self._complaints) - self.set_aside), data)

    def _take_out(self, vehicle: int) -> None:
        header = self.headers.pop(vehicle)
        if self._again is None:
            raise RoundError(
                f"vehicle {vehicle} cannot be taken out of the sum without its message: void round"
            )
        members = len(self.committee.members)
        one = once.decode_contribution(self._again(vehicle), self.announced, members, self._part)
        if hashlib.sha256(one.vector).digest() != header.vector_hash:
            raise RoundError(f"the message of vehicle {vehicle} has changed: void round")
        np.subtract(self.total, unpack(one.vector, self.announced.bits), out=self.total)

    def approve(self, point: int, data: bytes) -> None:
        """Take a member's signature over the list."""
        hashed, signature = once.decode_approval(data)
        fits = point in self._complaints and point not in self.approvals
        self._turn(2, fits and hashed == self.list_hash, f"member {point}")
        form = approval_form(self.announced, point, hashed)
        signing.verify(self.committee.members[point - 1].key, signature, *form)
        self.approvals[point] = signature

    def certificates(self) -> Answers:
        """Close the approvals: the certificate, for each member that signed; RoundError without a quorum."""
        self._close(2)
        quorum = self.committee.sizes.quorum
        if len(self.approvals) < quorum:
            raise RoundError(f"{len(self.approvals)} members signed the list, {quorum} must: void round")
        data = once.encode_certificate(self.list_hash, self.approvals)
        return dict.fromkeys(sorted(self.approvals), data)

    def release(self, point: int, data: bytes, size: int, slot: int = 0) -> memoryview:
        """A member's part of the sum of the masks, once it is known to be its own; one a slot."""
        payload, signature = once.decode_release(data, size)
        self._turn(3, point in self.approvals and (point, slot) not in self.releases, f"member {point}")
        digest = hashlib.sha256(payload).digest()
        form = release_form(self.announced, point, self.list_hash, digest)
        signing.verify(self.committee.members[point - 1].key, signature, *form)
        self.releases.add((point, slot))
        return payload

    def finish(self) -> None:
        """Close the releases."""
        self._close(3)

    def _turn(self, phase: int, fits: bool, who: str) -> None:
        if self._phase != phase or not fits:
            raise VehicleError(f"a message of {who} is out of turn, forged or repeated")

    def _close(self, phase: int) -> None:
        if self._phase != phase:
            raise RoundError("the phases of a round close in order")
        if len(self.headers) < self.announced.n_min:
            raise RoundError(
                f"{len(self.headers)} vehicles are in the sum, fewer than n_min = {self.announced.n_min}: "
                "void round"
            )
        self._phase = phase + 1
