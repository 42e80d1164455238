"""Masked buffers of a fleet that does not train: server, grid, agents and committee are the real ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from carpool.client.secure import Encoder, Work
from carpool.privacy.secagg.sumform import SumForm
from carpool.privacy.wire import TaskMessage
from carpool.server.board import Board
from carpool.server.buffer import Counted
from carpool.server.buffered import steps
from carpool.server.secure import SecurePass
from carpool.server.secure_buffered import Tray
from carpool.server.training import Plan, Training, begin
from carpool.strategies.contract import Channel, Facts, Strategy
from carpool.strategies.deadline import Policy
from carpool.strategies.fedbuff import fedbuff
from carpool.strategies.staleness import discount
from tests.experiments.masked_fleet import World
from tests.server.fleet import Watch

CHANNELS = (Channel("delta", clip=3.0), Channel("own", size=2, weight="one", clip=1.0))


def buffered(buffer: int, **options: Any) -> Strategy[Any]:
    """FedBuff with a second channel, which is never discounted."""
    return replace(fedbuff(buffer=buffer, **options), channels=CHANNELS)


@dataclass(frozen=True)
class Step:
    """A buffer that has closed: who is in its sum, by what the server knows, and what was read of it."""

    facts: Facts
    form: SumForm
    counted: tuple[Counted, ...]
    found: SecurePass
    tray: Tray


@dataclass
class Buffers(World):
    """A fleet without rounds. concurrency: vehicles under way; trays: the steps so far."""

    protocol: str = "one-shot"
    concurrency: int = 6
    max_s: float = 500.0
    trays: list[Step] = field(default_factory=list)
    watch: Watch = field(default_factory=Watch)

    def __post_init__(self) -> None:
        if self.strategy is None:
            self.strategy = buffered(3)
        super().__post_init__()
        self.board = Board()
        self.veil._board = self.board
        self.secrecy = replace(self.secrecy, board=self.board)

    def plan(self, count: int) -> Plan:
        return Plan(
            run="masked",
            seed=7 + self.seed,
            rounds=count,
            population=self.n,
            cohort=self.concurrency,
            over_select=0.0,
            policy=Policy(cohort=self.concurrency, max_s=self.max_s),
            concurrency=self.concurrency,
            secrecy=self.secrecy,
        )

    def start(self, count: int) -> Training:
        assert self.strategy is not None
        return begin(self.strategy, np.zeros(self.numbers, np.float32), self.plan(count))

    def run(self, monkeypatch: Any, count: int, training: Training | None = None) -> Training:
        """So many steps."""
        assert self.strategy is not None
        close, decode = Tray.close, SumForm.decode

        def closing(tray: Tray, full: bool) -> SecurePass:
            found = close(tray, full)
            form = tray.group.opening.form
            assert isinstance(form, SumForm)
            self.trays.append(Step(tray.office.facts, form, tuple(tray.buffer.counted), found, tray))
            return found

        def decoding(form: SumForm, total: Any, size: int) -> Any:
            self.sums.append((total.copy(), size))
            return decode(form, total, size)

        now = training or self.start(count)
        with monkeypatch.context() as patch:
            patch.setattr(Tray, "close", closing)
            patch.setattr(SumForm, "decode", decoding)
            for after in steps(self.strategy, now, self.plan(count), self.grid, self.clock, self.watch):
                now = after
        return now

    def sent(self, one: Counted, facts: Facts) -> tuple[TaskMessage, Any]:
        """The task of a contribution, without its vectors, and what was trained."""
        task = TaskMessage("masked", one.ask.round, one.ask.version, self.n, facts.cohort, 1, {}, {})
        return task, self.contribution(task, one.ask.node - 1)

    def ring(self, step: Step) -> np.ndarray:
        """The sum of what those inside put under their masks, mod 2^bits: staleness weights and all."""
        assert self.strategy is not None
        total = np.zeros(step.form.numbers, np.uint32)
        for one in step.counted:
            task, trained = self.sent(one, step.facts)
            work = Work(b"", task, self.numbers, trained, one.ask.node - 1, self.seed)
            total += Encoder(self.settings, self.strategy).encoded(step.form, work, step.facts.version)
        return total & np.uint32(2**self.bits - 1)

    def plain_step(self, step: Step) -> np.ndarray:
        """FedBuff's step in float64 from what was trained, by formula: a mean of s(tau) delta."""
        s = discount("polynomial", 0.5, 4.0)
        rows = []
        for one in step.counted:
            _, trained = self.sent(one, step.facts)
            rows.append(s(step.facts.version - one.ask.version) * trained.vectors["delta"].astype(np.float64))
        mean: np.ndarray = np.mean(rows, axis=0)
        return mean


def totals(record: Mapping[str, Any]) -> int:
    """Those of a record's asks that are accounted for."""
    told = record["asynchrony"]
    return int(record["replied"] + record["refused"] + told["silent"] + told["too_old"])


def spread(count: int) -> float:
    """8 standard deviations of one-shot's error in a number of a sum of so many, steps."""
    return 8 * 4 * math.sqrt(count)
