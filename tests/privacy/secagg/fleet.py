"""A fleet of secagg+ vehicles and a server, in one process, with departures at any trip."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from carpool.privacy.identity import Role, Trust, issue, public_bytes
from carpool.privacy.secagg import plus_vehicle as pv
from carpool.privacy.secagg.announcement import NO_COMMITTEE, Announcement, Protocol, announce
from carpool.privacy.secagg.journal import Journal, MemoryJournal
from carpool.privacy.secagg.parameters import GraphParameters
from carpool.privacy.secagg.plus_policy import Beacon, Participant, Policy
from carpool.privacy.secagg.plus_server import PlusServer

NOW = 1_800_000_000
CA = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TRUST = Trust(public_bytes(CA))
AGGREGATOR = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
TASK = b"t" * 32
BEACON = b"b" * 32
LEVELS = {16: 1000, 24: 100_000, 32: 20_000_000}
TRIPS = ("begin", "on_roster", "on_sealed", "on_list", "on_signatures")


@dataclass(frozen=True)
class Given(Policy):
    """A policy with a graph of the test's choice: the complete one, a threshold by the number of vehicles."""

    threshold: Callable[[int], int] = lambda n: max(2, n // 2)

    def graph(self, n: int) -> GraphParameters:
        return GraphParameters(n, n - 1, self.threshold(n))


def policy(n_min: int = 2, extras: int = 0, delta: float = 0.3) -> Policy:
    return Policy(n_min, 0.05, delta, "curious", extras)


def announced(numbers: int = 8, n_min: int = 2, **changes: object) -> Announcement:
    bits = changes.get("bits", 32)
    facts = {
        "protocol": Protocol.SECAGG_PLUS,
        "round_id": b"r" * 16,
        "committee": NO_COMMITTEE,
        "numbers": numbers,
        "bits": bits,
        "levels": LEVELS[bits],
        "most": 100 if bits == 32 else 30,
        "n_min": n_min,
        "per_task": 1,
        "noise": 0,
        "deadline": NOW + 100,
        "tasks": (TASK,),
    }
    shown = issue(CA, Role.AGGREGATOR, 1, public_bytes(AGGREGATOR), begins=NOW, days=7).encode()
    return announce(Announcement(**{**facts, **changes}), shown, AGGREGATOR)


@dataclass
class Member:
    """A vehicle: its identity, its vector in -Q..Q, and where it stands."""

    vehicle: int
    vector: np.ndarray
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    state: pv.VehicleState | None = None
    journal: Journal = field(default_factory=MemoryJournal)
    policy: Policy = field(default_factory=policy)
    beacon: Beacon | None = None

    def __post_init__(self) -> None:
        shown = issue(CA, Role.VEHICLE, self.vehicle, public_bytes(self.key), begins=NOW, days=7)
        self.certificate = shown.encode()

    @property
    def participant(self) -> Participant:
        return Participant(
            self.vehicle, self.certificate, self.key, TRUST, self.policy, self.journal, self.beacon
        )

    def begin(self, facts: Announcement, task: bytes = TASK, now: float = NOW + 1) -> bytes:
        self.state, data = pv.begin(self.participant, facts, task, now)
        return data

    def on(self, trip: int, data: bytes, state: pv.VehicleState | None = None) -> bytes:
        """Trip 1..4 (roster, sealed, list, signatures) from this state, or the member's own."""
        before = self.state if state is None else state
        more = {1: (NOW + 1,), 2: (self.vector,)}.get(trip, ())
        self.state, answer = getattr(pv, TRIPS[trip])(self.participant, before, data, *more)
        return answer


def members(n: int, numbers: int, bits: int = 32, terms: Policy | None = None, seed: int = 0) -> list[Member]:
    rng = np.random.default_rng(seed)
    ids = np.sort(rng.choice(10_000, n, replace=False))
    whole = rng.integers(-LEVELS[bits], LEVELS[bits] + 1, (n, numbers))
    rows = (whole & (2**bits - 1)).astype(np.uint32)
    return [Member(int(v), row, policy=terms or policy()) for v, row in zip(ids, rows, strict=True)]


def plain(fleet: list[Member], among: Collection[int], bits: int = 32) -> np.ndarray:
    """The sum of the vectors of some, mod 2^bits."""
    total = sum(one.vector.astype(np.uint64) for one in fleet if one.vehicle in among)
    return (total & np.uint64(2**bits - 1)).astype(np.uint32)


class Round:
    """A round, trip by trip: the answers to the last one, and who is still there."""

    def __init__(
        self, fleet: list[Member], facts: Announcement, terms: Policy | None = None, beacon: bytes = BEACON
    ) -> None:
        self.fleet, self.facts, self.beacon = fleet, facts, beacon
        self.terms = terms or fleet[0].policy
        self.server = PlusServer(facts, self.terms, TRUST, lambda: NOW + 1)
        self.answers: Mapping[int, bytes] = {}
        self.trip = 0

    def advance(self, leaves: Mapping[int, int] | None = None) -> Mapping[int, bytes]:
        """One trip: who has not left answers, the server closes it. The server's answers."""
        server, trip = self.server, self.trip
        take = (server.advertise, server.share, server.mask, server.sign, server.open)[trip]
        for one in self.fleet:
            if (leaves or {}).get(one.vehicle, 9) > trip and (trip == 0 or one.vehicle in self.answers):
                data = one.begin(self.facts) if trip == 0 else one.on(trip, self.answers[one.vehicle])
                take(one.vehicle, data)
        self.trip += 1
        if trip == 0:
            self.commitment = server.commitment()
            self.answers = server.rosters(self.beacon)
        elif trip < 4:
            self.answers = (server.deliveries, server.lists, server.signatures)[trip - 1]()
        return self.answers

    def until(self, trip: int, leaves: Mapping[int, int] | None = None) -> Round:
        """Trips 0..trip - 1: the answers to the last of them are there for who wants to go on."""
        while self.trip < trip:
            self.advance(leaves)
        return self


def play(
    fleet: list[Member], leaves: Mapping[int, int], facts: Announcement
) -> tuple[PlusServer, np.ndarray]:
    """A round in which vehicle v says nothing from trip leaves[v] (0..4) on; the server and the sum."""
    server = Round(fleet, facts).until(5, leaves).server
    return server, server.sum()


def with_policy(fleet: list[Member], **changes: object) -> None:
    for one in fleet:
        one.policy = replace(one.policy, **changes)
