"""Whether one more release would break the budget: asked before every release, so it must be quick.

A Composer keeps the history as facts and counts, and the sum of their Rényi curves. Where that bound, or the
closed form, says that the release fits, it fits. Where it says no, the value that would be reported decides:
the bound is the larger one and would stop a sampled run rounds too early. That answer is kept, in rounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from carpool.privacy.dp import accounting, closed, renyi
from carpool.privacy.dp.accounting import Epsilon
from carpool.privacy.dp.calibrate import LARGEST_EPSILON, largest_rounds, within
from carpool.privacy.dp.events import Event, Relation


class Composer:
    """A history of releases under one relation, all of one unit; it only grows."""

    def __init__(self, relation: Relation, events: Iterable[Event] = ()) -> None:
        """Raises UsageError on an unknown relation, PrivacyRefused on an event that no theorem covers."""
        accounting.checked(0.5, relation)
        self.relation: Relation = relation
        self._counts: dict[Event, int] = {}  # of facts, as an event of count 1
        self._curve = 0 * renyi.ORDERS
        self._strength = 0.0  # mu of closed.py
        self._exact = True  # Gaussian and matrix noise without sampling alone: the closed form holds
        self._room: tuple[object, int] = (None, 0)  # the last question that PLD answered, and how many fit
        for event in events:
            self.add(event)

    def add(self, event: Event) -> None:
        """Append one event, which is charged from now on; raises PrivacyRefused."""
        self._curve, self._strength, self._exact = self._with(event)
        one = replace(event, count=1)
        self._counts[one] = self._counts.get(one, 0) + event.count

    @property
    def events(self) -> tuple[Event, ...]:
        """The history: alike events as one, in order of first appearance."""
        return tuple(replace(one, count=count) for one, count in self._counts.items())

    def epsilon(self, delta: float) -> Epsilon:
        """The value to report; with Poisson sampling it takes a second. Raises UsageError."""
        return accounting.epsilon(self.events, delta, self.relation)

    def bound(self, delta: float) -> float:
        """An epsilon that is never too small, at once; exact without sampling and Skellam."""
        accounting.checked(delta, self.relation)
        return _bound(self._curve, self._strength, self._exact, delta)

    def would_exceed(self, event: Event, epsilon: float, delta: float) -> bool:
        """Whether history and `event` together cost more than (epsilon, delta).

        Raises PrivacyRefused on an event that no theorem covers, UsageError on a budget that is none.
        """
        accounting.checked(delta, self.relation)
        curve, strength, exact = self._with(event)
        if within(_bound(curve, strength, exact, delta), epsilon):
            return False
        one = replace(event, count=1)
        counts = self._counts | {one: self._counts.get(one, 0) + event.count}
        if exact or epsilon > LARGEST_EPSILON or not accounting.distributed(counts, delta):
            return True  # the bound is the value reported, or nobody is served by a sharper one
        others = tuple(other for other in self.events if replace(other, count=1) != one)
        question = (one, others, epsilon, delta)
        if self._room[0] != question:
            self._room = (question, largest_rounds(epsilon, delta, one, self.relation, others))
        return counts[one] > self._room[1]

    def _with(self, event: Event) -> tuple[renyi.Curve, float, bool]:
        """Curve, strength and whether the strength says all, of history and event together."""
        accounting.covered(event)
        exact = self._exact and event.mechanism != "skellam" and event.sampling_rate == 1
        strength = (
            math.hypot(self._strength, accounting.strength((event,), self.relation)) if exact else math.inf
        )
        return self._curve + accounting.curve(event, self.relation) * event.count, strength, exact


def would_exceed(history: Composer, event: Event, epsilon: float, delta: float) -> bool:
    """As `history.would_exceed`: whether `event` on top of the history costs more than (epsilon, delta)."""
    return history.would_exceed(event, epsilon, delta)


def _bound(curve: renyi.Curve, strength: float, exact: bool, delta: float) -> float:
    return closed.epsilon_of(strength, delta) if exact else renyi.epsilon_of(curve, delta)
