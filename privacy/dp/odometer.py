"""A vehicle's own count of what it took part in: it refuses by itself, whatever the server says or forgets.

Unit: the vehicle, or its owner, who may have several; neighbours as configured. Sensitivity: that of the
event as the task names it. Accountant: the ledger's. The vehicle cannot check who else takes part, so it
counts no amplification by sampling but its own, and only the rounds that it took part in. It believes the
task about noise that others add: where that must not be believed, use noise of its own (`local`). Not
covered: the vehicle's own disk set back to an older day, or its file deleted: then it counts anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache

from carpool.privacy.dp.events import RELATIONS, UNITS, Event, Relation, Unit
from carpool.privacy.dp.ledger import Accountant, tight
from carpool.privacy.dp.ledgerlines import is_text
from carpool.privacy.errors import PrivacyRefused

REMEMBERED = 256
"""Moments that an odometer remembers, the last ones."""


@dataclass(frozen=True)
class Part:
    """One participation that a vehicle is asked for.

    event: as the task names it; own_sampling: whether the sampling rate is of the vehicle's own drawing
    (DP-SGD over its own examples); moment: what names the sum that it goes into, such as "run/12/model":
    twice in one sum would double the sensitivity, so it is refused; needed per owner. training, round,
    separation, most: of a matrix mechanism instead, whose event pays for one whole training, in which one
    takes part at most `most` times, `separation` rounds apart.
    """

    event: Event
    own_sampling: bool = False
    moment: str = ""
    training: str = ""
    round: int = 0
    separation: int = 0
    most: int = 0

    @property
    def counted(self) -> Event:
        """The event without any amplification that only the server could vouch for."""
        return self.event if self.own_sampling else replace(self.event, sampling_rate=1.0)


@dataclass(frozen=True)
class Training:
    """A part in a matrix training so far. last: its last round; times: how often; the rest: as in Part."""

    event: Event
    separation: int
    most: int
    last: int
    times: int


@dataclass(frozen=True)
class Reading:
    """What an odometer shows: events, each with its count; trainings under way; the last moments."""

    events: Mapping[Event, int] = field(default_factory=dict)
    trainings: Mapping[str, Training] = field(default_factory=dict)
    moments: tuple[str, ...] = ()

    def all_events(self) -> list[Event]:
        """All of it, alike ones as one event with a count."""
        return [replace(one, count=count) for one, count in self.events.items()]

    def after(self, part: Part) -> Reading:
        """The reading with one more participation; raises PrivacyRefused outside the schema."""
        if part.counted.mechanism == "matrix":
            return self._after_matrix(part)
        moments = self.moments
        if part.moment:
            if not is_text(part.moment):
                raise PrivacyRefused(f"a moment is printable text, not {part.moment[:40]!r}")
            if part.moment in moments:
                raise PrivacyRefused(f"{part.moment} was taken part in already; twice in one sum is refused")
            moments = (*moments, part.moment)[-REMEMBERED:]
        return replace(self, events=self._with(part.counted), moments=moments)

    def _with(self, counted: Event) -> dict[Event, int]:
        one = replace(counted, count=1)
        return {**self.events, one: self.events.get(one, 0) + counted.count}

    def _after_matrix(self, part: Part) -> Reading:
        if not is_text(part.training) or part.round < 0 or part.separation < 1 or part.most < 1:
            raise PrivacyRefused(
                f"a matrix training has a name, rounds from 0 and a schema of 1 or more, not "
                f"{part.training[:40]!r}, round {part.round}, separation {part.separation}, most {part.most}"
            )
        counted, known = part.counted, self.trainings.get(part.training)
        if known is None:
            first = Training(counted, part.separation, part.most, part.round, 1)
            trainings = {**self.trainings, part.training: first}
            return replace(self, events=self._with(counted), trainings=trainings)
        if (known.event, known.separation, known.most) != (counted, part.separation, part.most):
            raise PrivacyRefused(f"training {part.training} began with other noise or another schema")
        if known.times >= part.most or part.round - known.last < part.separation:
            raise PrivacyRefused(
                f"round {part.round} of training {part.training} breaks its schema of at most {part.most} "
                f"times, {part.separation} rounds apart: taken part {known.times} times, last in round "
                f"{known.last}"
            )
        now = replace(known, last=part.round, times=known.times + 1)
        return replace(self, trainings={**self.trainings, part.training: now})


@lru_cache(maxsize=4096)  # many simulated vehicles have the same reading
def _epsilon(events: frozenset[Event], delta: float, relation: Relation, accountant: Accountant) -> float:
    return accountant(sorted(events, key=repr), delta, relation)


@dataclass(frozen=True)
class Cap:
    """The most that a vehicle lets itself be asked. epsilon > 0, finite; 0 < delta < 1; raises ValueError."""

    epsilon: float
    delta: float
    accountant: Accountant = tight

    def __post_init__(self) -> None:
        if not (0 < self.epsilon < math.inf and 0 < self.delta < 1):
            raise ValueError(
                f"a cap is no epsilon {self.epsilon} at delta {self.delta}; use a finite epsilon above 0 and "
                f"a delta between 0 and 1"
            )

    def spent(self, reading: Reading, relation: Relation) -> float:
        """Epsilon of a reading, 0 for an empty one."""
        return _epsilon(frozenset(reading.all_events()), self.delta, relation, self.accountant)


class Odometer:
    """Counts in memory: for simulated vehicles, and under FileOdometer for real ones.

    holder: pseudonym of the vehicle or owner; unit, relation: what it counts per.
    """

    def __init__(
        self, holder: str, cap: Cap, *, unit: Unit = "vehicle", relation: Relation = "zero-out"
    ) -> None:
        if not is_text(holder) or unit not in UNITS or relation not in RELATIONS:
            raise ValueError(f"an odometer of {holder[:40]!r}, {unit!r}, {relation!r} counts nothing known")
        self.holder, self.cap, self.unit, self.relation = holder, cap, unit, relation
        self._reading = Reading()

    def reading(self) -> Reading:
        """What it shows."""
        return self._reading

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else counts meanwhile."""
        yield

    def _write(self, reading: Reading) -> None:
        self._reading = reading

    def spent(self) -> float:
        """Epsilon of everything that it counted."""
        return self.cap.spent(self.reading(), self.relation)

    def _after(self, part: Part) -> Reading:
        if self.unit == "owner" and not part.moment and part.event.mechanism != "matrix":
            raise PrivacyRefused(f"owner {self.holder} takes part in named sums only; name the moment")
        new = self.reading().after(part)
        would = self.cap.spent(new, self.relation)
        if not would <= self.cap.epsilon:
            raise PrivacyRefused(
                f"{self.unit} {self.holder} does not take part: its own odometer would go from epsilon "
                f"{self.spent():.6g} to {would:.6g}, over its cap of {self.cap.epsilon:.6g} at delta "
                f"{self.cap.delta:g}"
            )
        return new


def take_part(part: Part, *odometers: Odometer) -> None:
    """Count one participation in all of them, durably, before anything is computed for it.

    odometers: the vehicle's, and its owner's if there is one. Raises PrivacyRefused where any of them would
    go over its cap, RunError; then the vehicle does not take part. A message that is lost stays counted.
    """
    with ExitStack() as stack:
        for one in odometers:
            stack.enter_context(one.held())
        for one, reading in [(one, one._after(part)) for one in odometers]:
            one._write(reading)
