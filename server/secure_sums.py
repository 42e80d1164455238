"""What unmasked sums come to: for the strategy, and whether the pass counts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from carpool.privacy.secagg.masks import Ring
from carpool.privacy.secagg.sumform import Form, Sums
from carpool.privacy.vectors import Vector
from carpool.server.receive import RoundPlan
from carpool.server.secure import Secrecy
from carpool.strategies.contract import Channel, Reduced, Strategy
from carpool.strategies.deadline import Decision
from carpool.strategies.fold import group_size


def sums_of(secrecy: Secrecy, form: Form, total: Ring, count: int) -> Sums:
    """What an unmasked sum comes to, with the server's noise where there is one; raises RoundError."""
    if secrecy.private is None:
        return form.decode(total, count)
    return Sums(secrecy.private.of_ring(form, total, count), float(count), None, 0)


def combined(
    channels: Sequence[Channel], found: Sequence[tuple[Sums, int]]
) -> tuple[Reduced, float | None, int]:
    """What the server is given of the released sums (sums, vehicles), the mean loss, how many clipped.

    A sum over everybody for `sum` channels, a row for each group for `set` channels.
    """
    weight = math.fsum(one.weight for one, _ in found)
    sums: dict[str, Vector] = {}
    sets: dict[str, Vector] = {}
    for channel in channels:
        rows = [one.sums[channel.name] for one, _ in found]
        if channel.reduce == "sum":
            sums[channel.name] = np.sum(rows, axis=0, dtype=np.float32)
        else:
            by = [one.weight if channel.weight == "strategy" else count for one, count in found]
            sets[channel.name] = np.stack(
                [row * np.float32(1 / part) for row, part in zip(rows, by, strict=True)]
            )
    losses = [one.loss * one.weight for one, _ in found if one.loss is not None]
    loss = math.fsum(losses) / weight if losses else None
    reduced = Reduced(
        sums=sums,
        sets=sets,
        weight=weight,
        count=sum(count for _, count in found),
        channels={channel.name: channel for channel in channels},
        weights=np.array([one.weight for one, _ in found], np.float64) if sets else np.zeros(0),
    )
    return reduced, loss, sum(one.clipped for one, _ in found)


def closed(decision: Decision, counted: bool, why: str) -> Decision:
    """The decision on a pass once it is known whether a sum was released."""
    return Decision(True, counted, None, decision.reason if counted else why)


def verdict(
    strategy: Strategy[Any],
    plan: RoundPlan,
    decision: Decision,
    sums: int,
    inside: int,
    whys: Iterable[str | None],
) -> tuple[bool, str]:
    """Whether a pass counts, and why, or why not.

    sums: released and sound, one a group; inside: vehicles in them, fewer than the quorum perhaps, where
    a group could not be opened; whys: what made groups void.
    """
    why = next((one for one in whys if one is not None), None) or decision.reason
    if not (decision.counted and sums):
        return False, why
    if inside < plan.policy.needed:
        return False, f"{inside} vehicles are in the sums, the quorum is {plan.policy.needed}"
    if group_size(strategy.channels) > 1 and sums < strategy.least:
        return False, f"{sums} groups of {strategy.least} needed"
    return True, why
