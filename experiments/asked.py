"""A task on its way to a simulated vehicle, and the virtual clock by which it goes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from flwr.app import ConfigRecord, Message, RecordDict

from carpool.experiments.cohort import Member, Ready
from carpool.privacy.errors import VehicleError
from carpool.privacy.wire import RECORD
from carpool.server.messages import wire_of

RUN_ID = 1
SERVER_NODE = 1 << 40


def node_of(index: int) -> int:
    """The Flower node id of vehicle 0, 1, ...; ids start at 1 because Flower keeps 0 for itself."""
    return index + 1


class VirtualClock:
    """Simulated seconds. Waiting jumps to the next reply that is on its way, or to the end of the wait."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self.next_reply: Callable[[float], float] = lambda now: math.inf

    def now(self) -> float:
        """Virtual seconds."""
        return self._now

    def wait(self, until: float) -> None:
        """Jump to `until`, or to the next reply if that is earlier."""
        self._now = max(self._now, min(until, self.next_reply(self._now)))


@dataclass(slots=True)
class Asked:
    """A task on its way to vehicle `index`: what becomes of it, in the order in which it becomes known.

    since, at: virtual seconds at which it was asked, and at which something arrives; part: share of the reply
    that does; cut: the same of a reply that is masked first; uploads: virtual seconds at which it begins to
    send; message: Flower's, None where the task was handed over; ready: trained ahead, or being so; answer:
    what the vehicle hands over.
    """

    name: str
    index: int
    round: int
    since: float
    at: float
    part: float
    wire: bytes
    ticket: int = 0
    counted: int = 0
    message: Message | None = None
    cut: float = 1.0
    uploads: float = 0.0
    ready: bool = False
    answer: Ready | VehicleError | None = None

    @property
    def member(self) -> Member:
        """The vehicle as it is trained."""
        return Member(node_of(self.index), self.index, self.ticket, self.counted)

    def sent(self, wire: bytes) -> bytes:
        """What arrives of a whole reply: a part where the vehicle leaves in the middle of its upload."""
        return wire[: int(self.part * len(wire))] if self.part < 1 else wire


def arrived(reply: Message, asked: Asked) -> Message:
    """What the server gets of a reply."""
    if asked.part == 1 or not reply.has_content() or asked.message is None:
        return reply
    cut = asked.sent(wire_of(reply))
    return Message(RecordDict({RECORD: ConfigRecord({RECORD: cut})}), reply_to=asked.message)
