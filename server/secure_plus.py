"""A pass under `secagg+`: five trips, a sum for each group. The protocol is in privacy/secagg/plus_server.py.

    1 task, announcement -> (training) -> fresh keys     2 neighbours' keys -> sealed shares
    3 sealed shares -> masked vector                     4 who is in the sum -> signature
    5 signatures -> shares that open the sum

Whoever has not answered a trip in time is out of what follows; masks of those who left between the second
and the third are taken off with the shares of the others. A group that falls below n_min, or cannot be
opened, is void; the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from flwr.serverapp import Grid

from carpool.privacy import signing
from carpool.privacy.dp.forms import NoisyForm
from carpool.privacy.errors import RoundError
from carpool.privacy.secagg.announcement import Protocol
from carpool.privacy.secagg.masks import Ring
from carpool.privacy.secagg.plus_server import PlusServer
from carpool.privacy.secagg.plus_vehicle import list_hash
from carpool.privacy.secagg.sumform import Sums
from carpool.privacy.spans import span, timed
from carpool.server.clock import Clock
from carpool.server.private import Private
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
from carpool.server.trips import trip
from carpool.strategies.contract import Facts, Strategy, Task
from carpool.strategies.deadline import Decision
from carpool.strategies.fold import group_of, group_size

ADVERTISE, SHARE, MASK, SIGN, OPEN = "advertise", "share", "mask", "sign", "open"


@dataclass
class Group:
    """One sum. why: what made it void; total: once it is opened; sums: what it means, if it is sound."""

    server: PlusServer
    why: str | None = None
    total: Ring | None = None
    sums: Sums | None = None

    def attempt(self, work: Callable[[], Any]) -> Any:
        """What the work gives; None where it, or something before, has made the group void."""
        if self.why is not None:
            return None
        try:
            return work()
        except RoundError as error:
            self.why = str(error)
            return None


@timed("privacy")
def plus_pass(
    secrecy: Secrecy,
    strategy: Strategy[Any],
    state: Any,
    task: Task,
    plan: RoundPlan,
    grid: Grid,
    clock: Clock,
) -> SecurePass:
    """One pass; never raises for what vehicles do."""
    opening = prepare(secrecy, strategy, state, task, plan, Protocol.SECAGG_PLUS)
    front = PlusServer(opening.announced, secrecy.settings.policy, secrecy.trust, secrecy.now)
    pending, sent = ask(opening, plan, grid, tickets=strategy.memory is not None or strategy.passes)
    heard = Heard(bytes_down=sent)
    heard.steps["asked"] = asked = len(pending)
    with span("other"):  # it is training that takes this time
        decision = first(strategy, plan, pending, grid, clock, heard, front.advertise)
    heard.step(ADVERTISE, "advertised", asked, len(front.advertised))
    groups: list[Group] = []
    if decision.counted:
        groups = dealt(secrecy, opening, front, strategy, plan.facts)
        carry(secrecy, opening, groups, strategy, plan, grid, clock, heard)
    return concluded(secrecy, opening, groups, strategy, plan, heard, decision, sent)


def dealt(
    secrecy: Secrecy, opening: Opening, front: PlusServer, strategy: Strategy[Any], facts: Facts
) -> list[Group]:
    """The groups: one, or as many as the strategy's sets ask for, dealt by public randomness."""
    size = group_size(strategy.channels)
    if size == 1:
        return [Group(front)]
    here = sorted(front.advertised)
    count = max(1, len(here) // size)
    servers = [
        PlusServer(opening.announced, secrecy.settings.policy, secrecy.trust, secrecy.now)
        for _ in range(count)
    ]
    for place, vehicle in enumerate(here):
        data = front.advertised[vehicle].encode()
        servers[group_of(place, count, facts)].advertise(vehicle, data)
    return [Group(server) for server in servers]


def carry(
    secrecy: Secrecy,
    opening: Opening,
    groups: Sequence[Group],
    strategy: Strategy[Any],
    plan: RoundPlan,
    grid: Grid,
    clock: Clock,
    heard: Heard,
) -> None:
    """Trips 2 to 5 of all groups together, and the sums."""
    log, round_id = secrecy.log, opening.announced.round_id

    def rosters(server: PlusServer) -> Mapping[int, bytes]:
        commitment = server.commitment()
        return server.rosters(log.keys(round_id, len(server.advertised), commitment))

    def lists(server: PlusServer) -> Mapping[int, bytes]:
        found = server.lists()
        counted = tuple(sorted(server.masked))
        log.participation(round_id, list_hash(server.announced, counted), counted)
        return found

    stages: tuple[Stage, ...] = (
        Stage(SHARE, "shared", rosters, PlusServer.share, secrecy.trip_s),
        Stage(MASK, "masked", PlusServer.deliveries, PlusServer.mask, secrecy.upload_s),
        Stage(SIGN, "signed", lists, PlusServer.sign, secrecy.trip_s),
        Stage(OPEN, "opened", PlusServer.signatures, PlusServer.open, secrecy.trip_s),
    )
    for number, stage in enumerate(stages, 2):
        if stage.name == SIGN and (few := shortfall(groups, strategy, plan)):
            for group in groups:
                group.why = group.why or few
        if stage.name == OPEN and secrecy.private is not None:
            certify(secrecy.private, opening, groups)
        messages, of = gathered(groups, stage)
        before = heard.bytes_up
        take = partial(taken, of, stage)
        round_ = plan.facts.round
        fine = trip(grid, clock, heard, number, messages, take, round_=round_, wait_s=stage.wait_s)
        heard.vectors += heard.bytes_up - before if stage.name == MASK else 0
        heard.step(stage.name, stage.done, len(messages), len(fine))
    for group in groups:
        group.total = total = group.attempt(partial(unmasked, group.server, opening))
        group.sums = group.attempt(partial(sums_of, secrecy, opening.form, total, len(group.server.masked)))


def certify(private: Private, opening: Opening, groups: Sequence[Group]) -> None:
    """Charge the noise that the certified list has; PrivacyRefused before anything is opened."""
    for group in groups:
        server = group.server
        if group.why is None and len(server.signed) >= opening.announced.n_min:
            roster, counted = len(server.advertised), len(server.masked)
            group.attempt(partial(private.certified, opening.form, roster, counted))


def unmasked(server: PlusServer, opening: Opening) -> Ring:
    """The sum, without the noise whose seeds were revealed; raises RoundError."""
    total = server.sum()
    if isinstance(opening.form, NoisyForm):
        opening.form.strip(total, len(server.advertised), server.revealed)
    return total


@dataclass(frozen=True)
class Stage:
    """A trip: what closes the one before and says what goes out, and what takes the answers."""

    name: str
    done: str
    closing: Callable[[PlusServer], Mapping[int, bytes]]
    taking: Callable[[PlusServer, int, bytes], None]
    wait_s: float


def gathered(groups: Sequence[Group], stage: Stage) -> tuple[dict[int, bytes], dict[int, PlusServer]]:
    """What goes to each vehicle of all groups, and which group's server each answers."""
    messages: dict[int, bytes] = {}
    of: dict[int, PlusServer] = {}
    for group in groups:
        found = group.attempt(partial(stage.closing, group.server)) or {}
        messages |= found
        of |= dict.fromkeys(found, group.server)
    return messages, of


def taken(of: Mapping[int, PlusServer], stage: Stage, node: int, data: bytes) -> None:
    """Give a vehicle's answer to its group's server; raises VehicleError."""
    stage.taking(of[node], node, data)


def shortfall(groups: Sequence[Group], strategy: Strategy[Any], plan: RoundPlan) -> str | None:
    """Why the pass would not count however it is opened: then nothing is opened."""
    sizes = [len(group.server.masked) for group in groups if group.why is None]
    able = [size for size in sizes if size >= groups[0].server.announced.n_min]
    if sum(able) < plan.policy.needed:
        return (
            f"{sum(able)} masked vectors came in sums of n_min or more, the quorum is {plan.policy.needed}: "
            "void round, nothing was opened"
        )
    if group_size(strategy.channels) > 1 and len(able) < strategy.least:
        return f"{len(able)} groups of {strategy.least} needed: void round, nothing was opened"
    return None


def concluded(
    secrecy: Secrecy,
    opening: Opening,
    groups: Sequence[Group],
    strategy: Strategy[Any],
    plan: RoundPlan,
    heard: Heard,
    decision: Decision,
    sent: int,
) -> SecurePass:
    """What the pass came to: the sums where enough were released, and who saw what."""
    released = any(one.total is not None for one in groups)
    found = [(one.sums, len(one.server.masked)) for one in groups if one.sums is not None]
    inside = {v for one in groups if one.sums is not None for v in one.server.masked}
    counted, why = verdict(strategy, plan, decision, len(found), len(inside), (one.why for one in groups))
    reduced, loss, clipped = combined(strategy.channels, found) if counted else (None, None, None)
    transcript = signing.digest(
        "carpool/secagg+/round", 1, [one.server.transcript() for one in groups] or [opening.announced.digest]
    )
    secrecy.log.transcript(opening.announced.round_id, transcript, released)
    heard.usable = {node: one for node, one in heard.usable.items() if node in inside and counted}
    graph = next((one.server.graph for one in groups if one.server.graph is not None), None)
    record = {
        "protocol": "secagg+",
        "cryptography": "full",
        "n_min": secrecy.settings.n_min,
        "neighbours": graph.degree if graph else None,
        "threshold": graph.threshold if graph else None,
        "committee": None,
        "steps": heard.steps,
        "dropped": heard.dropped,
        "sums": [
            {"vehicles": len(one.server.masked), "released": one.total is not None, "why": one.why}
            for one in groups
        ],
        "released": released,
        "why": None if counted else why,
        "transcript": transcript.hex(),
        "clipped": clipped,
        "bytes": {"vectors": heard.vectors, "protocol": heard.bytes_up - heard.vectors},
    }
    return SecurePass(heard, Given(reduced), closed(decision, counted, why), heard.bytes_down, loss, record)
