"""What the server sends and takes, by Flower's messages or handed over: tasks out, answers in."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from carpool.privacy.errors import VehicleError
from carpool.privacy.spans import timed
from carpool.privacy.wire import ANNOUNCED, RECORD, TICKET, TaskMessage
from carpool.server.handover import Handed, Tickets, hands_over
from carpool.strategies.contract import Facts, Task

Answer = Message | Handed


def task_message(run: str, task: Task, facts: Facts) -> TaskMessage:
    """What is sent of a task; raises VehicleError where it cannot be."""
    return TaskMessage(
        run=run,
        round=facts.round,
        version=facts.version,
        population=facts.population,
        cohort=facts.cohort,
        pass_number=facts.pass_number,
        scalars={name: float(value) for name, value in task.scalars.items()},
        vectors=task.vectors,
    )


@timed("wire")
def send(
    grid: Grid,
    wire: bytes,
    nodes: NDArray[np.int64],
    round_: int,
    ttl: float,
    tickets: Tickets | None = None,
    announced: tuple[bytes, bytes] | None = None,
) -> dict[str, int]:
    """Send an encoded task to these nodes: {name of the work: node} of what went out.

    ttl: seconds for which an answer is of use; tickets: one a node, None where the task has none; announced:
    announcement and committee of a masked round, whose answers are always messages.
    """
    if announced is None and hands_over(grid):
        return dict(zip(grid.hand_out(wire, nodes, round_, tickets), nodes.tolist(), strict=True))
    record = ConfigRecord({RECORD: wire})  # of all: nobody changes it
    beside = {}
    if announced is not None:
        beside[ANNOUNCED] = ConfigRecord(dict(zip(("announcement", "committee"), announced, strict=True)))
    whole = RecordDict({RECORD: record, **beside})
    messages = [
        grid.create_message(
            content=whole if tickets is None else with_ticket(record, *tickets[place], beside),
            message_type="train",
            dst_node_id=node,
            group_id=str(round_),
            ttl=ttl,
        )
        for place, node in enumerate(nodes.tolist())
    ]
    names: Sequence[str | None] = list(grid.push_messages(messages))
    return {i: node for i, node in zip(names, nodes.tolist(), strict=True) if i is not None}


@timed("wire")
def arrived(grid: Grid, pending: Mapping[str, int]) -> deque[tuple[str, Answer]]:
    """Answers to pending work that have come, with its name, by node id; anything else is ignored."""
    if hands_over(grid):
        return deque([(handed.name, handed) for handed in grid.hand_in(pending.keys())])
    return sorted_replies(grid.pull_messages(list(pending)), pending)


def sorted_replies(replies: Iterable[Message], pending: Mapping[str, int]) -> deque[tuple[str, Answer]]:
    """Replies to what is still pending, by node id; anything else was not asked for."""
    known = {reply.metadata.reply_to_message_id: reply for reply in replies if reply is not None}
    mine = [name for name in known if name in pending]
    return deque((name, known[name]) for name in sorted(mine, key=pending.__getitem__))


def with_ticket(
    record: ConfigRecord, ticket: int, counted: int, beside: Mapping[str, ConfigRecord] | None = None
) -> RecordDict:
    """A task, what is for one vehicle alone, and what else goes with it."""
    own = ConfigRecord({"ticket": ticket, "counted": counted})
    return RecordDict({RECORD: record, TICKET: own, **(beside or {})})


def ticket_of(message: Message) -> tuple[int, int]:
    """(ticket, counted) of a task, zeros where it has none; raises VehicleError for anything odd."""
    record = message.content.get(TICKET)
    if record is None:
        return 0, 0
    values = dict(record) if isinstance(record, ConfigRecord) else {}
    ticket, counted = values.get("ticket"), values.get("counted")
    if len(values) != 2 or type(ticket) is not int or type(counted) is not int:
        raise VehicleError("the task's ticket must have two numbers, ticket and counted")
    if not 0 <= counted < ticket < 1 << 62:
        raise VehicleError(f"the task has ticket {ticket} and counted {counted}; use 0 <= counted < ticket")
    return ticket, counted


def wire_of(message: Message) -> bytes:
    """The one bytes entry of a message; raises VehicleError where it is not there."""
    record = message.content.get(RECORD)
    wire = record.get(RECORD) if isinstance(record, ConfigRecord) else None
    if not isinstance(wire, bytes):
        raise VehicleError(f"the message has no {RECORD!r} record of bytes")
    return wire
