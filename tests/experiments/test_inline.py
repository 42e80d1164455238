"""The in-process grid: each stage at which a vehicle can leave, the virtual clock, late replies."""

from __future__ import annotations

import math

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from carpool.experiments.availability import Bernoulli, Leave, Markov
from carpool.experiments.inline import RUN_ID, InlineGrid, VirtualClock, node_of
from carpool.experiments.pace import Pace
from carpool.experiments.stages import STAGES
from carpool.privacy.wire import RECORD
from carpool.server.round import wire_of

VEHICLES = 5
REPLY = bytes(range(256)) * 4


class Fleet:
    """A grid whose vehicles answer REPLY; `trained` lists who was asked to train."""

    def __init__(self, **leave: float) -> None:
        self.trained: list[int] = []
        app = ClientApp()

        @app.train()
        def train(message: Message, context: Context) -> Message:
            self.trained.append(int(context.node_config["partition-id"]))
            return Message(RecordDict({RECORD: ConfigRecord({RECORD: REPLY})}), reply_to=message)

        self.clock = VirtualClock()
        self.grid = InlineGrid(
            app,
            Bernoulli(VEHICLES, Leave(**leave), seed=1),
            Pace(VEHICLES, 1, seconds_per_example=1.0, spread=0.3, uplink_mbit=0.01, downlink_mbit=1.0),
            np.full(VEHICLES, 20),
            self.clock,
            lambda i: Context(RUN_ID, node_of(i), {"partition-id": i}, RecordDict(), {}),
        )

    def ask(self, round_: int = 1) -> list[str]:
        task = RecordDict({RECORD: ConfigRecord({RECORD: bytes(2000)})})
        return list(
            self.grid.push_messages(
                [
                    self.grid.create_message(task, "train", node, str(round_))
                    for node in self.grid.get_node_ids()
                ]
            )
        )

    def pull_all(self, ids: list[str]) -> list[Message]:
        replies: list[Message] = []
        for _ in range(50):
            replies += self.grid.pull_messages(ids)
            self.clock.wait(self.clock.now() + 1e6)
        return replies


def test_everybody_who_stays_replies_once_and_in_time() -> None:
    fleet = Fleet()
    ids = fleet.ask()
    assert list(fleet.grid.pull_messages(ids)) == [], "nobody trains in no time"
    assert fleet.trained == []
    replies = fleet.pull_all(ids)
    assert sorted(r.metadata.src_node_id for r in replies) == [1, 2, 3, 4, 5]
    assert all(wire_of(r) == REPLY for r in replies)
    assert sorted(fleet.trained) == [0, 1, 2, 3, 4]
    assert fleet.grid.left(1) == dict.fromkeys(map(str, STAGES), 0)


@pytest.mark.parametrize("stage", ["before_training", "during_training", "before_upload"])
def test_a_vehicle_that_leaves_before_its_upload_is_never_heard_of(stage: str) -> None:
    fleet = Fleet(**{stage: 1.0})
    assert fleet.pull_all(fleet.ask()) == []
    assert fleet.trained == [], "work that nobody can ever see is not computed"
    assert fleet.grid.left(1)[stage] == VEHICLES


def test_a_vehicle_that_leaves_during_its_upload_sends_a_part() -> None:
    fleet = Fleet(during_upload=1.0)
    replies = fleet.pull_all(fleet.ask())
    assert len(replies) == VEHICLES
    for reply in replies:
        wire = wire_of(reply)
        assert REPLY.startswith(wire)
        assert len(wire) < len(REPLY)
    assert len({len(wire_of(r)) for r in replies}) > 1, "each breaks off somewhere else"
    assert fleet.grid.left(1)["during_upload"] == VEHICLES


def test_a_vehicle_that_leaves_after_its_upload_has_replied() -> None:
    fleet = Fleet(after_upload=1.0)
    replies = fleet.pull_all(fleet.ask())
    assert [len(wire_of(r)) for r in replies] == [len(REPLY)] * VEHICLES
    assert fleet.grid.left(1)["after_upload"] == VEHICLES


def test_replies_come_when_the_clock_says_and_slow_vehicles_later() -> None:
    fleet = Fleet()
    ids = fleet.ask()
    times = []
    while len(times) < VEHICLES:
        fleet.clock.wait(math.inf)
        times += [fleet.clock.now()] * len(list(fleet.grid.pull_messages(ids)))
    assert times == sorted(times)
    assert len(set(times)) == VEHICLES
    assert 10 < times[0] < times[-1] < 200


def test_what_is_still_on_its_way_is_forgotten_with_its_round() -> None:
    fleet = Fleet()
    old = fleet.ask(1)
    fleet.grid.forget(1)
    new = fleet.ask(2)
    assert len(fleet.pull_all(old + new)) == VEHICLES
    assert sorted(fleet.trained) == [0, 1, 2, 3, 4]


def test_the_same_world_whatever_was_asked_before() -> None:
    leave = {"before_training": 0.2, "during_upload": 0.3, "after_upload": 0.2}
    one, two = Fleet(**leave), Fleet(**leave)
    one.ask(1)
    one.grid.forget(1)
    one.ask(2)
    two.ask(2)
    assert one.grid.left(2) == two.grid.left(2)
    assert sum(one.grid.left(2).values()) > 0


def test_send_and_receive_returns_what_came_by_the_timeout() -> None:
    fleet = Fleet()
    task = RecordDict({RECORD: ConfigRecord({RECORD: bytes(2000)})})
    messages = [fleet.grid.create_message(task, "train", n, "1") for n in fleet.grid.get_node_ids()]
    some = list(fleet.grid.send_and_receive(messages, timeout=17.0))
    assert 0 < len(some) < VEHICLES
    assert fleet.clock.now() <= 17.0
    again = [fleet.grid.create_message(task, "train", n, "2") for n in fleet.grid.get_node_ids()]
    assert len(list(fleet.grid.send_and_receive(again))) == VEHICLES


def test_an_interruption_is_heard_between_two_vehicles() -> None:
    fleet = Fleet()
    ids = fleet.ask()
    fleet.clock.wait(1e9)
    fleet.clock.wait(1e9)

    def interrupt() -> None:
        raise KeyboardInterrupt

    fleet.grid._interrupt = interrupt
    for _ in range(10):
        fleet.clock.wait(1e9)
    with pytest.raises(KeyboardInterrupt):
        list(fleet.grid.pull_messages(ids))
    assert fleet.trained == []


def test_everybody_is_a_range_and_the_ids_are_the_same() -> None:
    grid = Fleet().grid
    assert grid.present_nodes() == range(1, VEHICLES + 1)
    assert list(grid.get_node_ids()) == [1, 2, 3, 4, 5]
    assert [node.node_id for node in grid.get_nodes()] == [1, 2, 3, 4, 5]


def test_those_who_are_away_are_not_listed() -> None:
    fleet = Fleet()
    fleet.grid._availability = Markov(200, 3, mean_present_h=4.0, mean_absent_h=4.0)
    for now in (0.0, 20_000.0, 100_000.0):
        fleet.clock.wait(now)
        here = fleet.grid._availability.present(fleet.clock.now())
        nodes = fleet.grid.present_nodes()
        assert isinstance(nodes, np.ndarray)
        assert nodes.dtype == np.int64
        assert nodes.tolist() == (np.flatnonzero(here) + 1).tolist()
        assert 20 < len(nodes) < 180
