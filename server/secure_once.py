"""A pass under `one-shot` or `helpers`: a vehicle speaks once, a committee opens the sum of a certified list.

    task, announcement, committee -> (training) -> one message; the vehicle may leave
    proposal -> complaint | list -> approval | certificate -> release        (members only)

A group of vehicles is a round of its own to the committee, with its own id. Messages wait in a file without a
name until the list is certified, so that a vehicle that is complained about can be taken out of the sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Protocol

import numpy as np
from flwr.serverapp import Grid

from carpool.privacy import signing
from carpool.privacy.errors import RoundError, VehicleError
from carpool.privacy.secagg import announcement as ann
from carpool.privacy.secagg.announcement import Announcement
from carpool.privacy.secagg.committee import Committee
from carpool.privacy.secagg.helpers_server import HelpersServer
from carpool.privacy.secagg.masks import Ring
from carpool.privacy.secagg.oneshot_server import OneShotServer
from carpool.privacy.secagg.sumform import Sums
from carpool.privacy.spans import span, timed
from carpool.server.clock import Clock
from carpool.server.kept import Kept
from carpool.server.receive import RoundPlan
from carpool.server.secure import (
    Given,
    Heard,
    Opening,
    Secrecy,
    SecurePass,
    ask,
    first,
    prepare,
)
from carpool.server.secure_sums import closed, combined, sums_of, verdict
from carpool.strategies.contract import Facts, Strategy, Task
from carpool.strategies.deadline import Decision
from carpool.strategies.fold import group_of, group_size

MEMBER_S = 2.0
"""Seconds of the server's clock that a question to the members takes."""


class Kind(Enum):
    """What a member is asked."""

    PROPOSAL = 1
    LIST = 2
    RELEASE = 3


RELEASE = Kind.RELEASE


class Council(Protocol):
    """The committee, wherever its members are."""

    @property
    def committee(self) -> Committee:
        """As it is announced."""

    @property
    def variance(self) -> float:
        """Of the protocol's own error in one vehicle's number, squared steps."""

    def ask(
        self, round_: int, announced: Announcement, kind: Kind, messages: Mapping[int, bytes]
    ) -> dict[int, bytes]:
        """What members answer, by point, in time; who does not is not there."""

    def forget(self, announced: Announcement) -> None:
        """The round is over."""


@dataclass
class Group:
    """One sum: its round with the committee.

    why: what made it void; total: once it is opened; sums: what it means, if it is sound.
    """

    opening: Opening
    server: OneShotServer | HelpersServer
    kept: Kept
    why: str | None = None
    total: Ring | None = None
    sums: Sums | None = None
    transcript: bytes = b""
    answered: int = 0

    @property
    def inside(self) -> tuple[int, ...]:
        """Who is in the sum."""
        return tuple(sorted(self.server.gathering.headers))

    @property
    def overhead(self) -> int:
        """Bytes of the messages so far that are not of vectors."""
        return self.kept.size - len(self.inside) * self.opening.announced.size

    def take(self, vehicle: int, data: bytes) -> None:
        """A vehicle's only message; raises VehicleError."""
        self.server.contribute(vehicle, data)
        self.kept.put(vehicle, data)


@timed("privacy")
def once_pass(
    secrecy: Secrecy,
    strategy: Strategy[Any],
    state: Any,
    task: Task,
    plan: RoundPlan,
    grid: Grid,
    clock: Clock,
) -> SecurePass:
    """One pass; never raises for what vehicles or members do."""
    council: Council = secrecy.council
    heard, groups = Heard(), list[Group]()
    of, pending = dict[int, Group](), dict[str, int]()
    for asked in dealt(plan.asked, strategy, plan.facts):
        part = replace(plan, asked=asked)
        group = begun(secrecy, council, strategy, state, task, part)
        groups.append(group)
        of |= dict.fromkeys(asked.tolist(), group)
        tickets = strategy.memory is not None or strategy.passes
        sent_to, sent = ask(group.opening, part, grid, tickets=tickets, committee=council.committee.encode())
        pending |= sent_to
        heard.bytes_down += sent
    heard.steps["asked"] = len(pending)
    try:
        with span("other"):  # it is training that takes this time
            decision = first(
                strategy, plan, pending, grid, clock, heard, lambda node, data: of[node].take(node, data)
            )
        heard.step("send", "sent", heard.steps["asked"], sum(len(one.inside) for one in groups))
        heard.vectors = heard.bytes_up - sum(one.overhead for one in groups)
        if decision.counted:
            for group in groups:
                opened(secrecy, council, group, plan, clock)
        return concluded(secrecy, council, groups, strategy, plan, heard, decision)
    finally:
        for group in groups:
            group.kept.close()
            council.forget(group.opening.announced)


def dealt(asked: np.ndarray[Any, np.dtype[np.int64]], strategy: Strategy[Any], facts: Facts) -> list[Any]:
    """Those asked, in as many parts as the strategy's sets ask for groups: one, or cohort / group."""
    size = group_size(strategy.channels)
    count = 1 if size == 1 else max(1, facts.cohort // size)
    rows: list[list[int]] = [[] for _ in range(count)]
    for place, node in enumerate(asked.tolist()):
        rows[group_of(place, count, facts)].append(node)
    return [np.array(row, np.int64) for row in rows if row] or [asked]  # nobody there: a void round


def begun(
    secrecy: Secrecy, council: Council, strategy: Strategy[Any], state: Any, task: Task, plan: RoundPlan
) -> Group:
    """A group's round, announced."""
    shot = secrecy.settings.protocol == "one-shot"
    protocol = ann.Protocol.ONE_SHOT if shot else ann.Protocol.HELPERS
    committee = council.committee
    opening = prepare(
        secrecy,
        strategy,
        state,
        task,
        plan,
        protocol,
        committee=committee.hash,
        variance=council.variance,
    )
    kept = Kept(plan.folder)
    server = OneShotServer if shot else HelpersServer
    return Group(opening, server(opening.announced, committee, secrecy.trust, secrecy.now, kept), kept)


def opened(secrecy: Secrecy, council: Council, group: Group, plan: RoundPlan, clock: Clock) -> None:
    """Ask the committee for a group's sum; what makes it void is noted."""
    try:
        _opened(secrecy, council, group, plan, clock)
    except RoundError as error:
        group.why = str(error)


def _opened(secrecy: Secrecy, council: Council, group: Group, plan: RoundPlan, clock: Clock) -> None:
    announced, server, round_ = group.opening.announced, group.server, plan.facts.round

    def asked(kind: Kind, messages: Mapping[int, bytes]) -> dict[int, bytes]:
        answers = council.ask(round_, announced, kind, messages)
        clock.wait(clock.now() + (MEMBER_S if len(answers) == len(messages) else secrecy.trip_s))
        return answers

    for point, data in asked(Kind.PROPOSAL, server.proposals()).items():
        noted(server.complain, point, data)
    lists = server.lists()
    if len(group.inside) < announced.n_min:
        raise RoundError(f"{len(group.inside)} vehicles are left in the list: void round")
    for point, data in asked(Kind.LIST, lists).items():
        noted(server.approve, point, data)
    inside, listed = group.inside, server.gathering.list_hash

    def told() -> None:
        secrecy.log.participation(announced.round_id, listed, inside)
        if secrecy.private is not None:
            secrecy.private.certified(group.opening.form, announced.most, len(inside))

    if isinstance(server, OneShotServer):
        certificates = server.certificates()
        told()
        releases = asked(RELEASE, certificates)
        for point, data in releases.items():
            noted(server.release, point, data)
        group.answered = len(releases)
    else:
        group.answered = helped(server, told, asked)
    found = server.sum()
    group.total, group.transcript = found.total, found.transcript
    group.sums = sums_of(secrecy, group.opening.form, found.total, len(inside))


def helped(server: HelpersServer, told: Any, asked: Any) -> int:
    """The masks of three pairs, of whichever helper answers; how many helpers did."""
    gone: set[int] = set()
    answered: set[int] = set()
    requests = server.requests()
    told()
    while requests:
        for point, rows in requests.items():
            for data in rows:
                found = asked(RELEASE, {point: data})
                if point in found and noted(server.release, point, found[point]):
                    answered.add(point)
                else:
                    gone.add(point)
        if not server.missing:
            break
        requests = server.requests(gone)
    return len(answered)


def noted(take: Any, point: int, data: bytes) -> bool:
    """Take a member's answer; what it says wrongly counts as not said."""
    try:
        take(point, data)
    except VehicleError:
        return False
    return True


def concluded(
    secrecy: Secrecy,
    council: Council,
    groups: Sequence[Group],
    strategy: Strategy[Any],
    plan: RoundPlan,
    heard: Heard,
    decision: Decision,
) -> SecurePass:
    """What the pass came to, and who saw what."""
    released = any(one.total is not None for one in groups)
    found = [(one.sums, len(one.inside)) for one in groups if one.sums is not None]
    inside = {v for one in groups if one.sums is not None for v in one.inside}
    counted, why = verdict(strategy, plan, decision, len(found), len(inside), (one.why for one in groups))
    reduced, loss, clipped = combined(strategy.channels, found) if counted else (None, None, None)
    for one in groups:
        announced = one.opening.announced
        hashed = one.transcript or signing.digest("carpool/once/void", 1, [announced.digest])
        secrecy.log.transcript(announced.round_id, hashed, one.total is not None)
    heard.usable = {node: one for node, one in heard.usable.items() if node in inside and counted}
    known = sum(len(one.inside) for one in groups if one.total is not None)
    heard.steps |= {"certified": known, "released": known}
    heard.dropped["certify"] = sum(len(one.server.gathering.refused) for one in groups)
    sizes = council.committee.sizes
    record = {
        "protocol": secrecy.settings.protocol,
        "cryptography": "full",
        "n_min": secrecy.settings.n_min,
        "neighbours": None,
        "threshold": None,
        "committee": {
            "members": sizes.members,
            "corrupt": sizes.corrupt,
            "quorum": sizes.quorum,
            "answered": min((one.answered for one in groups), default=0),
        },
        "steps": heard.steps,
        "dropped": heard.dropped,
        "sums": [
            {"vehicles": len(one.inside), "released": one.total is not None, "why": one.why} for one in groups
        ],
        "released": released,
        "why": None if counted else why,
        "transcript": signing.digest(
            "carpool/once/pass", 1, [one.transcript or one.opening.announced.digest for one in groups]
        ).hex(),
        "clipped": clipped,
        "bytes": {"vectors": heard.vectors, "protocol": heard.bytes_up - heard.vectors},
    }
    return SecurePass(heard, Given(reduced), closed(decision, counted, why), heard.bytes_down, loss, record)
