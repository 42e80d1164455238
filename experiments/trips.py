"""Later trips of a masked round to simulated vehicles: when they answer, and who has left before.

A vehicle that leaves in the stage `before_upload` has said that it is done training, and is gone before it
shares its keys (first half of the stage) or before its vector (second half); `during_upload` cuts the vector
off; `after_upload` it is gone before it signs, or before it opens. So a departure at every step is met, as
often as [fleet.leave] or the trace says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from carpool.experiments.stages import ACK_S, PREPARE_S, STAGES, STAYED, Outcomes, Seconds, Stage
from carpool.privacy.errors import VehicleError
from carpool.privacy.wire import TRIP
from carpool.server.messages import wire_of

LATENCY_S = 0.2
"""Virtual seconds of a short message, beside its bytes."""
_BEFORE, _DURING = STAGES.index(Stage.BEFORE_UPLOAD), STAGES.index(Stage.DURING_UPLOAD)
VECTOR = 3
"""The trip that has the masked vector."""


@dataclass(frozen=True)
class Fate:
    """When a vehicle falls silent: `last`, the trip that it still answers (5: all); part: of its vector."""

    last: int
    part: float = 1.0


def fates(found: Outcomes, trained: Seconds) -> list[Fate]:
    """What becomes of vehicles in a round of five trips; last = 0: it never answers.

    trained: virtual seconds at which each would have trained, float64 [n].
    """
    rows = []
    for place, stage in enumerate(found.stage.tolist()):
        if stage == STAYED:
            rows.append(Fate(5))
        elif stage < _BEFORE:
            rows.append(Fate(0))
        elif stage == _DURING:
            rows.append(Fate(VECTOR, float(found.fraction[place])))
        elif stage == _BEFORE:
            share = (float(found.leaves[place]) - float(trained[place])) / PREPARE_S
            rows.append(Fate(1 if share < 0.5 else 2))
        else:
            share = (float(found.leaves[place]) - float(found.arrives[place])) / ACK_S
            rows.append(Fate(3 if share < 0.5 else 4))
    return rows


@dataclass(frozen=True)
class Under:
    """An answer on its way: what it will be, and which part of it arrives."""

    name: str
    index: int
    round: int
    at: float
    part: float
    message: Message
    trip: int
    data: bytes


class TripBox:
    """Trips under way. fates: by round and vehicle, since the task; vector_bytes: of a masked vector."""

    def __init__(self) -> None:
        self.fates: dict[int, dict[int, Fate]] = {}
        self.vector_bytes = 0
        self._under: dict[str, Under] = {}
        self._sent = 0

    def decide(self, round_: int, indices: NDArray[np.int64], found: Sequence[Fate]) -> None:
        """Keep what becomes of these vehicles in this round; a later pass of it decides anew."""
        self.fates.setdefault(round_, {}).update(zip(indices.tolist(), found, strict=True))

    def push(
        self,
        messages: Sequence[Message],
        indices: Sequence[int],
        now: float,
        seconds: Callable[[int, int, int], float],
    ) -> list[str]:
        """Send further trips at `now`; seconds(vehicle, bytes down, bytes up): until its answer is there."""
        names = []
        for message, index in zip(messages, indices, strict=True):
            trip, round_, data = opened(message)
            self._sent += 1
            name = f"{round_}-{index}-trip-{trip}-{self._sent}"
            names.append(name)
            message.metadata.__dict__["_message_id"] = name
            fate = self.fates.get(round_, {}).get(index, Fate(0))
            if trip > fate.last:
                continue
            back = self.vector_bytes if trip == VECTOR else len(data)
            at = now + LATENCY_S + seconds(index, len(data), back)
            part = fate.part if trip == VECTOR and fate.part < 1 else 1.0
            self._under[name] = Under(name, index, round_, at, part, message, trip, data)
        return names

    def next_after(self, now: float) -> float:
        """When the next answer is there, after `now`; infinity where none is under way."""
        coming = [one.at for one in self._under.values() if one.at > now]
        return min(coming, default=math.inf)

    def take(self, names: Collection[str], now: float) -> list[Under]:
        """Answers that are there by now, by vehicle; each once."""
        due = [one for name, one in self._under.items() if name in names and one.at <= now]
        for one in due:
            del self._under[one.name]
        return sorted(due, key=lambda one: one.index)

    def forget(self, round_: int) -> None:
        """Drop what is on its way in rounds up to this one."""
        self._under = {name: one for name, one in self._under.items() if one.round > round_}
        self.fates = {known: rows for known, rows in self.fates.items() if known > round_}


def is_trip(message: Message) -> bool:
    """Whether a message is a later trip of a masked round."""
    return message.has_content() and TRIP in message.content


def opened(message: Message) -> tuple[int, int, bytes]:
    """(trip, round, data) of a later trip; raises VehicleError."""
    record = dict(message.content[TRIP].items()) if TRIP in message.content else {}
    trip, round_ = record.get("trip"), record.get("round")
    if len(record) != 2 or type(trip) is not int or type(round_) is not int or not 2 <= trip <= 5:
        raise VehicleError("a later trip has two numbers, its trip (2 to 5) and its round")
    return trip, round_, wire_of(message)
