"""The one loop that waits for answers to a task until the strategy says that the round is closed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sized
from typing import Any, Protocol

from flwr.serverapp import Grid

from carpool.server.clock import Clock
from carpool.server.messages import Answer, arrived
from carpool.server.receive import RoundPlan
from carpool.strategies.contract import Strategy
from carpool.strategies.deadline import Decision, Latest, Progress


class Tallied(Protocol):
    """What came so far: usable and refused by node; durations: seconds from ask to reply."""

    durations: list[float]
    latest: Latest | None

    @property
    def usable(self) -> Sized:
        """Those that will count."""

    @property
    def refused(self) -> Sized:
        """Those that will not."""


def listen(
    strategy: Strategy[Any],
    plan: RoundPlan,
    pending: dict[str, int],
    grid: Grid,
    clock: Clock,
    came: Tallied,
    take: Callable[[Answer, int, float], None],
) -> Decision:
    """Give each answer to `take` (answer, node, seconds after the ask), which tallies it, until the end.

    pending: {name of the work: node}; what was answered is taken out of it.
    """
    asked, started = len(pending), clock.now()
    came.latest = Latest(plan.policy.window, plan.history)
    while True:
        replies = arrived(grid, pending)
        while replies:  # each is let go before the next one is unpacked
            name, reply = replies.popleft()
            take(reply, pending.pop(name), clock.now() - started)
        progress = Progress(
            asked=asked,
            arrived=len(came.usable),
            refused=len(came.refused),
            elapsed=clock.now() - started,
            durations=tuple(came.durations),
            history=plan.history,
            latest=came.latest,
        )
        decision = strategy.ready(plan.policy, progress)
        if decision.closed or decision.wake is None:
            return decision
        # started + wake may round down to now, or to where elapsed is still below wake: go one step on.
        clock.wait(max(started + decision.wake, math.nextafter(clock.now(), math.inf)))
