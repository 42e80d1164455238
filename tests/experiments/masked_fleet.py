"""Masked rounds of a fleet that does not train: server, grid, agents and committee are the real ones.

Who leaves at which step is said, not drawn; what a vehicle or the server says may be changed on the way.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from carpool.client.secure import Encoder, Work
from carpool.experiments.asked import Asked, VirtualClock, node_of
from carpool.experiments.council import Council
from carpool.experiments.inline import RUN_ID, InlineGrid
from carpool.experiments.pace import Pace
from carpool.experiments.privacy_config import Committee, Privacy, Secagg
from carpool.experiments.simfleet import SimulatedFleet
from carpool.experiments.stages import STAGES, STAYED, Outcomes, Stage, leaving_in, timelines
from carpool.experiments.veil import Veil
from carpool.privacy.errors import VehicleError
from carpool.privacy.secagg.announcement import Announcement
from carpool.privacy.secagg.committee import Committee as Committees
from carpool.privacy.secagg.parameters import GraphParameters
from carpool.privacy.secagg.plus_policy import Policy as Terms
from carpool.privacy.secagg.settings import Settings
from carpool.privacy.secagg.sumform import SumForm
from carpool.privacy.wire import RECORD, ContributionMessage, TaskMessage, decode_task, encode
from carpool.server import secure_once
from carpool.server.messages import wire_of
from carpool.server.round import RoundOutcome, RoundPlan, run_round
from carpool.server.secure import Secrecy
from carpool.strategies.contract import Channel, Facts, Header, Strategy
from carpool.strategies.deadline import Policy
from carpool.strategies.fedavg import fedavg

NUMBERS = 7
STEPS = ("training", "share", "mask", "cut", "sign", "open", "stay")
"""Where a vehicle falls silent: before it answers the task, shares, sends its vector, in the middle of that,
before it signs, before it opens, or never."""
_PLACES = {
    "training": (Stage.DURING_TRAINING, 0.5),
    "share": (Stage.BEFORE_UPLOAD, 0.2),
    "mask": (Stage.BEFORE_UPLOAD, 0.8),
    "cut": (Stage.DURING_UPLOAD, 0.6),
    "sign": (Stage.AFTER_UPLOAD, 0.2),
    "open": (Stage.AFTER_UPLOAD, 0.8),
}
INSIDE = {
    "secagg+": ("sign", "open", "stay"),
    "one-shot": ("sign", "open", "stay"),
    "helpers": ("sign", "open", "stay"),
}
"""Who is in the sum: the vector has come, or the one message."""


class Told:
    """An availability: fates by round and vehicle; who is not named stays."""

    def __init__(self, vehicles: int, steps: Mapping[int, Mapping[int, str]]) -> None:
        self.vehicles, self._steps = vehicles, steps

    def present(self, now: float) -> np.ndarray:
        return np.ones(self.vehicles, np.bool_)

    def present_ids(self, now: float) -> range:
        return range(self.vehicles)

    def next_change(self, now: float) -> float:
        return math.inf

    def outcomes(
        self, vehicles: Any, round_: int, now: float, download_s: Any, train_s: Any, upload_s: Any
    ) -> Outcomes:
        told = self._steps.get(round_, {})
        rows = [_PLACES.get(told.get(v, "stay")) for v in vehicles.tolist()]
        stage = np.array([STAYED if row is None else STAGES.index(row[0]) for row in rows])
        share = np.array([0.0 if row is None else row[1] for row in rows])
        return leaving_in(timelines(now, download_s, train_s, upload_s), stage, share)


@dataclass
class Notes:
    """A log that remembers what it was told. drawn: what it says the beacon is, None for the true one."""

    entries: list[tuple[Any, ...]] = field(default_factory=list)
    beacons: dict[bytes, bytes] = field(default_factory=dict)
    drawn: bytes | None = None
    announced: set[bytes] = field(default_factory=set)

    def round(
        self,
        announcement: Announcement,
        protocol: str,
        committee_hash: bytes = b"",
        versions: Sequence[int] = (),
    ) -> None:
        self.entries.append(("round", announcement.round_id, protocol, committee_hash))
        self.announced.add(announcement.digest)

    def round_check(self, announced: Announcement) -> None:
        if announced.digest not in self.announced:
            raise VehicleError("the log does not announce this round")

    def committee_check(self, committee: Committees) -> None:
        if committee.beacon != self.epoch(committee.epoch, committee.pool):
            raise VehicleError("the committee's randomness is not the log's")

    def keys(self, round_id: bytes, vehicles: int, commitment: bytes) -> bytes:
        self.entries.append(("keys", round_id, vehicles, commitment))
        self.beacons[commitment] = hashlib.sha256(b"beacon" + commitment).digest()
        return self.drawn or self.beacons[commitment]

    def beacon_check(self, commitment: bytes, beacon: bytes) -> None:
        if self.beacons.get(commitment) != beacon:
            raise VehicleError("the round's randomness is not the log's")

    def participation(self, round_id: bytes, list_hash: bytes, vehicles: Sequence[int]) -> None:
        self.entries.append(("participation", round_id, tuple(vehicles)))

    def transcript(self, round_id: bytes, transcript: bytes, released: bool) -> None:
        self.entries.append(("transcript", round_id, transcript, released))

    def epoch(self, epoch: int, nodes: Sequence[int]) -> bytes:
        return hashlib.sha256(b"epoch").digest()

    def all(self, kind: str) -> list[tuple[Any, ...]]:
        return [entry for entry in self.entries if entry[0] == kind]


@dataclass(frozen=True)
class Complete(Terms):
    """Everybody is everybody's neighbour; `threshold` of them open a secret."""

    threshold: int = 2

    def graph(self, n: int) -> GraphParameters:
        if n - 1 < self.threshold:
            raise ValueError(f"no graph of {n} vehicles is safe")
        return GraphParameters(n, n - 1, self.threshold)


@dataclass(frozen=True)
class Small(Settings):
    """Settings for fleets of a few: the complete graph."""

    threshold: int = 2

    @property
    def policy(self) -> Terms:
        return Complete(self.n_min, self.gamma, self.delta, self.adversary, self.extras, self.threshold)


class Members(Council):
    """A committee in which members `gone[kind]` do not answer what they are asked then."""

    gone: Mapping[secure_once.Kind, Collection[int]]
    _kind: secure_once.Kind

    def ask(
        self, round_: int, announced: Announcement, kind: secure_once.Kind, messages: Mapping[int, bytes]
    ) -> dict[int, bytes]:
        self._kind = kind
        return super().ask(round_, announced, kind, messages)

    def present(self, round_: int) -> frozenset[int]:
        return frozenset(self._nodes).difference(self.gone.get(self._kind, ()))


Change = Callable[[int, int, bytes], bytes]
"""(vehicle, trip, what it says) -> what it says instead; trip 1 answers the task."""


class Tampered(Veil):
    """Vehicles that lie, or are lied to; why: what made a vehicle refuse, by vehicle."""

    says: Change | None = None
    hears: Change | None = None
    told: Callable[[Asked], Asked] | None = None

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.why: dict[int, str] = {}
        self.said: dict[tuple[int, int], bytes] = {}

    def first(self, asked: Asked, contribution: bytes) -> bytes:
        if self.told is not None:
            asked = self.told(asked)
        return self._noted(asked.index, 1, lambda: super(Tampered, self).first(asked, contribution))

    def answer(self, index: int, trip: int, data: bytes) -> bytes:
        if self.hears is not None:
            data = self.hears(index, trip, data)
        return self._noted(index, trip, lambda: super(Tampered, self).answer(index, trip, data))

    def _noted(self, index: int, trip: int, work: Callable[[], bytes]) -> bytes:
        try:
            data = work()
        except VehicleError as error:
            self.why[index] = str(error)
            raise
        if self.says is not None:
            data = self.says(index, trip, data)
        self.said[index, trip] = data
        return data


@lru_cache(maxsize=1)
def identities() -> SimulatedFleet:
    """One CA for all tests: who makes keys anew spends more on that than on the round."""
    return SimulatedFleet(None)


@dataclass
class World:
    """A fleet of n vehicles that send vectors of their own, under a protocol.

    steps: by round and vehicle, where it falls silent; gone: by question, the members that do not answer.
    """

    n: int
    protocol: str = "secagg+"
    n_min: int = 2
    threshold: int = 2
    bits: Any = 32
    steps: Mapping[int, Mapping[int, str]] = field(default_factory=dict)
    gone: Mapping[secure_once.Kind, Collection[int]] = field(default_factory=dict)
    quorum: float = 0.01
    cohort: int = 0
    seed: int = 0
    rotate: bool = False
    strategy: Strategy[Any] | None = None
    numbers: int = NUMBERS
    per_version: int = 0
    uplink_mbit: float = 0.01

    def __post_init__(self) -> None:
        if self.strategy is None:
            channels = (Channel("delta", clip=3.0), Channel("own", size=2, weight="one", clip=1.0))
            self.strategy = replace(fedavg(), channels=channels)
        self.settings = Small(
            self.protocol,
            self.n_min,
            most_weight=40.0,
            bits=self.bits,
            rotate=self.rotate,
            delta=0.3,
            threshold=self.threshold,
            per_version=self.per_version,
        )  # type: ignore[arg-type]
        self.log, self.clock = Notes(), VirtualClock()
        members = {"members": 7, "corrupt": 2} if self.protocol == "one-shot" else {}
        privacy = Privacy(
            channel="secagg",
            protocol=self.protocol,  # type: ignore[arg-type]
            secagg=Secagg(n_min=self.n_min, per_version=self.per_version),
            committee=Committee(**members),
        )
        general = SimpleNamespace(seed=self.seed)
        experiment: Any = SimpleNamespace(privacy=privacy, experiment=general)
        self.council: Any = None
        if self.protocol != "secagg+":
            self.council = Members(experiment, identities(), self.log)  # type: ignore[arg-type]
            self.council.gone = self.gone
        workshop: Any = SimpleNamespace(
            fleet=identities(),
            strategy=self.strategy,
            sharing=SimpleNamespace(size=self.numbers),
            decode=decode_task,
            experiment=experiment,
        )
        self.veil = Tampered(workshop, self.settings, self.log, self.council)  # type: ignore[arg-type]
        self.grid = InlineGrid(
            self._app(),
            Told(self.n, self.steps),
            Pace(
                self.n,
                1,
                seconds_per_example=1.0,
                spread=0.3,
                uplink_mbit=self.uplink_mbit,
                downlink_mbit=1.0,
            ),
            np.full(self.n, 20),
            self.clock,
            lambda i: Context(RUN_ID, node_of(i), {"partition-id": i}, RecordDict(), {}),
        )
        self.grid.veil = self.veil
        aggregator = identities().aggregator
        self.secrecy = Secrecy(
            self.settings,
            identities().trust,
            aggregator.key,
            aggregator.certificate,
            self.log,
            identities().now,
            council=self.council,
        )
        self.sums: list[tuple[np.ndarray, int]] = []
        """Totals in the ring that were read, and of how many."""

    def _app(self) -> ClientApp:
        app = ClientApp()

        @app.train()
        def train(message: Message, context: Context) -> Message:
            task = decode_task(wire_of(message))
            sent = encode(self.contribution(task, int(context.node_config["partition-id"])))
            return Message(RecordDict({RECORD: ConfigRecord({RECORD: sent})}), reply_to=message)

        return app

    def contribution(self, task: TaskMessage, index: int) -> ContributionMessage:
        """What vehicle `index` trained: the same whenever it is asked in this round."""
        assert self.strategy is not None
        rng = np.random.default_rng((self.seed, task.round, task.pass_number, index))
        vectors = {}
        for channel in self.strategy.channels:
            size = self.numbers if channel.size == "shared" else channel.size
            raw = rng.normal(size=size)
            norm = np.linalg.norm(raw) / (0.9 * (channel.clip or 1.0) * rng.random())
            vectors[channel.name] = (raw / norm).astype(np.float32)
        return ContributionMessage(
            run=task.run,
            round=task.round,
            version=task.version,
            pass_number=task.pass_number,
            vehicle=node_of(index),
            upload=f"{task.round}-{index}",
            examples=1 + index % 40,
            steps=5,
            loss=float(rng.normal(1.0)),
            vectors=vectors,
        )

    def facts(self, round_: int) -> Facts:
        return Facts(round_, round_ - 1, self.n, self.cohort or self.n)

    def play(self, monkeypatch: Any, round_: int = 1, state: Any = None) -> tuple[Any, RoundOutcome]:
        """A round: the state after it and the outcome."""
        assert self.strategy is not None
        facts = self.facts(round_)
        if state is None:
            state = self.strategy.init(np.zeros(self.numbers, np.float32), facts)
        plan = RoundPlan(
            "masked",
            facts,
            np.arange(1, self.n + 1, dtype=np.int64),
            Policy(cohort=facts.cohort, quorum=self.quorum, min_s=500.0, max_s=500.0),
            secrecy=self.secrecy,
        )
        true, seen = SumForm.decode, self.sums

        def decode(form: SumForm, total: Any, count: int) -> Any:
            seen.append((total.copy(), count))
            return true(form, total, count)

        with monkeypatch.context() as patch:
            patch.setattr(SumForm, "decode", decode)
            found = run_round(self.strategy, state, plan, self.grid, self.clock)
        self.grid.forget(round_)
        return found

    def form(self, most: int | None = None, round_: int = 1, pass_: int = 1) -> SumForm:
        assert self.strategy is not None
        return self.settings.form(
            self.strategy.channels,
            self.strategy.sizes(self.numbers),
            most=max(self.n if most is None else most, self.n_min),
            about=f"masked/{round_}/{pass_}",
            variance=0.0 if self.council is None else self.council.variance,
        )

    def encoded(self, index: int, form: SumForm, round_: int = 1, pass_: int = 1) -> np.ndarray:
        """What vehicle `index` puts under its mask, uint32 [numbers]."""
        assert self.strategy is not None
        facts = replace(self.facts(round_), pass_number=pass_)
        task = TaskMessage("masked", round_, round_ - 1, self.n, facts.cohort, pass_, {}, {})
        work = Work(b"", task, self.numbers, self.contribution(task, index), index, self.seed)
        return Encoder(self.settings, self.strategy).encoded(form, work)

    def plain(self, indices: Collection[int], form: SumForm | None = None, round_: int = 1) -> np.ndarray:
        """The sum of what these put under their masks, mod 2^bits."""
        form = form or self.form()
        total = np.zeros(form.numbers, np.uint32)
        for index in indices:
            total += self.encoded(index, form, round_)
        return total & np.uint32(2**self.bits - 1)

    def mean(self, indices: Collection[int], round_: int = 1, *, equal: bool = False) -> np.ndarray:
        """The weighted mean of what these trained, in float64: what plain FedAvg would add to the model.

        equal: every vehicle alike.
        """
        assert self.strategy is not None
        task = TaskMessage("masked", round_, round_ - 1, self.n, self.n, 1, {}, {})
        rows = [self.contribution(task, index) for index in indices]
        weights = [
            self.strategy.weight(Header(one.examples, one.steps, one.version), self.facts(round_))
            for one in rows
        ]
        total: np.ndarray = np.average(
            [row.vectors["delta"] for row in rows], axis=0, weights=None if equal else weights
        )
        return total

    def inside(self, round_: int = 1) -> set[int]:
        """Whose vector, or one message, comes whole, by what was said of them."""
        told = self.steps.get(round_, {})
        return {v for v in range(self.n) if told.get(v, "stay") in INSIDE[self.protocol]}

    def apart(self, one: np.ndarray, two: np.ndarray) -> np.ndarray:
        """The differences of two sums, as whole numbers near 0."""
        half = 1 << (self.bits - 1)
        return (one.astype(np.int64) - two.astype(np.int64) + half) % (2 * half) - half
