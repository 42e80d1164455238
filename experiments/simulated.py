"""The simulated fleet under any engine: vehicles come, leave and answer by a virtual clock.

When a task is sent, the simulated fleet decides what becomes of every asked vehicle. A vehicle that leaves
before its upload is never heard of. One that leaves in the middle of its upload is trained, and its message
arrives cut off, as a broken connection leaves it: the server must refuse it.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Protocol

import numpy as np
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from numpy.typing import NDArray

from carpool.experiments.asked import RUN_ID, Asked, VirtualClock, node_of
from carpool.experiments.availability import Availability
from carpool.experiments.cohort import Member
from carpool.experiments.pace import Pace
from carpool.experiments.stages import DURING_UPLOAD, PREPARE_S, STAGES, Outcomes, Stage
from carpool.experiments.trips import LATENCY_S, TripBox, Under, fates, is_trip
from carpool.privacy.errors import VehicleError
from carpool.privacy.wire import FAILURES, RECORD
from carpool.server.handover import Tickets
from carpool.server.messages import ticket_of, wire_of

REFUSED = 1003
"""The code of `FAILURES` with which a vehicle says nothing more in a round."""


class Veil(Protocol):
    """What the simulated vehicles do with what they trained before it leaves them; see `veil.py`."""

    @property
    def trips(self) -> bool:
        """Whether more trips follow."""

    def first(self, asked: Asked, contribution: bytes) -> bytes:
        """What a vehicle sends in answer to its task; raises VehicleError."""

    def answer(self, index: int, trip: int, data: bytes) -> bytes:
        """What it answers to a later trip; raises VehicleError."""

    def forget(self) -> None:
        """The round is over for everybody."""


class SimulatedGrid(Grid):
    """A Grid whose vehicles come, leave and answer by the virtual clock, wherever they are trained.

    work: samples that each vehicle trains on in a round, int64 [vehicles] (for its time, not its result).
    An engine says in `_deliver` how the vehicles are trained.
    """

    def __init__(
        self, availability: Availability, pace: Pace, work: NDArray[np.int64], clock: VirtualClock
    ) -> None:
        self._availability, self._pace, self._work, self._clock = availability, pace, work, clock
        self._asked: dict[str, Asked] = {}
        self._events: list[tuple[float, str]] = []
        self._here: list[str] = []
        self._sent = 0
        self._left: dict[int, Counter[str]] = {}
        self._stages: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        self._ended: list[Asked] = []
        self._trips = TripBox()
        self.veil: Veil | None = None
        self.prepare: Callable[[bytes, list[Member]], None] = lambda wire, members: None
        clock.next_reply = self._next_reply

    @property
    def clock(self) -> VirtualClock:
        """The clock that the server should go by."""
        return self._clock

    def set_run(self, run: Run) -> None:
        """Nothing to set: there is one run."""

    @property
    def run(self) -> Run:
        """The one run."""
        return Run.create_empty(RUN_ID)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to a node; `group_id` is the round."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Who is there now, increasing."""
        return (int(node) for node in self.present_nodes())

    def present_nodes(self) -> NDArray[np.int64] | range:
        """The same all at once: int64 [n] increasing, or a range where everybody is always there."""
        here = self._availability.present_ids(self._clock.now())
        return range(node_of(here.start), node_of(here.stop)) if isinstance(here, range) else here + 1

    def get_nodes(self) -> Iterable[NodeInfo]:
        """The same as node records."""
        return (NodeInfo(node_id=node) for node in self.get_node_ids())

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send tasks, or later trips of a round; decides now what becomes of each vehicle."""
        messages = list(messages)
        if any(map(is_trip, messages)):
            indices = [message.metadata.dst_node_id - node_of(0) for message in messages]
            return self._trips.push(messages, indices, self._clock.now(), self._there_and_back)
        names = self._push(messages, self._clock.now())
        for name in names:
            if (asked := self._asked.get(name)) is not None and asked.message is not None:
                self._begin(asked, asked.message)
        return names

    def push_again(self, messages: Sequence[Message], asked: float, *, ended: bool) -> list[str]:
        """Take up tasks that were sent at `asked` before the server was killed; ended: dealt with already."""
        names = self._push(messages, asked)
        for name, message in zip(names, messages, strict=True):
            one = self._asked.get(name)
            if ended:
                self.drop([name])
                self._departed(message.metadata.dst_node_id, int(message.metadata.group_id))
                if one is not None and one.at <= asked + message.metadata.ttl:
                    self._ended.append(one)
            elif one is not None:
                self._begin(one, message)
        return names

    def _push(self, messages: Iterable[Message], now: float) -> list[str]:
        names: list[str] = []
        for _, group in groupby(messages, lambda m: (id(wire_of(m)), m.metadata.group_id)):
            alike = list(group)
            wire, round_ = wire_of(alike[0]), int(alike[0].metadata.group_id)
            nodes = np.array([message.metadata.dst_node_id for message in alike], np.int64)
            given = self._decide(wire, nodes, round_, [ticket_of(message) for message in alike], now)
            for name, message in zip(given, alike, strict=True):
                message.metadata.__dict__["_message_id"] = name
                if name in self._asked:
                    self._asked[name].message = message
            names += given
        return names

    def _begin(self, asked: Asked, message: Message) -> None:
        """For engines that train at once: something will arrive of this one."""

    def _decide(
        self, wire: bytes, nodes: NDArray[np.int64], round_: int, tickets: Tickets | None, now: float
    ) -> list[str]:
        """Names for tasks sent at `now` to these nodes; those of which something arrives are on their way."""
        indices, size = nodes - node_of(0), len(wire)
        # A contribution is about as long as its task: one vector of the model's size either way.
        down, work = self._pace.download_s(indices, size), self._pace.seconds(indices, self._work[indices])
        up = self._pace.upload_s(indices, size)
        found = self._availability.outcomes(indices, round_, now, down, work, up)
        uploads = (now + down + work + PREPARE_S).tolist()
        cut = found.stage == DURING_UPLOAD
        counts = np.bincount(found.stage, minlength=len(STAGES))[: len(STAGES)]
        left = self._left.setdefault(round_, Counter())
        left.update(dict(zip(map(str, STAGES), counts.tolist(), strict=True)))
        self._keep_stages(round_, indices, found.stage)
        moments = np.where(cut, found.leaves, found.arrives).tolist()
        parts = np.where(cut, found.fraction, 1.0).tolist()
        if self.veil is not None and self.veil.trips:
            moments, parts = self._first_trip(round_, indices, found, now, size), [1.0] * len(indices)
        names = []
        for place, index in enumerate(indices.tolist()):
            self._sent += 1
            name = f"{round_}-{index}-{self._sent}"
            names.append(name)
            if (at := moments[place]) < math.inf:
                ticket = (0, 0) if tickets is None else tickets[place]
                inner, outer = (parts[place], 1.0) if self.veil is None else (1.0, parts[place])
                self._asked[name] = Asked(name, index, round_, now, at, inner, wire, *ticket)
                self._asked[name].cut, self._asked[name].uploads = outer, uploads[place]
                self._events.append((at, name))
        heapq.heapify(self._events)
        return names

    def _first_trip(
        self, round_: int, indices: NDArray[np.int64], found: Outcomes, now: float, size: int
    ) -> list[float]:
        """When vehicles say that they are done training; decides which of the later trips they answer."""
        work = self._pace.seconds(indices, self._work[indices])
        trained = now + self._pace.download_s(indices, size) + work
        rows = fates(found, trained)
        self._trips.decide(round_, indices, rows)
        self._trips.vector_bytes = size  # about as long as the task, as above
        silent = np.array([row.last == 0 for row in rows])
        at: list[float] = np.where(silent, math.inf, trained + PREPARE_S + LATENCY_S).tolist()
        return at

    def _there_and_back(self, index: int, size: int, back: int) -> float:
        """Virtual seconds that so many bytes to a vehicle, and back, take."""
        one = np.array([index])
        return float(self._pace.download_s(one, size)[0] + self._pace.upload_s(one, back)[0])

    def _next_reply(self, now: float) -> float:
        return min(self._next_task(now), self._trips.next_after(now))

    def _next_task(self, now: float) -> float:
        while self._events and (self._events[0][0] <= now or self._events[0][1] not in self._asked):
            _, name = heapq.heappop(self._events)
            if name in self._asked:  # else it was dropped
                self._here.append(name)
        return self._events[0][0] if self._events else math.inf

    def _due(self, names: Collection[str]) -> list[Asked]:
        """Those of these works of which something is at the server by now, by vehicle."""
        self._next_reply(self._clock.now())
        due = [self._asked[name] for name in self._here if name in names and name in self._asked]
        return sorted(due, key=lambda asked: asked.index)

    def _taken(self, asked: Asked) -> None:
        """Each is delivered once."""
        del self._asked[asked.name]
        self._here.remove(asked.name)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that are at the server by now, by vehicle; each is delivered once."""
        names = set(message_ids)
        later = self._trips.take(names, self._clock.now())
        if later:
            return [self._answered(one) for one in later]
        due = self._due(names)
        if self.veil is None:
            return list(self._deliver(due))
        known = {asked.name: asked for asked in due}
        return [self._veiled(m, known[m.metadata.reply_to_message_id]) for m in self._deliver(due)]

    def _veiled(self, reply: Message, asked: Asked) -> Message:
        """A reply as it leaves the vehicle: masked, or cut off in the middle of that."""
        if self.veil is None or asked.message is None or not reply.has_content():
            return reply
        try:
            data = self.veil.first(asked, wire_of(reply))
        except VehicleError:
            return refusal(asked.message)
        return carrying(data[: int(asked.cut * len(data))] if asked.cut < 1 else data, asked.message)

    def _answered(self, one: Under) -> Message:
        """What a vehicle answers to a later trip, or the part that arrives."""
        if self.veil is None:
            raise RuntimeError("a later trip without a veil")
        try:
            data = self.veil.answer(one.index, one.trip, one.data)
        except VehicleError:
            return refusal(one.message)
        return carrying(data[: int(one.part * len(data))] if one.part < 1 else data, one.message)

    def _deliver(self, due: Sequence[Asked]) -> Iterator[Message]:
        """The replies to these tasks, in this order; takes them."""
        raise NotImplementedError

    def _alike(self, asked: Asked) -> list[Asked]:
        """Everybody who was asked to do the very same before the first of them replies, by vehicle.

        That is whoever is not trained yet, but after a kill it must not be more: neither those asked later,
        nor fewer, without those who had replied.
        """
        rest = [a for a in (*self._asked.values(), *self._ended) if a.wire is asked.wire and not a.ready]
        while True:
            first = min(one.at for one in rest)
            alike = [one for one in rest if one.since < first]
            if any(one is asked for one in alike):
                break
            rest = [one for one in rest if one.since >= first]
            if not alike:  # whoever takes no time at all
                return [asked]
        self._ended = [one for one in self._ended if not any(one is other for other in alike)]
        return sorted(alike, key=lambda one: one.index)

    def drop(self, names: Collection[str]) -> None:
        """Nobody waits for these works any more."""
        for name in names:
            self._asked.pop(name, None)
        self._here = [name for name in self._here if name in self._asked]

    def _keep_stages(self, round_: int, indices: NDArray[np.int64], stage: NDArray[np.int64]) -> None:
        known = self._stages.get(round_)
        if known is not None:
            indices, stage = (np.concatenate(pair) for pair in zip(known, (indices, stage), strict=True))
        self._stages[round_] = indices, stage

    def _departed(self, node: int, round_: int) -> int:
        """The stage at which a vehicle asked in this round left, an index or STAYED; each is told once."""
        indices, stage = self._stages[round_]
        place = int(np.flatnonzero(indices == node - node_of(0))[0])
        self._stages[round_] = np.delete(indices, place), np.delete(stage, place)
        if len(indices) == 1:
            del self._stages[round_], self._left[round_]
        return int(stage[place])

    def departed(self, asks: Iterable[tuple[int, int]]) -> Mapping[str, int]:
        """How many of these (node, round) left at each stage; each is told once."""
        counts = Counter(self._departed(node, round_) for node, round_ in asks)
        return {str(stage): counts[place] for place, stage in enumerate(STAGES)}

    def forget(self, round_: int) -> None:
        """Drop what is still on its way in rounds up to this one: their time to live is over."""
        self._asked = {name: asked for name, asked in self._asked.items() if asked.round > round_}
        self._events = [(at, name) for at, name in self._events if name in self._asked]
        self._here = [name for name in self._here if name in self._asked]
        self._stages = {known: stages for known, stages in self._stages.items() if known > round_}
        heapq.heapify(self._events)
        self._trips.forget(round_)
        if self.veil is not None and self.veil.trips:
            self.veil.forget()

    def left(self, round_: int) -> Mapping[str, int]:
        """How many of those asked left at each stage; known to a simulator only."""
        counts = self._left.get(round_, Counter())
        return {str(stage): counts[str(stage)] for stage in Stage}

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push, then wait until all that can come has come, or for `timeout` virtual seconds."""
        names = list(self.push_messages(messages))
        end = math.inf if timeout is None else self._clock.now() + timeout
        replies: list[Any] = []
        while True:
            replies += self.pull_messages(names)
            coming = [self._asked[n].at for n in names if n in self._asked]
            if not coming or min(coming) > end:
                return replies
            self._clock.wait(min(end, min(coming)))


def carrying(data: bytes, message: Message) -> Message:
    """The answer to a message, in bytes."""
    return Message(RecordDict({RECORD: ConfigRecord({RECORD: data})}), reply_to=message)


def refusal(message: Message) -> Message:
    """The answer of a vehicle that will not."""
    return Message(Error(REFUSED, FAILURES[REFUSED]), reply_to=message)
