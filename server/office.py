"""Who is under way, of an asynchronous server: asks vehicles, hears what comes, gives up on the silent.

`concurrency` vehicles are asked at all times, each with the task of the version that there is then. Tickets
number the asks of a run; asks of one moment are a group, known to Flower by its first ticket.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid

from carpool.privacy.spans import span, timed
from carpool.privacy.wire import RECORD, encode
from carpool.server.clock import Clock
from carpool.server.inflight import Ask, Flight
from carpool.server.messages import Answer, arrived, send, task_message, with_ticket
from carpool.server.selection import Ids
from carpool.server.selectors.contract import Moment
from carpool.server.soundness import sound_task
from carpool.server.training import LOOK_AGAIN_S, Plan, Training, present_nodes
from carpool.strategies.contract import Facts, Strategy


@runtime_checkable
class TakesUp(Protocol):
    """A grid that knows what is on its way, as a simulator does."""

    def drop(self, names: Collection[str]) -> None:
        """Nobody waits for these works any more."""

    def push_again(self, messages: Sequence[Message], asked: float, *, ended: bool) -> list[str]:
        """After a kill: names of the works. asked: seconds of the clock at which they were sent first; ended:
        they were dealt with then, and are here only because those of one task are trained together.
        """


class Office:
    """From one step to the next; `training` is where it stands now.

    pending: asks by the name of their work, in their order; arrived: answers not looked at yet; hashes: of
    masked buffers, version and SHA-256 of the tasks that are under way, by round.
    """

    def __init__(
        self, strategy: Strategy[Any], training: Training, plan: Plan, grid: Grid, clock: Clock
    ) -> None:
        self.strategy, self.training, self.plan, self.grid, self.clock = strategy, training, plan, grid, clock
        self.concurrency = plan.concurrency or math.ceil(round(plan.wanted, 6))
        self.pending: dict[str, Ask] = {}
        self.arrived: deque[tuple[Ask, Answer]] = deque()
        self._numbers: dict[str, int] = {}
        self._tickets, self._draws = 0, 0
        self._asks: list[Ask] = []
        self._task: tuple[int, bytes] | None = None
        self.hashes: dict[int, tuple[int, bytes]] = {}
        if training.flight is not None:
            self._take_up(training.flight)

    @property
    def facts(self) -> Facts:
        """Of the step that is being gathered."""
        plan, training, size = self.plan, self.training, self.strategy.buffer
        return Facts(training.round + 1, training.version, plan.population, size, sharing=plan.sharing)

    def begin(self, training: Training) -> None:
        """Go on from here with the next step."""
        self.training, self._draws = training, 0

    def _take_up(self, flight: Flight) -> None:
        """What was under way is under way again, where the grid can do that; else it is forgotten."""
        self._tickets = flight.tickets
        if not isinstance(self.grid, TakesUp):
            return
        for ask in flight.asks:
            self._note(ask.round, ask.version, flight.tasks[ask.round])
        records = {round_: ConfigRecord({RECORD: wire}) for round_, wire in flight.tasks.items()}
        for ask in flight.asks:
            message = self._message(ask, records[ask.round])
            [name] = self.grid.push_again([message], ask.at, ended=not ask.open)
            if ask.open:
                self.pending[name], self._numbers[name] = ask, ask.ticket
        self._asks = list(flight.asks)

    def _message(self, ask: Ask, record: ConfigRecord) -> Message:
        return self.grid.create_message(
            content=with_ticket(record, ask.ticket, ask.counted),
            message_type="train",
            dst_node_id=ask.node,
            group_id=str(ask.group),
            ttl=self.plan.policy.max_s,
        )

    def hear(self) -> None:
        """Fetch what has come of what is pending, in the order of asking; anything else is ignored."""
        come = sorted(arrived(self.grid, self._numbers), key=lambda one: self._numbers[one[0]])
        for name, answer in come:
            del self._numbers[name]
            self.arrived.append((self.pending.pop(name), answer))

    def give_up(self) -> list[Ask]:
        """Those who have been silent for too long; their places are free."""
        now, names = self.clock.now(), list[str]()
        for name, ask in self.pending.items():  # asked first stands first
            if now < ask.at + self.plan.policy.max_s:
                break
            names.append(name)
        if names and isinstance(self.grid, TakesUp):
            self.grid.drop(names)
        for name in names:
            del self._numbers[name]
        return [self.pending.pop(name) for name in names]

    def wait(self, end: float) -> None:
        """Until something may have happened, at `end` at the latest."""
        now, wakes = self.clock.now(), [end]
        if self.pending:
            wakes.append(next(iter(self.pending.values())).at + self.plan.policy.max_s)
        if len(self.pending) < self.concurrency:
            wakes.append(now + LOOK_AGAIN_S)
        self.clock.wait(max(min(wakes), math.nextafter(now, math.inf)))

    @timed("bookkeeping")
    def fill(self, unresolved: Collection[int]) -> tuple[list[Ask], int]:
        """Ask as many as there are free places: who was asked, and the bytes sent.

        unresolved: nodes whose last contribution is; like those under way, they are not asked.
        """
        free = self.concurrency - len(self.pending)
        if free <= 0:
            return [], 0
        busy = {ask.node for ask in self.pending.values()}.union(unresolved)
        idle = without(present_nodes(self.grid), busy)
        return self._ask(self._choose(idle, free)) if len(idle) else ([], 0)

    def _choose(self, idle: Ids | range, size: int) -> Ids:
        """The selector's choice; the draws of a step are numbered, so that a resumed one repeats them."""
        plan, number = self.plan, self.facts.round
        seed = np.random.SeedSequence((plan.seed, number, self._draws), spawn_key=(0x5E1EC7,))
        self._draws += 1
        moment = Moment(number, self.clock.now(), plan.population, size, plan.stratum)
        return plan.selector.choose(self.training.selector, idle, size, np.random.default_rng(seed), moment)

    def _ask(self, nodes: Ids) -> tuple[list[Ask], int]:
        facts, now, group = self.facts, self.clock.now(), self._tickets + 1
        self._task = self._task_of(facts)
        counted, wire = self.training.counted, self._task[1]
        asks = {
            node: Ask(group + k, group, node, facts.round, facts.version, counted.get(node, 0), now)
            for k, node in enumerate(nodes.tolist())
        }
        self._tickets += len(asks)
        tickets = [(ask.ticket, ask.counted) for ask in asks.values()]
        names = send(self.grid, wire, nodes, group, self.plan.policy.max_s, tickets)
        sent = {name: asks[node] for name, node in names.items()}
        self.pending |= sent
        self._numbers |= {name: ask.ticket for name, ask in sent.items()}
        self._asks += sent.values()
        return list(sent.values()), len(sent) * len(wire)

    def _note(self, round_: int, version: int, wire: bytes) -> None:
        if self.plan.secrecy is not None and round_ not in self.hashes:
            self.hashes[round_] = version, hashlib.sha256(wire).digest()

    def make(self) -> None:
        """Make the task of this step, and forget the hashes of those that nobody works on."""
        facts = self.facts
        self._task = self._task_of(facts)
        self._note(facts.round, facts.version, self._task[1])
        under_way = {ask.round for ask in self.under_way()} | {facts.round}
        self.hashes = {round_: one for round_, one in self.hashes.items() if round_ in under_way}

    def under_way(self) -> list[Ask]:
        """Whose answers have not been looked at."""
        return [*self.pending.values(), *(ask for ask, _ in self.arrived)]

    def _task_of(self, facts: Facts) -> tuple[int, bytes]:
        """The round and its task's wire: one object, by which a simulator knows who trains together."""
        if self._task is not None and self._task[0] == facts.round:
            return self._task
        with span("strategy"):
            task = sound_task(self.strategy, self.training.state, facts)
        return facts.round, encode(task_message(self.plan.run, task, facts))

    def in_flight(self) -> Flight:
        """What is under way after a step; forgets the asks of tasks that nobody works on any more."""
        under_way = {ask.ticket: ask for ask in self.under_way()}
        rounds = {ask.round for ask in under_way.values()}
        together = self.strategy.memory is None  # see `Workshop.prepare`
        self._asks = [
            replace(ask, open=ask.ticket in under_way)
            for ask in self._asks
            if ask.round in rounds and (together or ask.ticket in under_way)
        ]
        fresh = {self._task[0]: self._task[1]} if self._task and self._task[0] in rounds else {}
        return Flight(self._tickets, tuple(self._asks), fresh)


def without(present: Ids | range, busy: Collection[int]) -> Ids | range:
    """Those present who are not busy, increasing; nothing is made of a range while nobody is.

    >>> without(range(1, 5), {2, 9})
    array([1, 3, 4])
    """
    if not busy:
        return present
    ids = np.asarray(present, np.int64)
    return ids[~np.isin(ids, np.array(sorted(busy), np.int64))]
