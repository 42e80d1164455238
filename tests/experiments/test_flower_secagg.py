"""Secure aggregation in a plain Flower app: the mean is the plain one, whoever leaves, lies or restarts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import context_to_proto
from flwr.serverapp import strategy as flower
from flwr.supercore.task_identity import TaskIdentity

from carpool.experiments import flower_terms as ft
from carpool.experiments.flower_secagg import SecureSum, Settings, secagg_mod
from carpool.experiments.flower_state import STATE, VECTOR
from carpool.privacy.errors import ConfigError, UsageError, VehicleError
from carpool.privacy.identity import Role
from carpool.privacy.secagg.announcement import announce, decode_announcement
from carpool.privacy.wire import FAILURES, RECORD
from tests.experiments.flower_fleet import (
    N_MIN,
    NODES,
    Fleet,
    answer_of,
    keys,
    model,
    ordinary,
    plain_mean,
    record,
    trip_of,
    vehicle_of,
)

METRICS = {"loss": 10.0}


@pytest.fixture(autouse=True)
def _identity(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    logger, level = logging.getLogger("flwr"), logging.getLogger("flwr").level
    logger.setLevel(logging.WARNING)  # other tests silence it
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    monkeypatch.setattr(logger, "propagate", True)
    yield
    logger.setLevel(level)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def check(summed: Any, nodes: list[int], tolerance: float = 1e-6) -> None:
    """The sum is that of these nodes: relative to the largest number, by the rounding of the channel."""
    assert summed.why is None
    assert summed.vehicles == tuple(vehicle_of(node) for node in nodes)
    arrays, metrics = plain_mean(nodes)
    for name, wanted in arrays.items():
        found = summed.arrays[name].numpy()
        assert found.dtype == np.float32
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * max(1, np.abs(wanted).max()))
    for name, value in metrics.items():
        assert summed.metrics[name] == pytest.approx(value, rel=10 * tolerance), name


def start(fleet: Fleet, **options: Any) -> Any:
    return fleet.secure(metrics=METRICS, **options).round(record(model(99)))


def test_the_mean_is_the_plain_one_and_no_more_of_the_metrics_leaves(fleet: Fleet) -> None:
    summed = start(fleet)
    check(summed, fleet.grid.nodes)
    assert set(summed.metrics) == {"num-examples", "loss"}
    assert summed.record["steps"] == dict.fromkeys(
        ("asked", "advertised", "shared", "masked", "signed", "opened"), NODES
    )
    assert summed.record["released"]
    assert summed.record["n_min"] == N_MIN
    assert (summed.record["refused"], summed.record["silent"], summed.record["clipped"]) == ({}, [], 0)


@pytest.mark.slow
def test_what_the_server_receives_is_keys_and_masked_numbers(fleet: Fleet) -> None:
    """No reply has a metric or an array; the same fleet's masked vectors differ in every number."""
    start(fleet)
    start(fleet)
    for _, _, reply in fleet.grid.received:
        assert list(reply.content) == [RECORD]
        assert [type(value) for value in reply.content[RECORD].values()] == [bytes]
    masked = [
        np.frombuffer(reply.content[RECORD][RECORD][-4 * 21 :], np.uint32)
        for node, trip, reply in fleet.grid.received
        if (node, trip) == (3000, 3)
    ]
    assert len(masked) == 2
    assert (masked[0] != masked[1]).mean() > 0.9


@pytest.mark.parametrize("trip", [1, 2, 3, 4, 5])
def test_who_leaves_at_a_trip_is_in_the_sum_only_after_the_third(fleet: Fleet, trip: int) -> None:
    fleet.grid.leaves = {3001: trip, 3004: trip}
    summed = start(fleet)
    there = [node for node in fleet.grid.nodes if trip > 3 or node not in fleet.grid.leaves]
    check(summed, there)
    step = ("advertise", "share", "mask", "sign", "open")[trip - 1]
    assert summed.record["dropped"] == {"advertise": 0, "share": 0, "mask": 0, "sign": 0, "open": 0, step: 2}
    assert summed.record["silent"] == ([3001, 3004] if trip == 1 else [])


@pytest.mark.slow
@pytest.mark.parametrize("trip", [1, 2, 3, 4, 5])
def test_with_too_few_left_the_round_is_void_and_says_why(fleet: Fleet, trip: int) -> None:
    fleet.grid.leaves = dict.fromkeys(fleet.grid.nodes[N_MIN - 1 :], trip)
    summed = start(fleet)
    assert summed.arrays is None
    assert summed.vehicles == ()
    assert summed.why is not None
    assert not summed.record["released"]
    assert {1: "3 of 4 needed", 2: "n_min", 3: "n_min", 4: "n_min", 5: "opened"}[trip] in summed.why
    fleet.grid.leaves = {}
    check(start(fleet), fleet.grid.nodes)


def test_a_vehicle_that_loses_its_state_has_left_and_a_new_process_has_not(fleet: Fleet) -> None:
    """Every message of this grid meets a new app and mod, with the bytes of `context.state` and no more."""

    def lost(node: int, trip: int, reply: Message) -> Message:
        if (node, trip) in ((3001, 1), (3002, 2), (3003, 3)):
            del fleet.grid.states[node]
        return reply

    fleet = resized(fleet, 12)
    fleet.grid.changed = lost
    summed = start(fleet)
    check(summed, [node for node in fleet.grid.nodes if node not in (3001, 3002)])
    assert summed.record["refused"] == dict.fromkeys((3001, 3002, 3003), FAILURES[1003])


@pytest.mark.parametrize("trip", [2, 5])
def test_an_older_state_gets_no_second_answer(fleet: Fleet, trip: int) -> None:
    """Whoever can put an old context back is refused by the journal, which is a file."""
    grid, before = fleet.grid, list[bytes]()
    deliver = type(grid).deliver

    def watched(message: Message) -> Message:
        node = message.metadata.dst_node_id
        if (node, trip_of(message)) != (3000, trip):
            return deliver(grid, message)
        before.append(grid.states[node])
        return deliver(grid, message)

    grid.deliver = watched  # type: ignore[method-assign]
    check(start(fleet), grid.nodes)
    message = next(m for m in grid.sent if (m.metadata.dst_node_id, trip_of(m)) == (3000, trip))
    (grid.states[3000],) = before
    assert "has spoken in this round before" in asked(fleet, message)


@pytest.mark.slow
def test_a_late_answer_counts_for_nothing(fleet: Fleet) -> None:
    held: list[Message] = []

    def late(node: int, trip: int, reply: Message) -> Message | None:
        if node == 3002 and trip == 2 and not held:
            held.append(reply)
            return None
        return reply

    fleet.grid.changed = late
    secure = fleet.secure(metrics=METRICS)
    check(secure.round(record(model(99))), [n for n in fleet.grid.nodes if n != 3002])
    assert len(held) == 1
    check(secure.round(record(model(99))), fleet.grid.nodes)


def test_nodes_that_are_no_vehicles_of_the_fleet_are_refused_and_counted(
    fleet: Fleet, tmp_path: Path
) -> None:
    another = Ed25519PrivateKey.generate()  # of another fleet
    odd = keys(Role.VEHICLE, 3, tmp_path, another), keys(Role.COMMITTEE, 5, tmp_path)
    fleet = resized(fleet, 12)
    fleet.members[3003], fleet.members[3005] = odd
    fleet.members[3007] = fleet.members[3006]  # two nodes, one vehicle
    summed = start(fleet)
    check(summed, [node for node in fleet.grid.nodes if node not in (3003, 3005, 3007)])
    refused = summed.record["refused"]
    assert set(refused) == {3003, 3005, 3007}
    assert "carpool/certificate" in refused[3003]
    assert "not for vehicle" in refused[3005]
    assert refused[3007] == FAILURES[1003]  # its journal said it first


def test_sybils_without_a_common_journal_are_one_vehicle_still(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    one = fleet.members[3006]
    fleet.members[3007] = type(one)(one.number, one.key, one.certificate, one.trust, tmp_path / "copy")
    summed = start(fleet)
    check(summed, [node for node in fleet.grid.nodes if node != 3007])
    assert "repeated" in summed.record["refused"][3007]


@pytest.mark.slow
def test_a_node_cannot_speak_for_two_vehicles_but_a_vehicle_may_move(fleet: Fleet) -> None:
    secure = fleet.secure(metrics=METRICS)
    check(secure.round(record(model(99))), fleet.grid.nodes)
    fleet.members[3000], fleet.members[3001] = fleet.members[3001], fleet.members[3000]
    summed = secure.round(record(model(99)))
    check(summed, fleet.grid.nodes[2:])
    assert "node 3000 spoke for vehicle 0 before and now for 1" in summed.record["refused"][3000]
    fleet.members[5001] = fleet.members.pop(3000)  # vehicle 1 restarts with a new id of Flower's
    del fleet.members[3001]
    fleet.grid.nodes[:] = sorted(fleet.members)
    assert secure.round(record(model(99))).vehicles == (1, 2, 3, 4, 5, 6, 7)


def test_answers_of_the_wrong_size_or_of_another_node_are_refused(fleet: Fleet) -> None:
    others: dict[int, Message] = {}

    def tampered(node: int, trip: int, reply: Message) -> Message:
        data = reply.content[RECORD][RECORD] if reply.has_content() else b""
        if trip == 3 and node == 3000:
            reply.content[RECORD] = ConfigRecord({RECORD: data + bytes(4)})  # a bigger vector
        if trip == 3 and node == 3001:
            reply.content[RECORD] = ConfigRecord({RECORD: data[:-1] + bytes((data[-1] ^ 1,))})
        if trip == 2 and node == 3002:
            others[trip] = reply
        if trip == 2 and node == 3003:
            reply.content[RECORD] = others[2].content[RECORD]
        if trip == 2 and node == 3004:
            reply.content = RecordDict({"something": ConfigRecord({"else": 1})})
        return reply

    fleet = resized(fleet, 12)
    fleet.grid.changed = tampered
    summed = start(fleet)
    check(summed, [n for n in fleet.grid.nodes if n not in (3000, 3001, 3003, 3004)])
    refused = summed.record["refused"]
    assert set(refused) == {3000, 3001, 3003, 3004}
    assert "a masked vector of 21 numbers" in refused[3000]
    assert "signature" in refused[3001]


def resized(fleet: Fleet, n: int) -> Fleet:
    return Fleet(fleet.aggregator.folder.parent, n)


def test_a_trip_that_comes_twice_is_answered_once(fleet: Fleet) -> None:
    """The vehicle refuses the second, and stays in the round."""
    grid, refused = fleet.grid, list[int]()
    deliver = type(grid).deliver

    def twice(message: Message) -> Message:
        reply = deliver(grid, message)
        again = deliver(grid, message)
        assert again.has_error()
        assert again.error.code == 1003
        assert again.error.reason == FAILURES[1003]
        refused.append(trip_of(message))
        return reply

    grid.deliver = twice  # type: ignore[method-assign]
    check(start(fleet), fleet.grid.nodes)
    assert refused.count(5) == NODES


def test_a_repeated_task_is_refused_before_the_app_trains(tmp_path: Path) -> None:
    trained: list[int] = []
    fleet = Fleet(tmp_path, train=ordinary(lambda message, context: trained.append(context.node_id)))
    start(fleet)
    assert sorted(trained) == fleet.grid.nodes
    task = next(message for message in fleet.grid.sent if message.metadata.dst_node_id == 3000)
    assert fleet.grid.deliver(task).error.code == 1003
    assert sorted(trained) == fleet.grid.nodes


def test_the_app_sees_its_own_message_only_and_the_state_is_gone_in_the_end(tmp_path: Path) -> None:
    seen: list[tuple[list[str], str]] = []
    phases: dict[int, set[str]] = {}
    fleet = Fleet(
        tmp_path, train=ordinary(lambda m, c: seen.append((list(m.content), m.metadata.message_type)))
    )
    deliver = type(fleet.grid).deliver

    def watched(message: Message) -> Message:
        reply = deliver(fleet.grid, message)
        phases.setdefault(trip_of(message), set()).update(
            fleet.grid.context(message.metadata.dst_node_id).state
        )
        return reply

    fleet.grid.deliver = watched  # type: ignore[method-assign]
    start(fleet)
    assert seen == [(["arrays", "config"], "train")] * NODES
    assert phases == {1: {STATE, VECTOR}, 2: {STATE, VECTOR}, 3: {STATE}, 4: {STATE}, 5: set()}


def asked(fleet: Fleet, message: Message) -> str:
    """What vehicle 3000 logs when it refuses this message; it must answer with a code alone."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logging.getLogger("flwr").addHandler(handler)
    try:
        reply = fleet.grid.deliver(message)
    finally:
        logging.getLogger("flwr").removeHandler(handler)
    assert reply.has_error()
    assert reply.error.reason in FAILURES.values()
    return " ".join(record.getMessage() for record in records)


def task(fleet: Fleet, **options: Any) -> Message:
    """A first message to node 3000 that nobody has answered; the round around it is void."""
    fleet.grid.leaves = dict.fromkeys(fleet.grid.nodes, 1)
    before = len(fleet.grid.sent)
    fleet.secure(metrics=METRICS, **options).round(record(model(99)))
    fleet.grid.leaves = {}
    return fleet.grid.sent[before]


def clear(kind: str) -> Message:
    return Message(RecordDict({"arrays": record(model(99))}), 3000, kind)


def test_a_request_in_the_clear_is_refused_unless_it_was_let_through(fleet: Fleet) -> None:
    assert "asked for 'train' in the clear" in asked(fleet, clear("train"))
    assert "asked for 'evaluate' in the clear" in asked(fleet, clear("evaluate"))
    fleet.policy["unmasked"] = ["evaluate"]
    assert fleet.grid.deliver(clear("evaluate")).has_content()
    assert "in the clear" in asked(fleet, clear("train"))


def test_a_server_that_lies_in_the_first_message_is_refused_before_the_app_trains(tmp_path: Path) -> None:
    trained: list[int] = []
    fleet = Fleet(tmp_path, train=ordinary(lambda message, context: trained.append(context.node_id)))

    def changed(what: Callable[[Message], None], **options: Any) -> str:
        message = task(fleet, **options)
        what(message)
        return asked(fleet, message)

    def other_model(message: Message) -> None:
        message.content["arrays"] = record(model(5))

    def other_config(message: Message) -> None:
        message.content["config"] = ConfigRecord({"lr": 1.0})

    def entries(**new: bytes) -> Callable[[Message], None]:
        def put(message: Message) -> None:
            message.content["carpool.announced"] = ConfigRecord(
                {**dict(message.content["carpool.announced"]), **new}  # type: ignore[dict-item]
            )

        return put

    assert "for another task" in changed(other_model)
    assert "for another task" in changed(other_config)
    assert "numbers = 21; this vehicle's are 6" in changed(
        lambda message: message.content.__setitem__("arrays", record({"w": np.zeros(2, np.float32)}))
    )
    assert "the terms of the masked round are malformed" in changed(entries(terms=b"{}"))
    assert "comes with its terms, and nothing else" in changed(entries(more=b"1"))
    assert "an announcement is cut off" in changed(entries(announcement=b"\1"))
    fleet.policy["n_min"] = N_MIN + 1
    assert "the policy is 5" in asked(fleet, task(fleet))
    assert not trained


def test_noise_that_the_mod_would_not_add_is_refused(fleet: Fleet) -> None:
    """Announced by the aggregator itself, for so many vehicles that the noise would fit into the ring."""
    message = task(fleet)
    beside = message.content["carpool.announced"]
    terms, old = ft.decode_terms(beside["terms"]), decode_announcement(beside["announcement"])
    plain = RecordDict({name: one for name, one in message.content.items() if name != "carpool.announced"})
    form = terms.form(17, 1000)
    hashed = form.task_hash(ft.task_bytes(plain, "train", terms))
    for noise, told in ((0, ""), (1, "announced with noise = 1; this vehicle's are 0")):
        new = replace(
            old, round_id=bytes((noise,)) * 16, most=1000, levels=form.levels, tasks=(hashed,), noise=noise
        )
        signed = announce(new, fleet.aggregator.certificate, fleet.aggregator.key)
        message.content["carpool.announced"] = ConfigRecord(
            {"announcement": signed.encode(), "terms": terms.encode()}
        )
        if told:
            assert told in asked(fleet, message)
        else:
            assert fleet.grid.deliver(message).has_content()


def test_a_server_that_is_no_aggregator_of_the_fleet_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    for other in (
        keys(Role.VEHICLE, 77, tmp_path),
        keys(Role.AGGREGATOR, 1, tmp_path, Ed25519PrivateKey.generate()),
    ):
        fleet.aggregator = other
        summed = start(fleet)
        assert summed.why is not None
        assert set(summed.record["refused"]) == set(fleet.grid.nodes)


def test_a_later_trip_out_of_turn_ends_the_round_for_the_vehicle(fleet: Fleet) -> None:
    start(fleet)
    roster = next(one for one in fleet.grid.sent if trip_of(one) == 2)
    lists = next(one for one in fleet.grid.sent if trip_of(one) == 4)
    assert "in no masked round" in asked(fleet, roster)
    fresh = task(fleet)
    assert fleet.grid.deliver(fresh).has_content()
    lists.content["carpool.trip"] = ConfigRecord({"trip": 4, "round": 1})
    assert "came in place of 2" in asked(fleet, lists)
    assert STATE not in fleet.grid.context(3000).state
    assert "no masked round" in asked(fleet, roster)


def test_another_rounds_roster_is_refused_and_forgets_the_round(fleet: Fleet) -> None:
    start(fleet)
    roster = next(one for one in fleet.grid.sent if trip_of(one) == 2)
    assert fleet.grid.deliver(task(fleet)).has_content()
    assert STATE in fleet.grid.context(3000).state
    assert "the signature for carpool/secagg+/keys does not hold" in asked(fleet, roster)
    assert not {STATE, VECTOR} & set(fleet.grid.context(3000).state)


def test_a_state_that_is_old_or_damaged_is_erased(fleet: Fleet) -> None:
    now = [0.0]
    fleet.policy["now"] = lambda: time.time() + now[0]
    message = task(fleet)
    assert fleet.grid.deliver(message).has_content()
    now[0] = 5000.0
    assert "in the clear" in asked(fleet, clear("train"))
    assert not set(fleet.grid.context(3000).state)
    now[0] = 0.0
    message = task(fleet)
    assert fleet.grid.deliver(message).has_content()
    context = fleet.grid.context(3000)
    context.state[STATE] = ConfigRecord({"state": b"x" * 99, "round": 1})
    fleet.grid.states[3000] = context_to_proto(context).SerializeToString()
    assert "damaged" in asked(fleet, clear("train"))
    assert not set(fleet.grid.context(3000).state)


@pytest.mark.parametrize(
    ("arrays", "metrics", "told"),
    [
        ({"w": np.zeros((3, 4), np.int64)}, {}, "array w is int64, and only float arrays"),
        ({"w": np.full((3, 4), np.nan, np.float32)}, {}, "NaN or Inf"),
        ({"w": np.full((3, 4), 3e38, np.float32)}, {}, "too large"),
        ({"w": np.zeros((4, 4), np.float32)}, {}, "was sent as (3, 4) and came back as (4, 4)"),
        ({"more": np.zeros(1, np.float32)}, {}, "other arrays than it was sent, such as ['more']"),
        ({}, {"num-examples": 0}, "weight of 0.0"),
        ({}, {"num-examples": -1}, "weight of -1"),
        ({}, {"loss": float("nan")}, "'loss' is nan"),
        ({}, {"loss": [1.0, 2.0]}, "'loss' is [1.0, 2.0]"),
        ({}, {"loss": None}, "'loss' is missing"),
    ],
)
def test_an_app_whose_answer_cannot_be_summed_is_told_so(
    tmp_path: Path, arrays: Any, metrics: Any, told: str
) -> None:
    good = ordinary()

    def train(message: Message, context: Context) -> Message:
        reply = good(message, context)
        have = {name: one.numpy() for name, one in reply.content["arrays"].items()} | arrays
        numbers = {k: v for k, v in (dict(reply.content["metrics"]) | metrics).items() if v is not None}
        reply.content["arrays"], reply.content["metrics"] = record(have), MetricRecord(numbers)
        return reply

    fleet = Fleet(tmp_path, train=train)
    assert told in asked(fleet, task(fleet))


def test_an_app_that_fails_tells_the_server_nothing_of_why(tmp_path: Path) -> None:
    def train(message: Message, context: Context) -> Message:
        raise ValueError("a picture of the driver")

    fleet = Fleet(tmp_path, train=train)
    message = task(fleet)
    reply = fleet.grid.deliver(message)
    assert (reply.error.code, reply.error.reason) == (1003, FAILURES[1003])
    assert not set(fleet.grid.context(3000).state)


def test_longer_changes_are_scaled_down_and_counted(fleet: Fleet) -> None:
    norms = {
        n: float(np.sqrt(sum((one.astype(float) ** 2).sum() for one in answer_of(n)[0].values())))
        for n in fleet.grid.nodes
    }
    limit = float(np.median(list(norms.values())))
    summed = start(fleet, clip=limit)
    assert summed.record["clipped"] == sum(norm > limit for norm in norms.values()) > 0
    weights = {n: answer_of(n)[1]["num-examples"] for n in norms}
    wanted = model(99)["w"] + sum(
        weights[n] * answer_of(n)[0]["w"] * min(1, limit / norms[n]) for n in norms
    ) / sum(weights.values())
    np.testing.assert_allclose(summed.arrays["w"].numpy(), wanted, atol=1e-6)


def test_a_metric_beyond_its_bound_counts_as_the_bound_and_is_counted(fleet: Fleet) -> None:
    summed = fleet.secure(metrics={"loss": 2.0}).round(record(model(99)))
    answers = [answer_of(node)[1] for node in fleet.grid.nodes]
    weight = sum(one["num-examples"] for one in answers)
    wanted = sum(one["num-examples"] * min(2.0, one["loss"]) for one in answers) / weight
    assert summed.metrics["loss"] == pytest.approx(wanted, rel=1e-5)
    assert summed.record["clipped"] == sum(one["loss"] > 2 for one in answers) > 0


@pytest.mark.parametrize(("bits", "tolerance"), [(24, 1e-4), (16, 0.02)])
def test_fewer_bits_are_coarser(fleet: Fleet, bits: Any, tolerance: float) -> None:
    check(start(fleet, bits=bits), fleet.grid.nodes, tolerance)


def test_arrays_keep_their_dtype(tmp_path: Path) -> None:
    def train(message: Message, context: Context) -> Message:
        arrays = {k: a.numpy() + np.asarray(0.25, a.dtype) for k, a in message.content["arrays"].items()}
        metrics = MetricRecord({"num-examples": 5})
        return Message(RecordDict({"a": record(arrays), "m": metrics}), reply_to=message)

    fleet = Fleet(tmp_path, train=train)
    sent = {"half": np.ones(3, np.float16), "double": np.asfortranarray(np.ones((2, 3)))}
    summed = fleet.secure().round(record(sent))
    for name, one in sent.items():
        found = summed.arrays[name].numpy()
        assert found.dtype == one.dtype
        np.testing.assert_allclose(found, one + 0.25, atol=1e-3 if name == "half" else 1e-6)


def test_evaluation_sums_metrics_alone(fleet: Fleet) -> None:
    secure = fleet.secure(evaluate_metrics={"loss": 10.0, "other": 2.0})
    summed = secure.round(record(model(99)), message_type="evaluate")
    _, wanted = plain_mean(fleet.grid.nodes)
    assert summed.arrays is None
    assert summed.why is None
    assert summed.metrics["loss"] == pytest.approx(wanted["loss"], rel=1e-5)
    assert summed.metrics["other"] == pytest.approx(1.0, rel=1e-5)


SAMPLING: Any = {"min_train_nodes": NODES, "min_available_nodes": NODES, "min_evaluate_nodes": NODES}


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: flower.FedAvg(**SAMPLING),
        lambda: flower.FedAdam(eta=0.05, **SAMPLING),
        lambda: flower.FedAvgM(server_momentum=0.9, **SAMPLING),
    ],
)
def test_flowers_own_loop_runs_on_secure_sums(tmp_path: Path, make: Callable[[], Any]) -> None:
    fleet = Fleet(tmp_path)
    secure = fleet.secure(metrics=METRICS, evaluate_metrics=METRICS)
    ours = secure.start(make(), record(model(99)), num_rounds=2)

    class Clear(Fleet):
        def app(self, node: int) -> ClientApp:
            app = ClientApp()
            app.train()(self.train)
            app.evaluate()(self.train)
            return app

    theirs = make().start(grid=Clear(tmp_path).grid, initial_arrays=record(model(99)), num_rounds=2)
    for name, one in theirs.arrays.items():
        np.testing.assert_allclose(ours.arrays[name].numpy(), one.numpy(), rtol=1e-5, atol=2e-6)
    for found, wanted in (
        (ours.train_metrics_clientapp, theirs.train_metrics_clientapp),
        (ours.evaluate_metrics_clientapp, theirs.evaluate_metrics_clientapp),
    ):
        assert found[2]["loss"] == pytest.approx(wanted[2]["loss"], rel=1e-5)


def test_a_void_round_in_flowers_loop_leaves_the_model(fleet: Fleet) -> None:
    fleet.grid.leaves = dict.fromkeys(fleet.grid.nodes[N_MIN - 1 :], 3)
    strategy = flower.FedAdam(**SAMPLING, fraction_evaluate=0.0)
    result = fleet.secure().start(strategy, record(model(99)), num_rounds=1)
    assert not result.arrays


@pytest.mark.parametrize(
    "make", [lambda: flower.Krum(1), lambda: flower.FedMedian(), lambda: flower.QFedAvg(0.1)]
)
def test_a_strategy_that_must_see_every_update_is_refused(fleet: Fleet, make: Callable[[], Any]) -> None:
    with pytest.raises(ConfigError, match="cannot run on secure sums: it must see every update"):
        fleet.secure().start(make(), record(model(99)))
    wrapped = flower.DifferentialPrivacyServerSideFixedClipping(flower.FedAvg(), 1.0, 1.0, 8)
    with pytest.raises(ConfigError, match="cannot run on secure sums: only FedAvg"):
        fleet.secure().start(wrapped, record(model(99)))


def test_what_cannot_be_summed_is_refused_before_anybody_is_asked(fleet: Fleet, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fraction_evaluate=0"):
        fleet.secure().start(flower.FedAvg(**SAMPLING), record(model(99)))
    with pytest.raises(ConfigError, match="array n is int64"):
        fleet.secure().round(record({"n": np.zeros(2, np.int64)}))
    with pytest.raises(ConfigError, match="timeout is inf"):
        fleet.secure().round(record(model()), timeout=float("inf"))
    with pytest.raises(ConfigError, match="'query' are not summed"):
        fleet.secure().round(record(model()), message_type="query")
    with pytest.raises(ConfigError, match="use numbers above 0"):
        fleet.secure(clip=0.0)
    with pytest.raises(ConfigError, match="take it out of the metrics"):
        fleet.secure(metrics={"num-examples": 5.0})
    with pytest.raises(ConfigError, match="not of one-shot"):
        SecureSum(fleet.grid, fleet.aggregator, Settings("one-shot", 4, 10.0), clip=1.0)
    with pytest.raises(UsageError, match="no private key"):
        SecureSum(fleet.grid, tmp_path, Settings("secagg+", 4, 10.0), clip=1.0)
    few = fleet.secure().round(record(model()), node_ids=[3000, 3001])
    assert few.why == "2 nodes were to be asked; n_min is 4: void round"
    assert not fleet.grid.sent
    with pytest.raises(ValueError, match="n_min is 1"):
        secagg_mod("x", n_min=1)


def test_a_quorum_above_n_min_voids_the_round_before_it_is_opened(fleet: Fleet) -> None:
    fleet.grid.leaves = {3000: 3, 3001: 3}
    summed = start(fleet, quorum=0.9)
    assert "quorum is 8" in str(summed.why)
    assert not any(trip >= 4 for _, trip, _ in fleet.grid.received)


def test_a_log_is_told_before_and_its_randomness_is_what_vehicles_check(fleet: Fleet) -> None:
    told: list[str] = []

    class Log:
        def round(self, announcement: Any, protocol: str, committee_hash: bytes = b"") -> None:
            told.append("round")
            assert not fleet.grid.sent

        def keys(self, round_id: bytes, vehicles: int, commitment: bytes) -> bytes:
            told.append(f"keys {vehicles}")
            return commitment[::-1]

        def participation(self, round_id: bytes, list_hash: bytes, vehicles: Any) -> None:
            told.append(f"participation {len(vehicles)}")

        def transcript(self, round_id: bytes, transcript: bytes, released: bool) -> None:
            told.append(f"transcript {released}")

    def beacon(commitment: bytes, value: bytes) -> None:
        if value != commitment[::-1]:
            raise VehicleError("the server chose the randomness")

    fleet.policy["beacon"] = beacon
    check(start(fleet, log=Log()), fleet.grid.nodes)
    assert told == ["round", "keys 8", "participation 8", "transcript True"]
    fleet.grid.sent.clear()
    summed = start(fleet)  # no log: the vehicles do not believe it
    assert "n_min" in str(summed.why)
    assert set(summed.record["refused"]) == set(fleet.grid.nodes)
