"""One round: ask the cohort, gather what comes, fold it in the order of vehicle ids, step.

    state - task -> bytes -> vehicles -> bytes -> verify - fold - update -> state

A reply that is late, cut off, damaged, repeated, from nobody we asked or from another round is dropped and
counted; it changes nothing. Below quorum the round is void: the state stays the very same object.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from flwr.serverapp import Grid

from carpool.privacy.errors import StrategyError
from carpool.privacy.spans import span, timed
from carpool.privacy.wire import encode
from carpool.server.clock import Clock
from carpool.server.listen import listen
from carpool.server.messages import Answer, send, task_message, ticket_of, wire_of, with_ticket
from carpool.server.private_fold import PrivateFold
from carpool.server.private_round import private_round
from carpool.server.receive import Gathered, RoundPlan, Usable, check, receive
from carpool.server.secure_rounds import secure_pass
from carpool.server.soundness import sound_step, sound_task
from carpool.server.spool import Spool
from carpool.strategies.contract import Again, Facts, Reduced, Strategy, Task
from carpool.strategies.deadline import Decision
from carpool.strategies.fold import Fold

__all__ = [
    "Gathered",
    "RoundOutcome",
    "RoundPlan",
    "Usable",
    "check",
    "receive",
    "run_round",
    "task_message",
    "ticket_of",
    "wire_of",
    "with_ticket",
]

MOST_PASSES = 64
"""Passes of one round after which a strategy is taken to be lost."""


@dataclass(frozen=True)
class RoundOutcome:
    """What a round came to; `decision.counted` false means void. train_loss is weighted like the update.

    usable: the contributions that came in time, by node, of the last pass; secagg: who saw what of a round
    under secure aggregation.
    """

    decision: Decision
    replied: int
    usable: Mapping[int, Usable]
    refused: Mapping[int, str]
    failures: tuple[int, ...]
    durations: tuple[float, ...]
    elapsed: float
    bytes_up: int
    bytes_down: int
    train_loss: float | None
    secagg: Mapping[str, Any] | None = None


def run_round(
    strategy: Strategy[Any], state: Any, plan: RoundPlan, grid: Grid, clock: Clock
) -> tuple[Any, RoundOutcome]:
    """The state after the round (the same object if void) and what happened."""
    if plan.private is not None:
        return private_round(strategy, state, plan, grid, clock, plan.private)
    started, before = clock.now(), state
    with span("strategy"):
        task = sound_task(strategy, state, plan.facts)
    up = down = 0
    train_loss = None
    records: list[Mapping[str, Any]] = []
    while True:
        gathered: Came
        fold: Reduces
        if plan.secrecy is None:
            gathered, decision, sent, loss = one_pass(strategy, state, task, plan, grid, clock)
            fold = gathered.fold
        else:
            one = secure_pass(plan.secrecy, strategy, state, task, plan, grid, clock)
            gathered, fold, decision, sent, loss = one.gathered, one.fold, one.decision, one.sent, one.loss
            records.append(one.secagg)
        train_loss = loss if plan.facts.pass_number == 1 else train_loss  # later passes train nothing
        up, down = up + gathered.bytes_up, down + sent
        found = stepped(strategy, state, fold, plan) if decision.counted else before
        if not isinstance(found, Again):
            break
        state, task = found.state, found.task
        facts = replace(plan.facts, pass_number=plan.facts.pass_number + 1)
        if facts.pass_number > MOST_PASSES:
            raise StrategyError(f"{strategy.name} wants more than {MOST_PASSES} passes of one round")
        plan = replace(plan, facts=facts, asked=np.array(sorted(gathered.usable), np.int64))
    return found, RoundOutcome(
        decision=decision,
        replied=len(gathered.usable),
        usable=gathered.usable,
        refused=gathered.refused,
        failures=tuple(gathered.failures),
        durations=tuple(gathered.durations),
        elapsed=clock.now() - started,
        bytes_up=up,
        bytes_down=down,
        train_loss=train_loss,
        secagg=of_all(records),
    )


class Came(Protocol):
    """What there is to know of the answers of a pass."""

    usable: dict[int, Usable]
    refused: dict[int, str]
    failures: list[int]
    durations: list[float]
    bytes_up: int


class Reduces(Protocol):
    """What was folded, or unmasked."""

    def reduce(self) -> Reduced:
        """For the strategy's step."""
        ...


def of_all(records: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """One record of all passes of a round: that of the last, with every sum that was formed."""
    if not records:
        return None
    sums = [one for record in records for one in record["sums"]]
    return {**records[-1], "sums": sums, "passes": len(records)}


def one_pass(
    strategy: Strategy[Any], state: Any, task: Task, plan: RoundPlan, grid: Grid, clock: Clock
) -> tuple[Gathered, Decision, int, float | None]:
    """Ask, gather and fold once: what came, whether it counts, bytes sent, the mean training loss."""
    pending, sent = ask(task, plan, grid, tickets=needs_ticket(strategy, plan.facts))
    size = shared_size(strategy, state, plan.facts)
    with Spool(strategy.sizes(size), plan.folder) as spool:
        gathered = Gathered(fold_for(strategy, size, plan), spool)
        decision = gather(strategy, plan, pending, grid, clock, gathered)
        return gathered, decision, sent, fold_all(gathered) if decision.counted else None


def fold_for(strategy: Strategy[Any], size: int, plan: RoundPlan) -> Fold:
    """What adds contributions up: to a plain sum, or to one that is only had with noise."""
    if plan.private is None or plan.private.noise is None:
        return Fold(strategy.channels, size, plan.facts)
    return PrivateFold(strategy.channels, size, plan.facts, plan.private.protection.clip_norm)


def shared_size(strategy: Strategy[Any], state: Any, facts: Facts) -> int:
    """How many parameters travel."""
    return strategy.model(state).size if facts.sharing is None else facts.sharing.size


def needs_ticket(strategy: Strategy[Any], facts: Facts) -> bool:
    """Whether vehicles keep something from this task, so that each is told its ticket and its last fate."""
    return strategy.memory is not None or strategy.passes


@timed("strategy")
def stepped(strategy: Strategy[Any], state: Any, fold: Reduces, plan: RoundPlan) -> Any:
    """The strategy's step on what was folded, and nothing unsound: a new state, or Again.

    Raises StrategyError where the strategy breaks its contract, RoundError for an unsound model.
    """
    reduced = fold.reduce()
    if strategy.root:
        if plan.root is None:
            raise StrategyError(
                f"{strategy.name} needs an update of the server's own, and this server has none"
            )
        reduced = replace(reduced, root=plan.root(strategy.model(state)))
    return sound_step(strategy, state, reduced, plan.facts)


@timed("wire")
def ask(task: Task, plan: RoundPlan, grid: Grid, *, tickets: bool) -> tuple[dict[str, int], int]:
    """Send the task to everybody asked: {name of the work: node} of what went out, and the bytes sent.

    tickets: tell each vehicle the ticket of its task, which is the round, and of its last counted one.
    """
    facts = plan.facts
    wire = encode(task_message(plan.run, task, facts))
    given = [(facts.round, plan.counted.get(node, 0)) for node in plan.asked.tolist()] if tickets else None
    pending = send(grid, wire, plan.asked, facts.round, plan.policy.max_s, given)
    return pending, len(wire) * len(pending)


def gather(
    strategy: Strategy[Any],
    plan: RoundPlan,
    pending: dict[str, int],
    grid: Grid,
    clock: Clock,
    gathered: Gathered,
) -> Decision:
    """Take answers until the strategy says that the round is closed."""

    def take(reply: Answer, node: int, after: float) -> None:
        receive(strategy, reply, node, plan, gathered, after)

    return listen(strategy, plan, pending, grid, clock, gathered, take)


@timed("strategy")
def fold_all(gathered: Gathered) -> float | None:
    """Fold what is usable in the order of node ids; the weighted mean of the training losses, if finite."""
    loss = 0.0
    for _, one in sorted(gathered.usable.items()):
        gathered.fold.add(gathered.spool.take(one.slot), one.weight, checked=True)
        loss += one.weight * one.loss
    mean = loss / gathered.fold.weight
    return mean if math.isfinite(mean) else None
