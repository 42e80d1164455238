"""Which protocol carries a pass."""

from __future__ import annotations

from typing import Any

from flwr.serverapp import Grid

from carpool.server.clock import Clock
from carpool.server.receive import RoundPlan
from carpool.server.secure import Secrecy, SecurePass
from carpool.server.secure_once import once_pass
from carpool.server.secure_plus import plus_pass
from carpool.server.secure_ring import ring_pass
from carpool.strategies.contract import Strategy, Task


def secure_pass(
    secrecy: Secrecy,
    strategy: Strategy[Any],
    state: Any,
    task: Task,
    plan: RoundPlan,
    grid: Grid,
    clock: Clock,
) -> SecurePass:
    """One pass of a round under secure aggregation."""
    run = plus_pass if secrecy.settings.protocol == "secagg+" else once_pass
    if not secrecy.full(plan.facts.round):
        run = ring_pass
    return run(secrecy, strategy, state, task, plan, grid, clock)
