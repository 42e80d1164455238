"""The server's seam for sealed contributions: opened for the very task, refused otherwise, never fatal."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.metadata import Metadata

from carpool.privacy.errors import VehicleError
from carpool.privacy.sealed_update import Purpose
from carpool.privacy.wire import RECORD, ContributionMessage, TaskMessage, encode
from carpool.server.handover import Handed
from carpool.server.messages import Answer
from carpool.server.receive import Gathered, RoundPlan, receive
from carpool.server.spool import Spool
from carpool.strategies.contract import Facts
from carpool.strategies.deadline import Policy
from carpool.strategies.fedavg import fedavg
from carpool.strategies.fedbuff import fedbuff
from carpool.strategies.fold import Fold
from tests.server.fleet import RUN, D, Fleet, Watch, halfway, plan, run

FACTS = Facts(4, 2, 9, 3, 1)


def told(purpose: Purpose) -> bytes:
    return repr(tuple(purpose)).encode()


def unseal(sealed: bytes, purpose: Purpose) -> bytes:
    """Stands for the cryptography: a seal is the purpose in front."""
    if not sealed.startswith(told(purpose)):
        raise VehicleError("sealed for another purpose")
    return sealed.removeprefix(told(purpose))


def contribution(node: int = 7, round_: int = 4, version: int = 2) -> ContributionMessage:
    vectors = {"delta": np.ones(D, np.float32)}
    return ContributionMessage(RUN, round_, version, 1, node, "u", 5, 1, 0.5, vectors)


def sealed(node: int = 7, round_: int = 4, version: int = 2) -> bytes:
    return told(Purpose(RUN, round_, version, 1, node)) + encode(contribution(node, round_, version))


def answer(content: bytes) -> Message:
    meta = Metadata(1, "", 0, 7, "", "4", 0.0, 1.0, "train", 0, None)
    return Message(content=RecordDict({RECORD: ConfigRecord({RECORD: content})}), metadata=meta)


def received(reply: Answer, unseal: Callable[[bytes, Purpose], bytes] | None) -> Gathered:
    strategy = fedavg()
    round_plan = RoundPlan(RUN, FACTS, np.array([7]), Policy(cohort=1, quorum=1.0), unseal=unseal)
    with Spool(strategy.sizes(D), None) as spool:
        gathered = Gathered(Fold(strategy.channels, D, FACTS), spool)
        receive(strategy, reply, 7, round_plan, gathered, 1.0)
        return gathered


def test_what_is_sealed_for_this_task_is_opened_and_its_sealed_length_counted() -> None:
    found = received(answer(sealed()), unseal)
    assert (set(found.usable), found.refused) == ({7}, {})
    assert found.bytes_up == len(sealed()) > len(encode(contribution()))


@pytest.mark.parametrize("other", [{"node": 8}, {"round_": 3}, {"version": 1}], ids=str)
def test_what_is_sealed_for_another_task_is_refused(other: dict[str, int]) -> None:
    found = received(answer(sealed(**other)), unseal)
    assert found.refused == {7: "sealed for another purpose"}
    assert not found.usable


def test_nothing_comes_in_the_clear_where_it_is_to_be_sealed() -> None:
    assert received(answer(encode(contribution())), unseal).refused == {7: "sealed for another purpose"}
    handed = Handed("n", 7, contribution(), 500)
    assert "came in the clear" in received(handed, unseal).refused[7]
    assert received(handed, None).usable, "without the seam it is taken"


def test_nothing_sealed_is_taken_where_nothing_opens_it() -> None:
    assert received(answer(sealed()), None).refused


def test_a_vehicle_may_still_say_that_it_cannot() -> None:
    found = received(Handed("n", 7, 1001), unseal)
    assert found.failures == [1001]


def test_an_asynchronous_server_opens_for_the_task_that_was_asked_and_refuses_a_replay() -> None:
    """Vehicle 2 sends its first answer again and again: it counts once, the others go on."""
    kept: dict[int, bytes] = {}

    def reply(message: Message, task: TaskMessage) -> bytes:
        node = message.metadata.dst_node_id
        vectors = halfway(task, node)
        wire = encode(ContributionMessage(RUN, task.round, task.version, 1, node, "u", 5, 1, 0.5, vectors))
        now = told(Purpose(RUN, task.round, task.version, 1, node)) + wire
        return kept.setdefault(node, now) if node == 2 else now

    watch, fleet = Watch(), Fleet(dict.fromkeys((1, 2, 3), 500.0), reply=reply)
    run(fedbuff(buffer=2), fleet, plan(6, fleet, concurrency=3, unseal=unseal), watch)
    asked = sum(node == 2 for _, node, _ in fleet.tasks)
    assert asked > 2
    assert asked - 2 <= sum(r["refused"] for r in watch.records) <= asked - 1
    assert not any(r["void"] for r in watch.records)
    assert all(r["asked"] == r["replied"] + r["dropped"] for r in watch.records)
