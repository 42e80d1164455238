"""A further trip of a round: something to each of some vehicles, and what they answer in time."""

from __future__ import annotations

import math
from collections.abc import Mapping

from flwr.app import ConfigRecord, RecordDict
from flwr.serverapp import Grid

from carpool.privacy.errors import VehicleError
from carpool.privacy.wire import RECORD, TRIP
from carpool.server.clock import Clock
from carpool.server.messages import arrived
from carpool.server.secure import Heard, Take, bytes_in


def trip(
    grid: Grid,
    clock: Clock,
    heard: Heard,
    number: int,
    messages: Mapping[int, bytes],
    take: Take,
    *,
    round_: int,
    wait_s: float,
) -> set[int]:
    """Send these messages, take what comes within `wait_s`: who answered soundly.

    number: of the trip in its round, from 2. An unsound answer is counted as refused, never fatal.
    """
    sent = [
        grid.create_message(
            content=RecordDict(
                {RECORD: ConfigRecord({RECORD: data}), TRIP: ConfigRecord({"trip": number, "round": round_})}
            ),
            message_type="train.secagg",
            dst_node_id=node,
            group_id=str(round_),
            ttl=wait_s,
        )
        for node, data in messages.items()
    ]
    names = list(grid.push_messages(sent))
    pending = {name: node for name, node in zip(names, messages, strict=True) if name is not None}
    heard.bytes_down += sum(len(messages[node]) for node in pending.values())
    ends, fine = clock.now() + wait_s, set[int]()
    while pending:
        for name, reply in arrived(grid, pending):
            node = pending.pop(name)
            try:
                take(node, bytes_in(reply, heard))
            except (VehicleError, ValueError) as error:
                heard.refused[node] = str(error)
                continue
            fine.add(node)
        if not pending or clock.now() >= ends:
            break
        clock.wait(max(math.nextafter(clock.now(), math.inf), ends))
    return fine
