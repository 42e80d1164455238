"""One private round: charged, asked, certified, noised, persisted, published; then the strategy's step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flwr.serverapp import Grid

from carpool.privacy.errors import RoundError, StrategyError
from carpool.privacy.spans import span
from carpool.privacy.vectors import Vector
from carpool.server.clock import Clock, RealClock
from carpool.server.private import Private, persisted
from carpool.server.private_fold import PrivateFold
from carpool.server.receive import Gathered, RoundPlan, Usable
from carpool.server.released import Released
from carpool.server.secure import Heard, SecurePass
from carpool.server.secure_rounds import secure_pass
from carpool.server.soundness import sound_step, sound_task
from carpool.strategies.contract import Again, Strategy
from carpool.strategies.deadline import Decision

LOST = "the process was killed in this round, before its sum was on disk: void, and its charge stays"


def private_round(
    strategy: Strategy[Any], state: Any, plan: RoundPlan, grid: Grid, clock: Clock, private: Private
) -> tuple[Any, Any]:
    """The state after the round (the same object if void) and what happened.

    Raises PrivacyRefused before anybody is asked where the budget does not allow it.
    """
    from carpool.server.round import RoundOutcome  # it calls this

    vectors: Mapping[str, Vector] | None
    held = private.held(plan.facts.round)
    if held is not None:
        outcome, vectors = outcome_of(held, RoundOutcome), dict(held.vectors)
        caught_up(clock, clock.now() + float(held.facts["elapsed"]))
    elif private.lost(plan.facts.round):
        return state, RoundOutcome(Decision(True, False, None, LOST), 0, {}, {}, (), (), 0.0, 0, 0, None)
    else:
        outcome, vectors = gathered(strategy, state, plan, grid, clock, private)
        if vectors is None:
            return state, outcome
        private.publish(vectors, facts_of(outcome, plan))
    reduced = private.reduced(vectors, strategy.channels, plan.facts)
    if strategy.root and plan.root is not None:
        reduced = replace(reduced, root=plan.root(strategy.model(state)))
    with span("strategy"):
        found = sound_step(strategy, state, reduced, plan.facts)
    if isinstance(found, Again):
        raise StrategyError(f"{strategy.name} has several passes a round; each would be a release of its own")
    return found, outcome


def caught_up(clock: Clock, until: float) -> None:
    """Let a virtual clock stand where it stood when the round was over; a real one is there already."""
    if not isinstance(clock, RealClock):
        clock.wait(until)


def gathered(
    strategy: Strategy[Any], state: Any, plan: RoundPlan, grid: Grid, clock: Clock, private: Private
) -> tuple[Any, dict[str, Vector] | None]:
    """Charge, ask, certify and add noise: what happened, and the noisy sums, None for a void round."""
    from carpool.server.round import RoundOutcome, one_pass

    started, facts = clock.now(), plan.facts
    private.begin(facts.round, facts.cohort)
    with span("strategy"):
        task = sound_task(strategy, state, facts)
    came: Gathered | Heard
    record: Mapping[str, Any] | None = None
    vectors: dict[str, Vector] | None = None
    if plan.secrecy is None:
        came, decision, sent, _ = one_pass(strategy, state, task, plan, grid, clock)
        if private.always and not decision.counted:
            decision = Decision(True, True, None, f"{decision.reason}; released, with noise on whoever came")
        if decision.counted:
            private.certified(None, len(plan.asked), came.fold.count)
            vectors = of_fold(private, came)
    else:
        one: SecurePass = secure_pass(plan.secrecy, strategy, state, task, plan, grid, clock)
        came, decision, sent, record = one.gathered, one.decision, one.sent, one.secagg
        vectors = persisted(one.fold.reduce()) if decision.counted else None
    if vectors is None:
        private.void(decision.reason)
    outcome = RoundOutcome(
        decision=decision,
        replied=len(came.usable),
        usable=came.usable,
        refused=came.refused,
        failures=tuple(came.failures),
        durations=tuple(came.durations),
        elapsed=clock.now() - started,
        bytes_up=came.bytes_up,
        bytes_down=sent,
        train_loss=None,  # it would have to pay for itself
        secagg=record,
    )
    return outcome, vectors


def of_fold(private: Private, came: Gathered) -> dict[str, Vector]:
    """The released sums of a fold: with the server's noise, or with that of the vehicles in them."""
    if isinstance(came.fold, PrivateFold):
        return private.of_grid(came.fold.grid.take(), came.fold.grid.grid)
    return persisted(came.fold.reduce())


def facts_of(outcome: Any, plan: RoundPlan) -> dict[str, Any]:
    """What happened, as plain JSON, so that a resumed run tells the same."""
    return {
        "asked": plan.asked.tolist(),
        "usable": {str(node): one.seconds for node, one in outcome.usable.items()},
        "refused": {str(node): why[:200] for node, why in outcome.refused.items()},
        "failures": list(outcome.failures),
        "durations": list(outcome.durations),
        "elapsed": outcome.elapsed,
        "bytes_up": outcome.bytes_up,
        "bytes_down": outcome.bytes_down,
        "reason": outcome.decision.reason,
        "secagg": outcome.secagg,
    }


def outcome_of(held: Released, kind: Any) -> Any:
    """The outcome again; raises RoundError where the file does not have it."""
    try:
        facts = held.facts
        return kind(
            decision=Decision(True, True, None, facts["reason"]),
            replied=len(facts["usable"]),
            usable={int(n): Usable(-1, 1.0, math.nan, 0, s) for n, s in facts["usable"].items()},
            refused={int(n): why for n, why in facts["refused"].items()},
            failures=tuple(facts["failures"]),
            durations=tuple(facts["durations"]),
            elapsed=facts["elapsed"],
            bytes_up=facts["bytes_up"],
            bytes_down=facts["bytes_down"],
            train_loss=None,
            secagg=facts["secagg"],
        )
    except (LookupError, TypeError, ValueError) as error:
        raise RoundError(
            f"the persisted sum of round {held.round} does not say what happened: {error}"
        ) from error
