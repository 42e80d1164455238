"""Flower's Grid as secure aggregation wants it: addressed by vehicles, or answering with a sum."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run


class Through(Grid):
    """Another grid, unchanged."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def set_run(self, run: Run) -> None:
        """As the other's."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """As the other's."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """As the other's."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """As the other's."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """As the other's."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """As the other's."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """As the other's."""
        return self._grid.send_and_receive(messages, timeout=timeout)


class Members(Through):
    """A grid for the later trips: messages go to vehicles, under the type of the first trip's.

    nodes: by vehicle, the node that spoke for it; the type: an app has no function for any other.
    """

    def __init__(self, grid: Grid, nodes: Mapping[int, int], message_type: str) -> None:
        super().__init__(grid)
        self._nodes, self._type = nodes, message_type

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to vehicle `dst_node_id`."""
        return self._grid.create_message(content, self._type, self._nodes[dst_node_id], group_id, ttl)


class Summing(Through):
    """A grid that answers Flower's loop with `reply(messages, timeout)`: a sum in place of each reply."""

    def __init__(self, grid: Grid, reply: Callable[[Sequence[Message], float], list[Message]]) -> None:
        super().__init__(grid)
        self._reply = reply

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """One reply with the mean, none for a void round; no timeout: an hour."""
        return self._reply(list(messages), 3600.0 if timeout is None else timeout)
