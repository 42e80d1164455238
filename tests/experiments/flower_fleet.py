"""Vehicles with `secagg_mod` behind a Grid in this process, which leave, lie and restart on demand."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Array, ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import (
    context_from_proto,
    context_to_proto,
    message_from_proto,
    message_to_proto,
)
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from carpool.experiments.flower_secagg import SecureSum, Settings, secagg_mod
from carpool.privacy.identity import Role, Trust, issue, public_bytes
from carpool.privacy.memberfolder import MemberKeys
from carpool.privacy.wire import TRIP

CA = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TRUST = Trust(public_bytes(CA))
N_MIN, NODES = 4, 8
SHAPES = {"w": (3, 4), "b": (4,), "scale": ()}
Reply = Message | None


def keys(role: Role, number: int, folder: Path, ca: Ed25519PrivateKey = CA) -> MemberKeys:
    """A member whose journal lies in a folder of its own."""
    key = Ed25519PrivateKey.generate()
    begins = int(time.time()) - 60
    shown = issue(ca, role, number, public_bytes(key), begins=begins, days=1)
    own = folder / f"{role.name.lower()}-{number}"
    own.mkdir(exist_ok=True)
    return MemberKeys(number, key, shown.encode(), TRUST, own)


def vehicle_of(node: int) -> int:
    """Flower's ids are not ours."""
    return node % 1000


def model(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.standard_normal(shape), np.float32) for name, shape in SHAPES.items()}


def record(arrays: dict[str, np.ndarray]) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(one)) for name, one in arrays.items()})


def answer_of(node: int) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """What a node adds to the model, and its metrics."""
    moves = {name: np.asarray(0.1 * one) for name, one in model(node).items()}
    return moves, {"num-examples": 10 + node % 7, "loss": 0.5 + node % 5, "other": 1.0}


def ordinary(before: Callable[[Message, Context], None] = lambda *_: None) -> Callable[..., Message]:
    """A user's train function."""

    def train(message: Message, context: Context) -> Message:
        before(message, context)
        moves, metrics = answer_of(context.node_id)
        arrays = {k: a.numpy() + moves[k] for k, a in message.content["arrays"].items()}
        content = RecordDict({"arrays": record(arrays), "metrics": MetricRecord(metrics)})
        return Message(content, reply_to=message)

    return train


class VirtualClock:
    """Waiting costs nothing."""

    def __init__(self) -> None:
        self.at = 0.0

    def now(self) -> float:
        return self.at

    def wait(self, until: float) -> None:
        self.at = max(self.at, until)


def trip_of(message: Message) -> int:
    return int(message.content[TRIP]["trip"]) if TRIP in message.content else 1


@dataclass
class LocalGrid(Grid):
    """Every message is answered by the node's app when it is pulled, through Flower's own bytes both ways.

    leaves: by node, the trip from which it is silent; changed: what the network makes of a reply; app: made
    anew for every message, as Flower's deployment does, by node.
    """

    make: Callable[[int], ClientApp]
    nodes: list[int]
    leaves: dict[int, int] = field(default_factory=dict)
    changed: Callable[[int, int, Message], Reply] = lambda node, trip, reply: reply
    states: dict[int, bytes] = field(default_factory=dict)
    received: list[tuple[int, int, Message]] = field(default_factory=list)
    sent: list[Message] = field(default_factory=list)
    waiting: dict[str, Message] = field(default_factory=dict)

    @cached_property
    def _run(self) -> Run:
        return Run.create_empty(7)

    @property
    def run(self) -> Run:
        return self._run

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        return self.nodes

    def create_message(
        self, content: Any, message_type: str, dst_node_id: int, group_id: str, ttl: Any = None
    ) -> Any:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        names = []
        for message in messages:
            name = f"m{len(self.sent)}"
            message.metadata.__dict__["_message_id"] = name
            self.sent.append(message)
            self.waiting[name] = message
            names.append(name)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        found = [self.answered(self.waiting.pop(name)) for name in list(message_ids) if name in self.waiting]
        return [reply for reply in found if reply is not None]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return self.pull_messages(self.push_messages(messages))

    def context(self, node: int) -> Context:
        if node not in self.states:
            return Context(7, node, {"partition-id": vehicle_of(node)}, RecordDict(), {})
        return context_from_proto(type(PROTO).FromString(self.states[node]))

    def deliver(self, message: Message) -> Message:
        """What the node's app says to a message: new processes each time, only bytes in between."""
        node = message.metadata.dst_node_id
        context = self.context(node)
        arrived = message_from_proto(message_to_proto(message))
        try:
            reply = self.make(node)(arrived, context)
        except Exception as error:  # as flwr-clientapp does
            reply = Message(Error(2, str(error)), reply_to=message)
        self.states[node] = context_to_proto(context).SerializeToString()
        return message_from_proto(message_to_proto(reply))

    def answered(self, message: Message) -> Reply:
        node, trip = message.metadata.dst_node_id, trip_of(message)
        if trip >= self.leaves.get(node, 99):
            return None
        reply = self.changed(node, trip, self.deliver(message))
        if reply is not None:
            self.received.append((node, trip, reply))
        return reply


PROTO = context_to_proto(Context(1, 1, {}, RecordDict(), {}))


class Fleet:
    """`n` vehicles in nodes 3000, 3001, ..., an aggregator, and a SecureSum between them."""

    def __init__(self, folder: Path, n: int = NODES, train: Callable[..., Message] | None = None) -> None:
        self.members = {3000 + i: keys(Role.VEHICLE, i, folder) for i in range(n)}
        self.aggregator = keys(Role.AGGREGATOR, 0, folder)
        self.train = train or ordinary()
        self.policy: dict[str, Any] = {"n_min": N_MIN}
        self.grid = LocalGrid(self.app, list(self.members))

    def app(self, node: int) -> ClientApp:
        app = ClientApp(mods=[secagg_mod(self.members[node], **self.policy)])
        app.train()(self.train)
        app.evaluate()(self.train)
        return app

    def secure(self, n_min: int = N_MIN, bits: Any = 32, **options: Any) -> SecureSum:
        settings = Settings("secagg+", n_min=n_min, most_weight=20.0, bits=bits)
        given: dict[str, Any] = {"clip": 4.0, "clock": VirtualClock(), **options}
        return SecureSum(self.grid, self.aggregator, settings, **given)


def plain_mean(nodes: Iterable[int], seed: int = 99) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """What Flower's FedAvg would make of these nodes' answers, in float64."""
    answers = [answer_of(node) for node in nodes]
    weights = np.array([metrics["num-examples"] for _, metrics in answers], float)
    share = weights / weights.sum()
    arrays = {
        name: one.astype(float)
        + sum(s * moves[name].astype(float) for s, (moves, _) in zip(share, answers, strict=True))
        for name, one in model(seed).items()
    }
    loss = float(sum(s * metrics["loss"] for s, (_, metrics) in zip(share, answers, strict=True)))
    return arrays, {"num-examples": float(weights.sum()), "loss": loss}
