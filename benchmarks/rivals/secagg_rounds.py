"""Whole rounds of Carpool's three protocols, each role's CPU time apart."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from carpool.privacy import signing
from carpool.privacy.identity import Role, Trust, issue, public_bytes
from carpool.privacy.secagg import committee as c
from carpool.privacy.secagg import graph as graphs
from carpool.privacy.secagg import helpers_node, helpers_vehicle, oneshot_committee, oneshot_vehicle
from carpool.privacy.secagg import plus_vehicle as pv
from carpool.privacy.secagg.announcement import NO_COMMITTEE, Announcement, Protocol, announce
from carpool.privacy.secagg.helpers_server import HelpersServer
from carpool.privacy.secagg.journal import MemoryJournal
from carpool.privacy.secagg.once_member import Node
from carpool.privacy.secagg.once_vehicle import Speaker
from carpool.privacy.secagg.oneshot_server import OneShotServer
from carpool.privacy.secagg.parameters import GraphParameters
from carpool.privacy.secagg.plus_policy import Participant, Policy
from carpool.privacy.secagg.plus_server import PlusServer

NOW = 1_800_000_000
CA = Ed25519PrivateKey.generate()
TRUST = Trust(public_bytes(CA))
TASK = b"t" * 32
TIMED = 3
"""Vehicles whose time is taken."""


def certificate(role: Role, member: int, key: Ed25519PrivateKey) -> bytes:
    """From the fleet's CA."""
    return issue(CA, role, member, public_bytes(key), begins=NOW, days=7).encode()


@dataclass
class Clock:
    """CPU seconds and bytes by role; what this process verified or computed for another role is forgotten."""

    seconds: dict[str, float] = field(default_factory=dict)
    sent: int = 0

    def __call__(self, role: str, call: Callable[[], object]) -> object:
        for memory in (signing._verified, graphs._order, c._sample):
            memory.cache_clear()
        began = time.process_time()
        answer = call()
        self.seconds[role] = self.seconds.get(role, 0.0) + time.process_time() - began
        return answer

    def median(self, kind: str) -> float:
        """Over the timed members of a kind."""
        return float(np.median([v for role, v in self.seconds.items() if role.startswith(kind)]))


@dataclass(frozen=True)
class Given(Policy):
    """A policy whose graph was found before: the finder's time is measured apart."""

    found: GraphParameters | None = None

    def graph(self, n: int) -> GraphParameters:
        assert self.found is not None
        assert n == self.found.n
        return self.found


def plus(n: int, graph: GraphParameters, d: int, leaving: float) -> dict[str, float]:
    """CPU seconds of a secagg+ round; a share `leaving` says nothing after it has shared."""
    aggregator, round_id = Ed25519PrivateKey.generate(), secrets.token_bytes(16)
    levels = (1 << 31) // n - (1 << 16)
    facts = announce(
        Announcement(
            Protocol.SECAGG_PLUS, round_id, NO_COMMITTEE, d, 32, levels, n, 2, 1, 0, NOW + 100, (TASK,)
        ),
        certificate(Role.AGGREGATOR, 1, aggregator),
        aggregator,
    )
    terms = Given(2, 0.05, leaving, "semi-malicious", found=graph)
    server, clock = PlusServer(facts, terms, TRUST, lambda: NOW + 1), Clock()
    who = {}
    for v in range(n):
        key = Ed25519PrivateKey.generate()
        shown = certificate(Role.VEHICLE, v, key)
        who[v] = Participant(v, shown, key, TRUST, terms, MemoryJournal())
    staying = [v for v in who if v >= round(n * leaving)]
    timed = set(staying[:: max(1, len(staying) // TIMED)][:TIMED])
    vector, states = np.arange(d, dtype=np.uint32), {}

    def step(vehicle: int, call, *args):
        if vehicle not in timed:
            states[vehicle], data = call(*args)
            return data
        states[vehicle], data = clock(f"vehicle {vehicle}", lambda: call(*args))
        clock.sent += len(data)
        return data

    serve = lambda call, *args: clock("server", lambda: call(*args))  # noqa: E731
    for v in who:
        serve(server.advertise, v, step(v, pv.begin, who[v], facts, TASK, NOW + 1))
    serve(server.commitment)
    answers = serve(lambda: dict(server.rosters(secrets.token_bytes(32))))
    for v in who:
        serve(server.share, v, step(v, pv.on_roster, who[v], states[v], answers[v], NOW + 1))
    answers = serve(server.deliveries)
    for v in staying:
        serve(server.mask, v, step(v, pv.on_sealed, who[v], states[v], answers[v], vector))
    answers = serve(server.lists)
    for v in staying:
        serve(server.sign, v, step(v, pv.on_list, who[v], states[v], answers[v]))
    answers = serve(server.signatures)
    for v in staying:
        serve(server.open, v, step(v, pv.on_signatures, who[v], states[v], answers[v]))
    total = serve(server.sum)
    assert np.array_equal(total, vector * np.uint32(len(staying)))
    return {
        "client_s": clock.median("vehicle"),
        "server_s": clock.seconds["server"],
        "bytes": clock.sent / len(timed),
    }


def once(protocol: Protocol, n: int, sizes: c.Sizes, d: int, leaving: float) -> dict[str, float]:
    """CPU seconds of a round of one-shot or helpers to which the share 1 - leaving of n vehicles speak."""
    clock, module = Clock(), VEHICLE[protocol]
    nodes, rows, pool = [], [], tuple(range(10**6, 10**6 + sizes.members))
    for number in c.sample(pool, b"b" * 32, sizes.members):
        key, sealing = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
        shown = certificate(Role.COMMITTEE, number, key)
        rows.append(c.join(1, shown, key, sealing.public_key().public_bytes_raw()))
        nodes.append(Node(number, key, sealing.private_bytes_raw(), MemoryJournal(), TRUST, sizes, 2))
    committee = c.Committee(1, sizes, pool, b"b" * 32, tuple(rows))
    own = Ed25519PrivateKey.generate()
    levels, round_id = (1 << 31) // n - (1 << 16), secrets.token_bytes(16)
    bare = Announcement(protocol, round_id, committee.hash, d, 32, levels, n, 2, 1, 0, NOW + 100, (TASK,))
    announced = announce(bare, certificate(Role.AGGREGATOR, 1, own), own)
    server = SERVER[protocol](announced, committee, TRUST, lambda: NOW + 1)
    vector, staying = (np.arange(d) % 1000).astype(np.uint32), n - round(n * leaving)
    speak = lambda one: module.contribute(  # noqa: E731
        one, announced, committee, task=TASK, vector=vector, now=NOW + 1
    )
    for v in range(staying):
        key = Ed25519PrivateKey.generate()
        shown = certificate(Role.VEHICLE, v, key)
        one = Speaker(v, shown, key, MemoryJournal(), TRUST, sizes, 2)
        if v < TIMED:
            data = clock(f"vehicle {v}", lambda one=one: speak(one))
            clock.sent += len(data)
        else:
            data = speak(one)
        clock("server", lambda v=v, data=data: server.contribute(v, data))
    opened = _committee(protocol, clock, server, nodes, announced, committee)
    error = (opened.total - vector * np.uint32(staying)).view(np.int32)
    assert np.abs(error).max() <= (8 * 4 * np.sqrt(staying) if protocol is Protocol.ONE_SHOT else 0)
    return {
        "client_s": clock.median("vehicle"),
        "server_s": clock.seconds["server"],
        "member_s": clock.seconds["member"],
        "bytes": clock.sent / TIMED,
    }


VEHICLE = {Protocol.ONE_SHOT: oneshot_vehicle, Protocol.HELPERS: helpers_vehicle}
SERVER = {Protocol.ONE_SHOT: OneShotServer, Protocol.HELPERS: HelpersServer}


def _committee(protocol, clock, server, nodes, announced, committee):
    """Everybody's steps to the sum; the first member's time is taken."""
    module = oneshot_committee if protocol is Protocol.ONE_SHOT else helpers_node
    states = {}

    def step(point: int, call, *args):
        run = lambda: call(*args)  # noqa: E731
        states[point], data = clock("member", run) if point == 1 else run()
        return data

    serve = lambda call, *args: clock("server", lambda: call(*args))  # noqa: E731
    answers = serve(server.proposals)
    for point, node in enumerate(nodes, 1):
        state = module.join_round(node, announced, committee, NOW + 1)
        serve(server.complain, point, step(point, module.on_proposal, node, state, answers[point], NOW + 1))
    answers = serve(server.lists)
    for point, node in enumerate(nodes, 1):
        serve(server.approve, point, step(point, module.on_list, node, states[point], answers[point]))
    if protocol is Protocol.ONE_SHOT:
        answers = {point: [data] for point, data in serve(server.certificates).items()}
        release = module.on_certificate
    else:
        answers, release = serve(server.requests), module.on_request
    for point, asked in answers.items():
        for data in asked:
            serve(server.release, point, step(point, release, nodes[point - 1], states[point], data))
    return serve(server.sum)
