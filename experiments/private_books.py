"""What a run under differential privacy asks of its ledgers: that they are there, and what was spent."""

from __future__ import annotations

import math
from dataclasses import replace

from carpool.privacy.dp.budget import Budget
from carpool.privacy.dp.events import Event
from carpool.privacy.dp.ledger import Ledger, tight
from carpool.privacy.errors import PrivacyRefused

EXACT = 20
"""Rounds of a sampled run in which epsilon is computed exactly each time."""


class Spent:
    """Epsilon of a run's ledger, quick enough for every round's record.

    Under sampling the reported accountant takes seconds: from `EXACT` rounds on the record of a round says
    what a few more rounds would have come to, never less than was spent; that of the last round is exact.
    """

    def __init__(self, ledger: Ledger, event: Event, rounds: int) -> None:
        self._ledger, self._event, self._rounds = ledger, event, rounds
        self._ahead = (0, 0.0)

    def epsilon(self) -> float:
        """After what was charged so far; an upper bound in the middle of a long sampled run."""
        ledger, count = self._ledger, len(self._ledger.charges)
        if self._event.sampling_rate == 1 or count < EXACT or count >= self._rounds:
            return ledger.epsilon()
        if count > self._ahead[0]:
            more = min(self._rounds, math.ceil(count * 1.1))
            alike = replace(self._event, count=more - count)
            events = [*ledger.events(), *((alike,) if more > count else ())]
            self._ahead = more, tight(events, ledger.header.delta, ledger.header.relation)
        return self._ahead[1]


def check_ledgers(accounts: list[tuple[Ledger, Budget | None]], run: str, round_: int, releases: int) -> None:
    """Raise PrivacyRefused where a ledger has not what the rounds so far were charged."""
    wanted = min(round_, 1) if releases > 1 else round_
    for ledger, _ in accounts:
        there = len({one.release.round for one in ledger.charges if one.release.run == run})
        if there < wanted:
            raise PrivacyRefused(
                f"{ledger.path} has {there} charges of this run, which is after round {round_}; put the "
                "ledger that it began with back in its place"
            )
