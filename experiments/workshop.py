"""Everything an experiment needs, opened once a process: data, model, strategy, and what is done with them.

The Flower apps find it by the run's folder, so that the same apps work in this process and in another one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from carpool.client.camera.ondemand import open_fleet
from carpool.client.camera.samples import FleetData, Rows, Shard
from carpool.client.evaluate import Metrics
from carpool.client.memory import VehicleMemory
from carpool.client.paths import TRAINERS
from carpool.client.protect import Protector
from carpool.client.schedule import learning_rate
from carpool.client.step import Vehicle, contribute_all, local_task
from carpool.experiments.adaptive_clip import bit_of, clipping
from carpool.experiments.attacks import attackers_of
from carpool.experiments.cohort import PREPARED, Answer, Member, Ready, encoded, units, weighed
from carpool.experiments.config import Experiment
from carpool.experiments.example_runs import Odometers, examples_for, odometers_of
from carpool.experiments.load import data_settings, load_experiment
from carpool.experiments.masking import settled
from carpool.experiments.measuring import Measure
from carpool.experiments.parts import build_model, check_precision, pick_batching, share, train_settings
from carpool.experiments.picking import build_selector, strata
from carpool.experiments.private import planned, widened
from carpool.experiments.process import set_process
from carpool.experiments.runfolder import CONFIG, MEMORY, run_identity
from carpool.experiments.sealing import Sealing
from carpool.experiments.simfleet import SimulatedFleet
from carpool.experiments.workers import WorkerPool
from carpool.experiments.wrapping import build_strategy
from carpool.privacy.errors import VehicleError
from carpool.privacy.spans import span, timed, undivided
from carpool.privacy.vectors import Vector
from carpool.privacy.wire import TaskMessage, decode_task
from carpool.server.selectors.contract import Selector
from carpool.server.training import Plan
from carpool.strategies.contract import LocalTask
from carpool.strategies.deadline import Policy

Progress = Callable[[int, int], None]


class Workshop:
    """An experiment with data, model and strategy; folder: of the run, where vehicles keep their memory."""

    def __init__(
        self,
        experiment: Experiment,
        run: str,
        progress: Progress | None = None,
        data: FleetData | None = None,
        folder: Path | None = None,
    ) -> None:
        set_process()
        self.experiment = experiment
        self.run, self.folder = run, folder
        with span("data"):
            self.data: FleetData = data or open_fleet(
                data_settings(experiment), experiment.fleet.vehicles, progress=progress
            )
        self.strategy = build_strategy(experiment)
        self.model = build_model(experiment, self.data)
        self.sharing = share(self.strategy, self.model.layout)
        self.settings = train_settings(experiment)
        self.examples = examples_for(experiment, self.data.sizes, self.settings, folder)
        sizes = {**self.strategy.sizes(self.sharing.size), **bit_of(experiment)}
        self.noise = planned(experiment, sizes, self.examples)
        self.strategy = clipping(self.strategy, self.noise, experiment)
        self.strategy = widened(self.strategy, self.noise, self.sharing.size)
        self.attackers = attackers_of(experiment, self.strategy, self.data.schema)
        check_precision(self.settings, self.model, self.data.schema)
        if self.examples is not None:
            self.examples.try_on(self.model, self.data.schema, self.settings)
        with undivided("other"):  # a trial trains, too
            self.batching = pick_batching(experiment, self.model, self.data.schema, self.settings)
        self._task: tuple[bytes, TaskMessage] | None = None
        self._local: tuple[TaskMessage, LocalTask] | None = None
        self._ahead: deque[tuple[bytes, dict[int, bytes | str]]] = deque(
            maxlen=None if self.strategy.buffer else PREPARED
        )
        self._pool: WorkerPool | None = None
        self._measure = Measure(self.model)

    def settle(self) -> None:
        """Write what was found out into the configuration, so that a resumed run takes the same path."""
        train = self.experiment.train.model_copy(update={"batching": self.batching})
        privacy = settled(self.experiment, self.strategy, self.data.sizes)
        if privacy.dp.ledger:  # found again from wherever the run is resumed
            dp = privacy.dp.model_copy(update={"ledger": str(Path(privacy.dp.ledger).absolute())})
            privacy = privacy.model_copy(update={"dp": dp})
        self.experiment = self.experiment.model_copy(update={"train": train, "privacy": privacy})

    @cached_property
    def initial(self) -> Vector:
        """The first model, float32 [d], from the seed."""
        return build_model(self.experiment, self.data).numpy()

    @property
    def plan(self) -> Plan:
        """What the server is to do."""
        general, selection = self.experiment.experiment, self.experiment.selection
        return Plan(
            run=self.run,
            seed=general.seed,
            rounds=general.rounds,
            population=self.experiment.fleet.vehicles,
            cohort=selection.cohort,
            over_select=selection.over_select,
            policy=Policy(
                cohort=selection.cohort,
                quorum=selection.quorum,
                mads=selection.deadline_mads,
                min_s=selection.deadline_min_s,
                max_s=selection.deadline_max_s,
            ),
            evaluate_every=general.evaluate_every,
            sharing=self.sharing,
            selector=self._selector,
            stratum=self._stratum,
            concurrency=self.experiment.asynchrony.concurrency,
        )

    @cached_property
    def _selector(self) -> Selector:
        return build_selector(self.experiment)

    @cached_property
    def _stratum(self) -> Callable[[int], str] | None:
        return strata(self._selector, self.data)

    @cached_property
    def _protector(self) -> Protector | None:
        if self.noise is None:
            return None
        protection, seed = self.noise.protection, self.experiment.experiment.seed
        return Protector(protection, seed)

    @cached_property
    def _odometers(self) -> Odometers | None:
        return odometers_of(self.experiment, self.examples, self.folder)

    @cached_property
    def fleet(self) -> SimulatedFleet:
        """Everybody's keys and certificates; they lie in the run's folder."""
        return SimulatedFleet(self.folder)

    @cached_property
    def sealing(self) -> Sealing | None:
        """Seals what vehicles send and opens it, where the experiment asks for that."""
        return Sealing(self.fleet) if self.experiment.privacy.channel == "sealed" else None

    def decode(self, wire: bytes) -> TaskMessage:
        """The task; decoded once for the vehicles of this process that are sent the very same bytes."""
        if self._task is None or self._task[0] is not wire:
            self._task = (wire, decode_task(wire))
        return self._task[1]

    def local(self, task: TaskMessage) -> LocalTask:
        """The task's vectors as tensors; made once for the vehicles of this process with this task."""
        if self._local is None or self._local[0] is not task:
            self._local = (task, local_task(task, self.model.device))
        return self._local[1]

    def answer(self, wire: bytes, member: Member) -> bytes:
        """The contribution of a vehicle to the task in `wire`; raises VehicleError."""
        ahead = next((answers for known, answers in self._ahead if known is wire), {})
        found = ahead.pop(member.node, None)
        if found is None:
            found = self.attacked([member], {member.node: self.work(wire, [member])[0]})[member.node]
        elif not ahead:
            self._ahead = deque((one for one in self._ahead if one[1]), maxlen=self._ahead.maxlen)
        if isinstance(found, str):
            raise VehicleError(found)
        return found if self.sealing is None else self.sealing.seal(found, self.decode(wire), member.node)

    @property
    def together(self) -> bool:
        """Whether those with the same task are trained together: it is quicker, or attackers conspire."""
        conspire = self.attackers is not None and self.attackers.corrupts
        return not self.apart and (self.batching == "stacked" or conspire)

    @property
    def apart(self) -> bool:
        """Whether each must be trained by itself: an asynchronous run with vehicle memory.

        After a kill those who had replied would be trained again beside the others of their stack, so that
        the bits stay the same; but their memory has moved on.
        """
        return self.strategy.buffer > 0 and self.strategy.memory is not None

    @timed("wire")
    def hand(self, wire: bytes, members: Sequence[Member]) -> list[Ready | VehicleError]:
        """What these vehicles would send, in their order, or why one sends nothing; within this process."""
        task, ready = self.decode(wire), dict[int, Ready | VehicleError]()
        for unit in self.units(members):
            found = weighed(self.contribute(task, unit))
            ready.update(zip((member.node for member in unit), found, strict=True))
        if self.attackers is not None and self.attackers.corrupts:
            honest = {node: one.message if isinstance(one, Ready) else one for node, one in ready.items()}
            changed = self.attacked(members, honest)
            ready = dict(zip(changed, weighed(list(changed.values())), strict=True))
        return [ready[member.node] for member in members]

    def units(self, members: Sequence[Member]) -> list[list[Member]]:
        """The members in units of work."""
        stacked, size = self.batching == "stacked" and not self.apart, self.model.layout.size
        return units(members, self._sizes.item, self.settings, stacked=stacked, size=size)

    @cached_property
    def _sizes(self) -> Rows:
        return self.data.sizes

    def prepare(self, wire: bytes, members: Sequence[Member]) -> None:
        """Train, ahead of their replies, the vehicles whose replies will be needed, where that is quicker."""
        workers = self.experiment.experiment.workers
        if workers == 1 and not self.together:
            return
        cut = self.units(members)
        if workers > 1:
            with span("training"):  # that is, waiting for the workers
                if self._pool is None:
                    shared = (self.experiment, self.run, self.data, workers, self.folder)
                    self._pool = WorkerPool(*shared, self.model.device.type)
                done = self._pool.train(wire, cut)
        else:
            done = [self.work(wire, unit) for unit in cut]
        pairs = zip(cut, done, strict=True)
        answers = {m.node: a for unit, found in pairs for m, a in zip(unit, found, strict=True)}
        self._ahead.append((wire, self.attacked(members, answers)))

    def attacked(self, members: Sequence[Member], answers: dict[int, Any]) -> dict[int, Any]:
        """What the vehicles of a task answer, after the malicious among them have changed theirs."""
        if self.attackers is None:
            return answers
        return self.attackers.corrupt({m.node: m.vehicle for m in members}, answers)

    def close(self) -> None:
        """End worker processes, if there are any."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    @timed("wire")
    def work(self, wire: bytes, unit: Sequence[Member]) -> list[bytes | str]:
        """Train the vehicles of a unit together: each one's contribution, or in words why there is none."""
        return [encoded(one) for one in self.contribute(self.decode(wire), unit)]

    def contribute(self, task: TaskMessage, unit: Sequence[Member]) -> list[Answer]:
        """The vehicles of a unit do their half of a round; here all that they will send exists as objects."""
        if task.run != self.run:
            return [VehicleError(f"the task is of run {task.run}, not of {self.run}")] * len(unit)
        general, train = self.experiment.experiment, self.experiment.train
        lr = learning_rate(
            train.lr,
            task.round,
            general.rounds,
            schedule=train.lr_schedule,
            final=train.lr_final,
            warmup=train.warmup_rounds,
        )
        with span("data"):
            vehicles = [
                Vehicle(node, index, self.shard(index), self.memory(index), ticket, counted)
                for node, index, ticket, counted in unit
            ]
        try:
            if self._odometers is not None:
                for member in unit:
                    self._odometers.charge(member.vehicle)
            return contribute_all(
                task,
                vehicles,
                model=self.model,
                strategy=self.strategy,
                settings=self.settings,
                lr=lr,
                seed=general.seed,
                trainer_type=TRAINERS[self.batching] if self.examples is None else self.examples.trainer,
                local=self.local(task),
                protector=self._protector,
            )
        except VehicleError as error:
            return [error] * len(unit)

    def shard(self, vehicle: int) -> Shard:
        """What vehicle 0, 1, ... trains on, poisoned where it is malicious."""
        shard = self.data.training(vehicle)
        return shard if self.attackers is None else self.attackers.shard(vehicle, shard)

    def memory(self, index: int) -> VehicleMemory | None:
        """Where vehicle `index` keeps what it remembers; None where the run has no folder."""
        return None if self.folder is None else VehicleMemory(self.folder / MEMORY, index, self.run)

    @timed("evaluation")
    def evaluate(self, model: Vector, shard: Shard | None = None) -> Metrics:
        """Figures of a model on `shard`, by default the experimenter's validation data."""
        pool = self._pool if shard is None and self._pool is not None and self._pool.validates else None
        return self._measure(model, self._validation if shard is None else shard, pool)

    @cached_property
    def _validation(self) -> Shard:
        return self.data.validation()


_opened: dict[Path, Workshop] = {}


def remember(folder: Path, workshop: Workshop) -> None:
    """Let the apps of this process use a workshop that is open already; one at a time."""
    _opened.clear()
    _opened[folder.resolve()] = workshop


def open_workshop(folder: Path) -> Workshop:
    """The workshop of a run's folder, opened from its config.toml at the first call in this process."""
    key = folder if folder in _opened else folder.resolve()  # every vehicle of every round comes by here
    if key not in _opened:
        _opened[key] = Workshop(load_experiment(key / CONFIG), run_identity(key), folder=key)
    return _opened[key]


@lru_cache(maxsize=1)
def examples_of(workshop: Workshop) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Training samples of each vehicle, int64 [vehicles]; for the simulator's clock."""
    return workshop.data.sizes
