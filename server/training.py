"""The whole training: choose, run a round, evaluate, make it durable, report; resumable after any kill."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from flwr.serverapp import Grid
from numpy.typing import NDArray

from carpool.privacy.errors import RoundError
from carpool.privacy.sealed_update import Unseal
from carpool.privacy.spans import span, timed
from carpool.privacy.vectors import Vector
from carpool.privacy.wire import FAILURES
from carpool.server.checkpoint import Checkpoint
from carpool.server.clock import Clock
from carpool.server.inflight import Ask, Flight
from carpool.server.private import Private
from carpool.server.round import RoundOutcome, RoundPlan, run_round
from carpool.server.secure import Secrecy
from carpool.server.selection import Ids, asked_size
from carpool.server.selectors.contract import Moment, Seen, Selector
from carpool.server.selectors.contract import State as Known
from carpool.server.selectors.poisson import sampling_rate
from carpool.server.selectors.uniform import uniform
from carpool.server.soundness import sound_state
from carpool.strategies.contract import Facts, Strategy, dump, load
from carpool.strategies.deadline import Policy
from carpool.strategies.sharing import Sharing

HISTORY = 200
"""Reply times that the adaptive deadline remembers."""
PATIENCE_S = 86400.0
"""How long the server waits for a quorum to be there before it runs a round with whoever is."""
LOOK_AGAIN_S = 60.0
DIVERGED = 1001
EMPTY: Known = {}


@dataclass(frozen=True)
class Plan:
    """What the experiment asks of the server; fields as in the experiment file.

    folder: where a round's updates wait for its end, None: the system's temporary folder;
    sharing: which parameters travel, None: all; selector: whom to ask; stratum: in words, where and when a
    node drives, for selectors that look at it; concurrency: vehicles under way at all times, of a strategy
    with a buffer, 0: as many as are asked in a round; unseal, secrecy, private:
    as in `RoundPlan`.
    """

    run: str
    seed: int
    rounds: int
    population: int
    cohort: int
    over_select: float
    policy: Policy
    evaluate_every: int = 1
    folder: Path | None = None
    sharing: Sharing | None = None
    selector: Selector = field(default_factory=uniform)
    stratum: Callable[[int], str] | None = None
    concurrency: int = 0
    unseal: Unseal | None = None
    secrecy: Secrecy | None = None
    private: Private | None = None

    @property
    def wanted(self) -> float:
        """Vehicles to ask in a round, not rounded."""
        return self.cohort * (1 + self.over_select)


class Hooks(Protocol):
    """What the server is handed: evaluation (it knows no torch) and the places where it reports."""

    def evaluate(self, model: Vector) -> Mapping[str, Any]:
        """Loss, accuracy (or None), figures by target, and whatever else belongs into the round's record."""

    def root(self, model: Vector, round_: int) -> Vector:
        """The server's own update of a model from trusted samples, float32 [d]; for strategies with root."""

    def simulator(self, round_: int) -> Mapping[str, Any]:
        """What only a simulator knows of the round (who left at which stage); empty on a real fleet."""

    def departed(self, asks: Sequence[Ask]) -> Mapping[str, Any]:
        """The same of asks that came to an end, of an asynchronous server."""

    def commit(self, checkpoint: Checkpoint) -> None:
        """Make the finished round durable, then tell whoever watches."""


@runtime_checkable
class CountsPresent(Protocol):
    """A grid that knows who is there without making a list of them."""

    def present_nodes(self) -> Ids | range:
        """Node ids that can be asked now: int64 [n] strictly increasing, or a rising range."""


@dataclass(frozen=True)
class Training:
    """Where the training stands, between two rounds; counted, selector, flight: see `Checkpoint`."""

    state: Any
    round: int = 0
    version: int = 0
    history: tuple[float, ...] = ()
    counted: Mapping[int, int] = field(default_factory=dict)
    selector: Known = field(default_factory=dict)
    flight: Flight | None = None


def begin(strategy: Strategy[Any], model: Vector, plan: Plan) -> Training:
    """Before round 1, from the first model float32 [d]."""
    facts = Facts(0, 0, plan.population, strategy.buffer or plan.cohort, sharing=plan.sharing)
    return Training(sound_state(strategy, model, facts))


def restore(strategy: Strategy[Any], checkpoint: Checkpoint) -> Training:
    """Where the checkpoint says; raises ValueError for the state of another strategy."""
    state = load(strategy.state, checkpoint.vectors, checkpoint.scalars)
    counted = dict(checkpoint.counted)
    selector = dict(checkpoint.selector)
    rounds, version, history = checkpoint.round, checkpoint.version, checkpoint.history
    return Training(state, rounds, version, history, counted, selector, checkpoint.flight)


def whom(plan: Plan, round_: int, present: Ids | range, now: float, known: Known) -> Ids:
    """Node ids to ask, admitted by the schema; of a round that a killed process began, those of then."""
    private = plan.private
    if private is not None and (before := private.asked(round_)) is not None:
        return before
    asked = select(plan, round_, present, now, known)
    if private is not None and private.schema is not None:
        private.schema.admit(asked, round_)
    return asked


@timed("bookkeeping")
def choose(plan: Plan, round_: int, grid: Grid, clock: Clock, known: Known = EMPTY) -> NDArray[np.int64]:
    """Node ids to ask, sorted; waits up to `PATIENCE_S` while fewer than the quorum are there."""
    return select(plan, round_, awaited(plan, grid, clock), clock.now(), known)


def admissible(plan: Plan, round_: int, present: Ids | range) -> Ids | range:
    """Those of the present who may take part in this round by the participation schema, if there is one."""
    if plan.private is None or plan.private.schema is None:
        return present
    ids = np.asarray(present, np.int64)
    return ids[plan.private.schema.allowed(ids, round_)]


def awaited(plan: Plan, grid: Grid, clock: Clock) -> Ids | range:
    """Who is there, once there is a quorum or `PATIENCE_S` is over."""
    latest = clock.now() + PATIENCE_S
    present = present_nodes(grid)
    while len(present) < plan.policy.needed and clock.now() < latest:
        clock.wait(clock.now() + LOOK_AGAIN_S)
        present = present_nodes(grid)
    return present


def select(plan: Plan, round_: int, present: Ids | range, now: float, known: Known) -> Ids:
    """The selector's choice, int64, increasing; the same for the same round, present ids and knowledge."""
    rng = np.random.default_rng(np.random.SeedSequence((plan.seed, round_), spawn_key=(0x5E1EC7,)))
    size = asked_size(plan.cohort, plan.over_select)
    moment = Moment(round_, now, plan.population, plan.wanted, plan.stratum)
    return plan.selector.choose(known, present, size, rng, moment)


def noticed(
    plan: Plan, known: Known, present: Ids | range, now: float, asked: Ids, outcome: RoundOutcome, round_: int
) -> Known:
    """What the selector knows after a round that began at `now`."""
    answered = np.array(sorted(outcome.usable), np.int64)
    found = [outcome.usable[int(node)] for node in answered]
    return plan.selector.observe(
        known,
        Seen(
            round=round_,
            now=now,
            elapsed=outcome.elapsed,
            population=plan.population,
            present=present,
            asked=asked,
            answered=answered,
            losses=np.array([one.loss for one in found], np.float64),
            examples=np.array([one.examples for one in found], np.float64),
            seconds=np.array([one.seconds for one in found], np.float64),
        ),
    )


def present_nodes(grid: Grid) -> Ids | range:
    """Who is there, increasing: from a grid that knows them all at once, else one by one, as Flower's does.

    A million vehicles cost a `CountsPresent` grid nothing or a few milliseconds, and 0.2 s one by one.
    """
    if isinstance(grid, CountsPresent):
        return grid.present_nodes()
    return np.sort(np.fromiter(grid.get_node_ids(), np.int64))


def step(
    strategy: Strategy[Any], training: Training, plan: Plan, grid: Grid, clock: Clock, hooks: Hooks
) -> Training:
    """One round, evaluated and committed; raises RoundError where every vehicle's training diverged."""
    began, round_ = time.perf_counter(), training.round + 1
    facts = Facts(round_, training.version, plan.population, plan.cohort, sharing=plan.sharing)
    with span("bookkeeping"):
        present, now = admissible(plan, round_, awaited(plan, grid, clock)), clock.now()
        asked = whom(plan, round_, present, now, training.selector)
    round_plan = RoundPlan(
        plan.run,
        facts,
        asked,
        plan.policy,
        training.history,
        plan.folder,
        training.counted,
        lambda model: hooks.root(model, round_),
        unseal=plan.unseal,
        secrecy=plan.secrecy,
        private=plan.private,
    )
    state, outcome = run_round(strategy, training.state, round_plan, grid, clock)
    refuse_divergence(round_, outcome)
    due = round_ % plan.evaluate_every == 0 or round_ == plan.rounds
    with span("evaluation"):
        figures = hooks.evaluate(strategy.model(state)) if due else {}
    training = replace(
        training,
        state=state,
        round=round_,
        version=training.version + outcome.decision.counted,
        history=(*training.history, *outcome.durations)[-HISTORY:],
        counted=acknowledged(strategy, training.counted, outcome, round_),
        selector=noticed(plan, training.selector, present, now, asked, outcome, round_),
    )
    record = {
        "round": round_,
        "asked": len(asked),
        "replied": outcome.replied,
        "dropped": len(asked) - outcome.replied,
        "refused": len(outcome.refused),
        "void": not outcome.decision.counted,
        "closed": outcome.decision.reason,
        "loss": figures.get("loss"),
        "accuracy": figures.get("accuracy"),
        "train_loss": outcome.train_loss,
        "targets": figures.get("targets"),
        "seconds": round(time.perf_counter() - began, 4),
        "fleet_seconds": round(outcome.elapsed, 3),
        "bytes_up": outcome.bytes_up,
        "bytes_down": outcome.bytes_down,
        "epsilon": None,
        "secagg": outcome.secagg,
        "sampling_rate": sampling_rate(plan.wanted, plan.population) if plan.selector.poisson else None,
        **{name: value for name, value in figures.items() if name not in ("loss", "accuracy", "targets")},
        **({} if plan.private is None else plan.private.figures()),
        **hooks.simulator(round_),
    }
    with span("bookkeeping"):
        vectors, scalars = dump(state)
        hooks.commit(
            Checkpoint(
                plan.run,
                round_,
                training.version,
                clock.now(),
                training.history,
                record,
                vectors,
                scalars,
                training.counted,
                training.selector,
            )
        )
    return training


def acknowledged(
    strategy: Strategy[Any], counted: Mapping[int, int], outcome: RoundOutcome, ticket: int
) -> Mapping[int, int]:
    """The tickets of the vehicles' last counted contributions after a round; kept only where it matters."""
    if strategy.memory is None or not outcome.decision.counted:
        return counted
    return {**counted, **dict.fromkeys(outcome.usable, ticket)}


def refuse_divergence(round_: int, outcome: RoundOutcome) -> None:
    """Stop where nobody had a usable update and at least one training ended in NaN or Inf."""
    diverged = sum(code == DIVERGED for code in outcome.failures)
    if outcome.replied == 0 and diverged:
        raise RoundError(
            f"round {round_}: {FAILURES[DIVERGED]} on all {diverged} vehicles that answered; "
            "lower train.lr or strategy.options.server_lr, or set train.clip_grad = 1.0"
        )
