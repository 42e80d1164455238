"""Whatever a vehicle answers is counted or refused with the reason, and kept until it can be folded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from carpool.privacy.errors import VehicleError
from carpool.privacy.sealed_update import Purpose, Unseal
from carpool.privacy.spans import span, timed
from carpool.privacy.vectors import Vector
from carpool.privacy.wire import FAILURES, ContributionMessage, decode_contribution
from carpool.server.handover import Handed
from carpool.server.messages import Answer, wire_of
from carpool.server.soundness import sound_weight
from carpool.server.spool import Spool
from carpool.strategies.contract import Facts, Header, Strategy
from carpool.strategies.deadline import Latest, Policy
from carpool.strategies.fold import Fold

if TYPE_CHECKING:
    from carpool.server.private import Private
    from carpool.server.secure import Secrecy


@dataclass(frozen=True)
class RoundPlan:
    """What is decided before a round: `asked` int64, sorted node ids; `history`: recent reply times, s.

    folder: where updates wait for the end of the round, see `spool.py`; None: the system's temporary folder.
    counted: for strategies with memory, the ticket of each vehicle's last counted contribution, by node;
    root: the server's own update from a model, for strategies that compare with one; unseal: opens what
    vehicles send, None where they send it in the clear; secrecy: how updates are summed without being seen,
    None where they are seen; private: what makes the sums private.
    """

    run: str
    facts: Facts
    asked: NDArray[np.int64]
    policy: Policy
    history: tuple[float, ...] = ()
    folder: Path | None = None
    counted: Mapping[int, int] = field(default_factory=dict)
    root: Callable[[Vector], Vector] | None = None
    unseal: Unseal | None = None
    secrecy: Secrecy | None = None
    private: Private | None = None


class Usable(NamedTuple):
    """A contribution that will be folded: where its vectors wait, its weight and what it says of itself."""

    slot: int
    weight: float
    loss: float
    examples: int
    seconds: float


@dataclass
class Gathered:
    """What came in so far.

    usable: by node; durations: seconds from ask to reply; latest: these and recent rounds' in order, if kept.
    """

    fold: Fold
    spool: Spool
    usable: dict[int, Usable] = field(default_factory=dict)
    durations: list[float] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    failures: list[int] = field(default_factory=list)
    bytes_up: int = 0
    latest: Latest | None = None


class Tally(Protocol):
    """Where it is counted what came."""

    fold: Fold
    failures: list[int]
    bytes_up: int


@timed("wire")
def receive(
    strategy: Strategy[Any], reply: Answer, node: int, plan: RoundPlan, gathered: Gathered, after: float
) -> None:
    """Count one answer of `node`, or refuse it with the reason; never raises for what a vehicle sent."""
    try:
        contribution = opened(reply, gathered, node, plan)
        check(contribution, node, plan)
        header = Header(contribution.examples, contribution.steps, contribution.version)
        weight = sound_weight(strategy, header, plan.facts)
        # Decoding has refused NaN and Inf, and nobody hands them over.
        gathered.fold.check(contribution.vectors, weight, finite=True)
        held = isinstance(reply, Handed) and reply.held
        slot = gathered.spool.put(contribution.vectors, held=held)
    except (VehicleError, ValueError) as error:
        gathered.refused[node] = str(error)
        return
    gathered.usable[node] = Usable(slot, weight, contribution.loss, contribution.examples, after)
    gathered.durations.append(after)
    if gathered.latest is not None:
        gathered.latest.add(after)


def opened(reply: Answer, gathered: Tally, node: int, plan: RoundPlan) -> ContributionMessage:
    """The contribution of `node` in an answer; counts its bytes. Raises VehicleError where there is none."""
    if isinstance(reply, Handed):
        content = reply.content
    else:
        content = reply.error.code if reply.has_error() else wire_of(reply)
    if isinstance(content, int):
        gathered.failures.append(content)
        raise VehicleError(FAILURES.get(content, "the vehicle reported an error"))
    if isinstance(content, bytes):
        gathered.bytes_up += len(content)
        return decode_contribution(unsealed(content, node, plan), gathered.fold.largest)
    if plan.unseal is not None:
        raise VehicleError("the contribution came in the clear, and this run's are sealed")
    gathered.bytes_up += reply.size if isinstance(reply, Handed) else 0
    return content


def unsealed(content: bytes, node: int, plan: RoundPlan) -> bytes:
    """The bytes of a contribution, out of their seal where the run has one; raises VehicleError."""
    if plan.unseal is None:
        return content
    facts = plan.facts
    with span("privacy"):
        return plan.unseal(content, Purpose(plan.run, facts.round, facts.version, facts.pass_number, node))


def check(contribution: ContributionMessage, node: int, plan: RoundPlan) -> None:
    """Refuse what answers another question; raises VehicleError with the value."""
    facts, it = plan.facts, contribution
    got = (it.vehicle, it.run, it.round, it.version, it.pass_number)
    wanted = (node, plan.run, facts.round, facts.version, facts.pass_number)
    if got != wanted:
        names = ("vehicle", "run", "round", "version", "pass")
        name, is_, was = next(row for row in zip(names, got, wanted, strict=True) if row[1] != row[2])
        raise VehicleError(f"the contribution is for {name} {is_}, this is {name} {was}")
