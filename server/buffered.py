"""An asynchronous server: no rounds, no barrier. Nguyen et al. 2022, arXiv:2106.06639, Algorithm 1.

    ask -> vehicles ... arrivals -> verify - weigh by staleness - fold -> after every K: step -> next version

A contribution is folded when it arrives, in the order of arrival (of those at one moment: in the order of
asking), and let go. One that is too old is dropped, and so is what is damaged, repeated or unasked for; a
vehicle that stays silent frees its place after `policy.max_s`. A vehicle is not asked again before its last
contribution is resolved: dropped, or in a step that is on disk. So vehicle memory works as in rounds, with
the running number of the ask as its ticket. In records, and for selectors, one round is one step.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.serverapp import Grid

from carpool.privacy.errors import RoundError, VehicleError
from carpool.privacy.spans import span, timed
from carpool.privacy.wire import FAILURES
from carpool.server.buffer import Buffer, Counted
from carpool.server.checkpoint import Checkpoint
from carpool.server.clock import Clock
from carpool.server.inflight import Ask
from carpool.server.messages import Answer
from carpool.server.office import Office
from carpool.server.receive import RoundPlan, check, opened
from carpool.server.round import shared_size, stepped
from carpool.server.secure_buffered import Masked, Tray
from carpool.server.selectors.contract import Seen
from carpool.server.soundness import sound_weight
from carpool.server.training import DIVERGED, PATIENCE_S, Hooks, Plan, Training, present_nodes
from carpool.strategies.contract import Header, Strategy, dump
from carpool.strategies.fold import Fold
from carpool.strategies.shared import staleness

NOBODY = np.zeros(0, np.int64)


def steps(
    strategy: Strategy[Any], training: Training, plan: Plan, grid: Grid, clock: Clock, hooks: Hooks
) -> Iterator[Training]:
    """Server steps until the last one, each evaluated and committed: where the training stands after each.

    Raises RoundError where nothing but diverged trainings comes, or for an unsound model.
    """
    office = Office(strategy, training, plan, grid, clock)
    masked = None if plan.secrecy is None else Masked(office, plan.secrecy)
    while office.training.round < plan.rounds:
        office.begin(one_step(office, hooks, masked))
        yield office.training


def one_step(office: Office, hooks: Hooks, masked: Masked | None = None) -> Training:
    """Gather a buffer, step, evaluate, commit; masked: where nobody sees what is in it."""
    watch, strategy, plan, facts = time.perf_counter(), office.strategy, office.plan, office.facts
    state = office.training.state
    fold = Fold(strategy.channels, shared_size(strategy, state, facts), facts)
    buffer = Buffer(fold, office.clock.now(), present_nodes(office.grid))
    round_plan = plan_of(office, facts.round, facts.version)
    round_plan = replace(round_plan, root=lambda model: hooks.root(model, facts.round))
    if masked is None:
        shown, full = None, gather(office, buffer)
        if full:
            state = stepped(strategy, state, fold, round_plan)
    else:
        with masked.opened(buffer) as tray:
            shown = tray.close(gather(office, buffer, tray))
        if full := shown.decision.counted:
            state = stepped(strategy, state, shown.fold, round_plan)
    due = facts.round % plan.evaluate_every == 0 or facts.round == plan.rounds
    with span("evaluation"):
        figures = hooks.evaluate(strategy.model(state)) if due else {}
    with span("bookkeeping"):
        elapsed = office.clock.now() - buffer.began
        training = settled(office, buffer, state, full=full, elapsed=elapsed)
        line = record(office, buffer, full=full, figures=figures, elapsed=elapsed)
        if shown is not None:
            line |= {"closed": shown.decision.reason, "secagg": shown.secagg, "train_loss": shown.loss}
        line["seconds"] = round(time.perf_counter() - watch, 4)
        line |= hooks.departed(buffer.ended)
        hooks.commit(checkpoint(plan.run, training, office.clock.now(), line))
    return training


def gather(office: Office, buffer: Buffer, tray: Tray | None = None) -> bool:
    """Ask, and take in what comes, until the buffer is full; false where `PATIENCE_S` went by without."""
    end, size = buffer.began + PATIENCE_S, office.strategy.buffer
    while True:
        office.hear()
        if tray is not None:
            tray.take_all()
        while tray is None and office.arrived and buffer.fold.count < size:
            receive(office, *office.arrived.popleft(), buffer)
        if buffer.fold.count == size if tray is None else tray.full:
            return True
        silent = office.give_up()
        buffer.ended += silent
        buffer.silent += len(silent)
        refuse_divergence(office, buffer)
        if office.clock.now() >= end:
            return False
        done = {one.ask.node for one in buffer.counted}
        asked, sent = office.fill(done if tray is None else done | tray.said)
        buffer.sent += len(asked)
        buffer.bytes_down += sent
        office.wait(end)


@timed("wire")
def receive(office: Office, ask: Ask, reply: Answer, buffer: Buffer) -> None:
    """Fold one answer, or drop it; never raises for what a vehicle sent."""
    buffer.ended.append(ask)
    strategy, facts = office.strategy, office.facts
    try:
        answered = plan_of(office, ask.round, ask.version)
        contribution = opened(reply, buffer, ask.node, answered)
        check(contribution, ask.node, answered)
        header = Header(contribution.examples, contribution.steps, contribution.version)
        age = staleness(header, facts)
        if age > strategy.max_staleness:
            buffer.old += 1
            return
        weight = sound_weight(strategy, header, facts)
        # Decoding has refused NaN and Inf, and nobody hands them over.
        buffer.fold.check(contribution.vectors, weight, finite=True)
        with span("strategy"):
            buffer.fold.add(contribution.vectors, weight, checked=True)
    except (VehicleError, ValueError):
        buffer.refused += 1
        return
    seconds = office.clock.now() - ask.at
    buffer.counted.append(Counted(ask, weight, contribution.loss, contribution.examples, seconds, age))


def plan_of(office: Office, round_: int, version: int) -> RoundPlan:
    """What a contribution to the task of this round and version is held to."""
    facts = replace(office.facts, round=round_, version=version)
    return RoundPlan(office.plan.run, facts, NOBODY, office.plan.policy, unseal=office.plan.unseal)


def refuse_divergence(office: Office, buffer: Buffer) -> None:
    """Stop where as many trainings as run at once ended in NaN or Inf, and nothing usable came."""
    diverged = sum(code == DIVERGED for code in buffer.failures)
    if not buffer.counted and diverged >= office.concurrency:
        raise RoundError(
            f"round {office.facts.round}: {FAILURES[DIVERGED]} on all {diverged} vehicles that answered; "
            "lower train.lr or strategy.options.server_lr, or set train.clip_grad = 1.0"
        )


def settled(office: Office, buffer: Buffer, state: Any, *, full: bool, elapsed: float) -> Training:
    """Where the training stands after a step, or after a wait that came to none."""
    training, tickets = office.training, {}
    if full and office.strategy.memory is not None:
        tickets = {one.ask.node: one.ask.ticket for one in buffer.counted}
    return replace(
        training,
        state=state,
        round=training.round + 1,
        version=training.version + full,
        counted={**training.counted, **tickets},
        selector=office.plan.selector.observe(training.selector, seen(office, buffer, elapsed)),
        flight=office.in_flight(),
    )


def seen(office: Office, buffer: Buffer, elapsed: float) -> Seen:
    """What the selector is told of a step."""
    found = sorted(buffer.counted, key=lambda one: one.ask.node)
    return Seen(
        round=office.facts.round,
        now=buffer.began,
        elapsed=elapsed,
        population=office.plan.population,
        present=buffer.present,
        asked=np.unique(np.array([ask.node for ask in buffer.ended], np.int64)),
        answered=np.array([one.ask.node for one in found], np.int64),
        losses=np.array([one.loss for one in found], np.float64),
        examples=np.array([one.examples for one in found], np.float64),
        seconds=np.array([one.seconds for one in found], np.float64),
    )


def record(
    office: Office, buffer: Buffer, *, full: bool, figures: Mapping[str, Any], elapsed: float
) -> dict[str, Any]:
    """The line of a step; `asked` are those whose ask came to an end in it, so that the counts add up."""
    replied, ages = len(buffer.counted), [one.staleness for one in buffer.counted]
    return {
        "round": office.facts.round,
        "asked": len(buffer.ended),
        "replied": replied,
        "dropped": len(buffer.ended) - replied,
        "refused": buffer.refused,
        "void": not full,
        "closed": f"{replied} of the {office.strategy.buffer} contributions of a step",
        "loss": figures.get("loss"),
        "accuracy": figures.get("accuracy"),
        "train_loss": buffer.train_loss if full else None,
        "targets": figures.get("targets"),
        "seconds": 0.0,
        "fleet_seconds": round(elapsed, 3),
        "bytes_up": buffer.bytes_up,
        "bytes_down": buffer.bytes_down,
        "epsilon": None,
        "sampling_rate": None,
        **{name: value for name, value in figures.items() if name not in ("loss", "accuracy", "targets")},
        "asynchrony": {
            "sent": buffer.sent,
            "under_way": len(office.pending) + len(office.arrived),
            "too_old": buffer.old,
            "silent": buffer.silent,
            "staleness_mean": round(sum(ages) / len(ages), 4) if ages else None,
            "staleness_max": max(ages, default=None),
        },
    }


def checkpoint(run: str, training: Training, now: float, line: Mapping[str, Any]) -> Checkpoint:
    """The training after a step, for the disk."""
    vectors, scalars = dump(training.state)
    return Checkpoint(
        run,
        training.round,
        training.version,
        now,
        training.history,
        line,
        vectors,
        scalars,
        training.counted,
        training.selector,
        training.flight,
    )
