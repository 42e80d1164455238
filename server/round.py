"""One round: ask the cohort, gather what comes, fold it in the order of vehicle ids, step.

    state - task -> bytes -> vehicles -> bytes -> verify - fold - update -> state

A reply that is late, cut off, damaged, repeated, from nobody we asked or from another round is dropped and
counted; it changes nothing. Below quorum the round is void: the state stays the very same object.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from carpool.privacy.errors import RoundError, VehicleError
from carpool.privacy.spans import span, timed
from carpool.privacy.vectors import check_vector
from carpool.privacy.wire import (
    FAILURES,
    RECORD,
    ContributionMessage,
    TaskMessage,
    decode_contribution,
    encode,
)
from carpool.server.clock import Clock
from carpool.server.spool import Spool
from carpool.strategies.contract import Facts, Header, Strategy
from carpool.strategies.deadline import Decision, Policy, Progress
from carpool.strategies.fold import Fold


@dataclass(frozen=True)
class RoundPlan:
    """What is decided before a round: `asked` int64, sorted node ids; `history`: recent reply times, s.

    folder: where updates wait for the end of the round, see `spool.py`; None: the system's temporary folder.
    """

    run: str
    facts: Facts
    asked: NDArray[np.int64]
    policy: Policy
    history: tuple[float, ...] = ()
    folder: Path | None = None


@dataclass(frozen=True)
class Usable:
    """A contribution that will be folded: where its vectors wait, its weight and its mean training loss."""

    slot: int
    weight: float
    loss: float


@dataclass
class Gathered:
    """What came in so far. usable: by node; durations: seconds from ask to reply."""

    fold: Fold
    spool: Spool
    usable: dict[int, Usable] = field(default_factory=dict)
    durations: list[float] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    failures: list[int] = field(default_factory=list)
    bytes_up: int = 0


@dataclass(frozen=True)
class RoundOutcome:
    """What a round came to; `counted` false means void. train_loss is weighted like the update."""

    decision: Decision
    replied: int
    refused: Mapping[int, str]
    failures: tuple[int, ...]
    durations: tuple[float, ...]
    elapsed: float
    bytes_up: int
    bytes_down: int
    train_loss: float | None


def run_round(
    strategy: Strategy[Any], state: Any, plan: RoundPlan, grid: Grid, clock: Clock
) -> tuple[Any, RoundOutcome]:
    """The state after the round (the same object if void) and what happened."""
    started = clock.now()
    pending, sent = ask(strategy, state, plan, grid)
    size, train_loss = strategy.model(state).size, None
    with Spool([channel.name for channel in strategy.channels], size, plan.folder) as spool:
        gathered = Gathered(Fold(strategy.channels, size), spool)
        decision = gather(strategy, plan, pending, grid, clock, gathered)
        if decision.counted:
            train_loss = fold_all(gathered)
    if decision.counted:
        with span("strategy"):
            state = strategy.update(state, gathered.fold.reduce(), plan.facts)
            refuse_unsound(strategy, state, plan)
    return state, RoundOutcome(
        decision=decision,
        replied=len(gathered.usable),
        refused=gathered.refused,
        failures=tuple(gathered.failures),
        durations=tuple(gathered.durations),
        elapsed=clock.now() - started,
        bytes_up=gathered.bytes_up,
        bytes_down=sent,
        train_loss=train_loss,
    )


@timed("wire")
def ask(strategy: Strategy[Any], state: Any, plan: RoundPlan, grid: Grid) -> tuple[dict[str, int], int]:
    """Send the task to everybody asked: {message id: node id} of what went out, and the bytes sent."""
    facts = plan.facts
    with span("strategy"):
        task = strategy.task(state, facts)
    wire = encode(
        TaskMessage(
            run=plan.run,
            round=facts.round,
            version=facts.version,
            population=facts.population,
            cohort=facts.cohort,
            scalars={name: float(value) for name, value in task.scalars.items()},
            vectors=task.vectors,
        )
    )
    content = RecordDict({RECORD: ConfigRecord({RECORD: wire})})  # of all: nobody changes it
    messages = [
        grid.create_message(
            content=content,
            message_type="train",
            dst_node_id=int(node),
            group_id=str(facts.round),
            ttl=plan.policy.max_s,
        )
        for node in plan.asked
    ]
    ids = list(grid.push_messages(messages))
    pending = {i: int(node) for i, node in zip(ids, plan.asked, strict=True) if i is not None}
    return pending, len(wire) * len(pending)


def gather(
    strategy: Strategy[Any],
    plan: RoundPlan,
    pending: dict[str, int],
    grid: Grid,
    clock: Clock,
    gathered: Gathered,
) -> Decision:
    """Take replies until the strategy says that the round is closed."""
    asked, started = len(pending), clock.now()
    while True:
        with span("wire"):
            replies = sorted_replies(grid.pull_messages(list(pending)), pending)
        while replies:  # each is let go before the next one is unpacked
            reply = replies.popleft()
            node = pending.pop(reply.metadata.reply_to_message_id)
            receive(strategy, reply, node, plan, gathered, clock.now() - started)
        elapsed = clock.now() - started
        progress = Progress(
            asked=asked,
            arrived=len(gathered.usable),
            refused=len(gathered.refused),
            elapsed=elapsed,
            durations=tuple(gathered.durations),
            history=plan.history,
        )
        decision = strategy.ready(plan.policy, progress)
        if decision.closed or decision.wake is None:
            return decision
        # started + wake may round down to now, or to where elapsed is still below wake: go one step on.
        clock.wait(max(started + decision.wake, math.nextafter(clock.now(), math.inf)))


def sorted_replies(replies: Iterable[Message], pending: Mapping[str, int]) -> deque[Message]:
    """Replies to what is still pending, by node id; anything else was not asked for and is ignored."""
    known = {reply.metadata.reply_to_message_id: reply for reply in replies if reply is not None}
    return deque(sorted((r for i, r in known.items() if i in pending), key=lambda r: pending[_answered(r)]))


def _answered(reply: Message) -> str:
    return reply.metadata.reply_to_message_id


@timed("wire")
def receive(
    strategy: Strategy[Any], reply: Message, node: int, plan: RoundPlan, gathered: Gathered, after: float
) -> None:
    """Count one reply of `node`, or refuse it with the reason; never raises for what a vehicle sent."""
    try:
        if reply.has_error():
            gathered.failures.append(reply.error.code)
            raise VehicleError(FAILURES.get(reply.error.code, "the vehicle reported an error"))
        wire = wire_of(reply)
        gathered.bytes_up += len(wire)
        contribution = decode_contribution(wire)
        check(contribution, node, plan)
        header = Header(contribution.examples, contribution.steps, contribution.version)
        weight = strategy.weight(header, plan.facts)
        gathered.fold.check(contribution.vectors, weight)
        slot = gathered.spool.put(contribution.vectors)
    except (VehicleError, ValueError) as error:
        gathered.refused[node] = str(error)
        return
    gathered.usable[node] = Usable(slot, weight, contribution.loss)
    gathered.durations.append(after)


def wire_of(message: Message) -> bytes:
    """The one bytes entry of a message; raises VehicleError where it is not there."""
    record = message.content.get(RECORD)
    wire = record.get(RECORD) if isinstance(record, ConfigRecord) else None
    if not isinstance(wire, bytes):
        raise VehicleError(f"the message has no {RECORD!r} record of bytes")
    return wire


def check(contribution: ContributionMessage, node: int, plan: RoundPlan) -> None:
    """Refuse what answers another question; raises VehicleError with the value."""
    facts = plan.facts
    for name, got, wanted in (
        ("vehicle", contribution.vehicle, node),
        ("run", contribution.run, plan.run),
        ("round", contribution.round, facts.round),
        ("version", contribution.version, facts.version),
    ):
        if got != wanted:
            raise VehicleError(f"the contribution is for {name} {got}, this is {name} {wanted}")


@timed("strategy")
def fold_all(gathered: Gathered) -> float | None:
    """Fold what is usable in the order of node ids; the weighted mean of the training losses, if finite."""
    loss = 0.0
    for _, one in sorted(gathered.usable.items()):
        gathered.fold.add(gathered.spool.take(one.slot), one.weight)
        loss += one.weight * one.loss
    mean = loss / gathered.fold.weight
    return mean if math.isfinite(mean) else None


def refuse_unsound(strategy: Strategy[Any], state: Any, plan: RoundPlan) -> None:
    """Raise RoundError where the strategy's step made a model that nobody may be sent."""
    model = strategy.model(state)
    try:
        check_vector(model, model.size, "the new model")
    except VehicleError as error:
        raise RoundError(
            f"round {plan.facts.round}: {error} after the step of {strategy.name}, so it is not used; "
            "lower strategy.options.server_lr or train.lr"
        ) from error
