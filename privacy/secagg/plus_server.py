"""The server's half of `secagg+`, without I/O: it routes, adds up as vectors arrive, and unmasks the sum.

    advertise -> commitment, (beacon) -> rosters | share -> sealed shares | mask -> the list
    sign -> signatures | open -> the sum

The server commits to the roster before the beacon that draws the graph is known. A phase closes when the
caller says so; who has not answered by then is out of what follows. Memory is one vector and O(n k). A
message that is malformed, forged or out of turn raises VehicleError and changes nothing; RoundError means
that the round is void: nothing of it may be used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from carpool.privacy import signing
from carpool.privacy.errors import RoundError, VehicleError
from carpool.privacy.identity import Trust, decode
from carpool.privacy.secagg import messages as m
from carpool.privacy.secagg import noise_levels
from carpool.privacy.secagg.announcement import Announcement, Protocol
from carpool.privacy.secagg.graph import neighbours, positions
from carpool.privacy.secagg.masks import KEY, Ring, add_masks, farthest, shorten, unpack
from carpool.privacy.secagg.parameters import GraphParameters
from carpool.privacy.secagg.plus_keys import (
    VERSION,
    check_keys,
    check_usable,
    context,
    list_hash,
    roster_commitment,
    roster_hash,
)
from carpool.privacy.secagg.plus_open import Openings, left_masks
from carpool.privacy.secagg.plus_policy import Policy
from carpool.privacy.secagg.plus_transcript import Transcript

Answers = Mapping[int, bytes]
"""What is sent to each vehicle."""
TRIPS = ("advertise", "roster", "share", "mask", "sign", "open", "done")
"""What the server waits for: trips of the vehicles, but for `roster`, where it waits for the beacon."""


class PlusServer:
    """One round. advertised, sharing, masked, signed, opened: who got so far; total: uint32 [d].

    revealed: after `sum`, for each vehicle in it the seeds of its noise components that are to be taken off,
    by component. policy: the vehicles' own, else they refuse. Raises ValueError for an announcement of
    another protocol or below the policy.
    """

    def __init__(
        self, announced: Announcement, policy: Policy, trust: Trust, now: Callable[[], float]
    ) -> None:
        if announced.protocol is not Protocol.SECAGG_PLUS or len(announced.tasks) != 1:
            raise ValueError("the announcement is of another protocol or has several tasks")
        if announced.n_min < policy.n_min:
            raise ValueError(f"n_min is {announced.n_min}, but the policy says {policy.n_min}")
        self.announced, self._policy, self._trust, self._now = announced, policy, trust, now
        self.graph: GraphParameters | None = None
        self.advertised: dict[int, m.Advertisement] = {}
        self.sharing: dict[int, dict[int, bytes]] = {}
        self.masked: set[int] = set()
        self.signed: dict[int, bytes] = {}
        self.opened: dict[int, m.Shares] = {}
        self.total: Ring = np.zeros(announced.numbers, np.uint32)
        self.revealed: dict[int, dict[int, bytes]] = {}
        self._context = context(announced)
        self._digests: tuple[bytes, ...] = ()
        self._points: Mapping[int, int] = {}
        self._near: Mapping[int, tuple[int, ...]] = {}
        self._levels = 0
        self._components: tuple[int, ...] = ()
        self._list = b""
        self._trip = 0
        self._transcript = Transcript(announced.digest)

    def advertise(self, vehicle: int, data: bytes) -> None:
        """Take a vehicle's fresh keys; no more vehicles than the announcement's `most`."""
        one = m.decode_advertisement(data)
        fits = one.vehicle == vehicle and vehicle not in self.advertised
        self._turn("advertise", fits and len(self.advertised) < self.announced.most, vehicle)
        check_keys(one, self.announced, self._trust, self._now())
        check_usable(one)
        self.advertised[vehicle] = one
        self._take(vehicle, data)

    def commitment(self) -> bytes:
        """Close the advertisements: 32 bytes over the roster, to be published before the beacon is known.

        Raises RoundError for a roster below n_min, or for which there is no safe graph.
        """
        self._close("advertise", self.advertised)
        vehicles = tuple(sorted(self.advertised))
        try:
            self.graph = self._policy.graph(len(vehicles))
        except ValueError as error:
            raise RoundError(f"{error}: void round") from error
        self._levels = self._policy.levels(len(vehicles))
        self._digests = tuple(hashlib.sha256(self.advertised[v].encode()).digest() for v in vehicles)
        committed = roster_commitment(self.announced, vehicles, self._digests)
        self._transcript.close("advertise", {0: committed})
        return committed

    def rosters(self, beacon: bytes) -> Answers:
        """Everybody's roster, made when asked for. beacon: 32 bytes that nobody knew before `commitment`."""
        if self.graph is None or len(beacon) != 32:
            raise RoundError(f"a roster needs its commitment, and a beacon of 32 bytes, not {len(beacon)}")
        self._close("roster", self.advertised)
        vehicles = tuple(sorted(self.advertised))
        seed = roster_hash(self.announced, beacon, vehicles, self._digests)
        self._points = positions(vehicles, seed)
        self._near = neighbours(vehicles, seed, self.graph)
        head = m.roster_head(beacon, vehicles, self._digests, self.graph.degree)
        answers = _Rosters(head, self._near, {v: self.advertised[v].encode() for v in vehicles})
        self._transcript.close("roster", {v: answers.digest(v) for v in vehicles})
        return answers

    def share(self, vehicle: int, data: bytes) -> None:
        """Take a vehicle's sealed shares for its neighbours."""
        sealed = m.decode_sealed(data, self._levels)
        self._turn("share", vehicle in self.advertised and vehicle not in self.sharing, vehicle)
        if tuple(sealed) != self._near[vehicle]:
            raise VehicleError(f"vehicle {vehicle} shared with others than its neighbours")
        self.sharing[vehicle] = sealed
        self._take(vehicle, data)

    def deliveries(self) -> Answers:
        """Close the sharing: what each vehicle's neighbours sealed for it."""
        self._close("share", self.sharing)
        rows = {v: [u for u in self._near[v] if u in self.sharing] for v in sorted(self.sharing)}
        answers = {
            v: m.encode_sealed({u: self.sharing[u][v] for u in near}, self._levels)
            for v, near in rows.items()
        }
        self.sharing = {v: {} for v in answers}  # they are the vehicles' now
        return self._sent("share", answers)

    def mask(self, vehicle: int, data: bytes) -> None:
        """Add a masked vector to the total, if it is its vehicle's own."""
        one = m.decode_masked(data, self.announced.numbers, self.announced.bits)
        self._turn("mask", vehicle in self.sharing and vehicle not in self.masked, vehicle)
        digest = hashlib.sha256(one.packed).digest()
        public = decode(self.advertised[vehicle].certificate).key
        signing.verify(public, one.signature, "carpool/secagg+/masked", VERSION, [self._context, digest])
        np.add(self.total, unpack(one.packed, self.announced.bits), out=self.total)
        self.masked.add(vehicle)
        self._take(vehicle, one.signature + digest)

    def lists(self) -> Answers:
        """Close the sum: who is in it."""
        self._close("mask", self.masked)
        counted = sorted(self.masked)
        self._list = list_hash(self.announced, counted)
        policy = self._policy
        self._components = noise_levels.revealed(
            len(self.advertised), len(counted), policy.delta, policy.extras
        )
        return self._sent("mask", dict.fromkeys(counted, m.encode_list(counted)))

    def sign(self, vehicle: int, data: bytes) -> None:
        """Take a vehicle's signature over the list."""
        found = m.decode_signatures(data)
        self._turn("sign", vehicle in self.masked and vehicle not in self.signed, vehicle)
        if set(found) != {vehicle}:
            raise VehicleError(f"vehicle {vehicle} sent signatures of {sorted(found)}")
        public = decode(self.advertised[vehicle].certificate).key
        signing.verify(public, found[vehicle], "carpool/secagg+/consistent", VERSION, [self._list])
        self.signed[vehicle] = found[vehicle]
        self._take(vehicle, data)

    def signatures(self) -> Answers:
        """Close the signing: each vehicle's neighbours' signatures."""
        self._close("sign", self.signed)
        rows = {v: [u for u in self._near[v] if u in self.signed] for v in sorted(self.signed)}
        answers = {v: m.encode_signatures({u: self.signed[u] for u in near}) for v, near in rows.items()}
        return self._sent("sign", answers)

    def open(self, vehicle: int, data: bytes) -> None:
        """Take a vehicle's shares of its neighbours' secrets."""
        found = m.decode_shares(data, len(self._components))
        self._turn("open", vehicle in self.signed and vehicle not in self.opened, vehicle)
        near = {u for u in self._near[vehicle] if u in self.sharing}
        if set(found.seeds) != near & self.masked or set(found.keys) != near - self.masked:
            raise VehicleError(f"vehicle {vehicle} opened other secrets than it was asked for")
        self.opened[vehicle] = found
        self._take(vehicle, data)

    def sum(self) -> Ring:
        """Close the round: the sum of the masked vectors, uint32 [d], mod 2^bits. Raises RoundError.

        Noise that is to be taken off is still in it: `revealed` has its seeds.
        """
        if self._trip != TRIPS.index("open") or self.graph is None:
            raise RoundError("the phases of a round close in order")
        self._trip += 1
        self._transcript.close("open", {})
        openings = Openings(self._near, self._points, self.graph.threshold, self.opened)
        secrets = openings.seeds(sorted(self.masked), len(self._components))
        left = openings.keys(sorted(set(self.sharing) - self.masked))
        minus, plus = left_masks(self._context, left, self.advertised, self._near, self.masked)
        add_masks(self.total, minus, [*(one[:KEY] for one in secrets.values()), *plus])
        shorten(self.total, self.announced.bits)
        self._check_range()
        for vehicle, one in secrets.items() if self._components else ():
            cuts = [one[i : i + KEY] for i in range(KEY, len(one), KEY)]
            self.revealed[vehicle] = dict(zip(self._components, cuts, strict=True))
        self.opened = dict.fromkeys(self.opened, m.Shares({}, {}))
        self._transcript.close("sum", {0: hashlib.sha256(self.total.data).digest()})
        return self.total

    def _check_range(self) -> None:
        """Void a sum that its vehicles cannot have: a seed was shared wrong, and its mask is still on it."""
        limit, bits = len(self.masked) * self.announced.limit, self.announced.bits
        if limit < 1 << (bits - 1) and (far := farthest(self.total, limit, bits)) > limit:
            raise RoundError(
                f"the sum has a number of {far} steps, {len(self.masked)} vehicles give {limit} at most: "
                "wrong shares or vectors; void round"
            )

    @property
    def counts(self) -> dict[str, int]:
        """How many vehicles got to each step."""
        steps = ("advertised", "sharing", "masked", "signed", "opened")
        return {step: len(getattr(self, step)) for step in steps}

    def transcript(self) -> bytes:
        """32 bytes over what was taken and sent in all steps that are closed; see plus_transcript.py."""
        return self._transcript.hash

    def _take(self, vehicle: int, data: bytes) -> None:
        self._transcript.take(vehicle, hashlib.sha256(data).digest())

    def _sent(self, trip: str, answers: dict[int, bytes]) -> Answers:
        known: dict[int, bytes] = {}  # by object: the list is one for all
        for data in answers.values():
            if id(data) not in known:
                known[id(data)] = hashlib.sha256(data).digest()
        self._transcript.close(trip, {v: known[id(data)] for v, data in answers.items()})
        return answers

    def _turn(self, trip: str, fits: bool, vehicle: int) -> None:
        if TRIPS[self._trip] != trip or not fits:
            raise VehicleError(f"a message of vehicle {vehicle} is out of turn, forged or repeated")

    def _close(self, trip: str, here: Mapping[int, object] | set[int]) -> None:
        if TRIPS[self._trip] != trip:
            raise RoundError("the phases of a round close in order")
        if len(here) < self.announced.n_min:
            raise RoundError(
                f"{len(here)} vehicles are left after {trip!r}, fewer than n_min = {self.announced.n_min}: "
                "void round"
            )
        self._trip += 1


class _Rosters(Mapping[int, bytes]):
    """Rosters by vehicle, encoded when asked for: all at once they would be O(n^2) bytes."""

    def __init__(
        self, head: bytes, near: Mapping[int, tuple[int, ...]], encoded: Mapping[int, bytes]
    ) -> None:
        self._head, self._near, self._encoded = head, near, encoded
        self._hash = hashlib.sha256(head)

    def __getitem__(self, vehicle: int) -> bytes:
        return self._head + self._rest(vehicle)

    def __iter__(self) -> Iterator[int]:
        return iter(self._encoded)

    def __len__(self) -> int:
        return len(self._encoded)

    def _rest(self, vehicle: int) -> bytes:
        return b"".join(self._encoded[u] for u in self._near[vehicle])

    def digest(self, vehicle: int) -> bytes:
        """SHA-256 of a roster, without hashing again what all have in common."""
        whole = self._hash.copy()
        whole.update(self._rest(vehicle))
        return whole.digest()
