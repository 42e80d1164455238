"""Worker processes of one thread each, which share the data with this process and train units of a cohort.

They measure the fleet's model, too, where the validation samples lie among those that are shared. Camera
frames are mapped, not copied, see `shared_data.py`. A worker that dies is replaced, and its unit is done
again; a unit depends on nothing but the task and the vehicles in it, so the result is the same whoever
computes it. Workers end when this process does.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carpool.client.camera.fleetdata import PooledFleet
from carpool.experiments.cohort import Member
from carpool.experiments.config import Experiment
from carpool.experiments.forks import context, end
from carpool.experiments.measuring import Batches, measure_parts
from carpool.experiments.shared_data import Blocks, SharedData, SharedFleet
from carpool.privacy.errors import RunError, StrategyError

if TYPE_CHECKING:
    from carpool.experiments.workshop import Workshop

Unit = list[Member] | Batches
"""Vehicles to be trained together, or batches of the validation samples."""
Arguments = tuple[Experiment, str, SharedData | None, Path | None]
TRIES = 3
"""Workers that one unit may kill before the run stops: then it is the unit's fault."""


def serve(
    connection: Connection, experiment: Experiment, run: str, data: SharedData | None, folder: Path | None
) -> None:
    """A worker's life: open the workshop, then answer (wire, unit) with the unit's answers until the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is this process's parent's to handle
    from carpool.experiments.workshop import Workshop

    fleet = None if data is None else SharedFleet(data)
    workshop = Workshop(experiment, run, data=fleet, folder=folder)
    wire = b""
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            given, unit = connection.recv()
            wire = given if given is not None else wire
            connection.send(done(workshop, wire, unit))


def done(workshop: Workshop, wire: bytes, unit: Unit) -> list[Any] | str:
    """The unit's answers; in words, what the strategy did that its contract forbids."""
    try:
        if isinstance(unit, Batches):
            return list(measure_parts(workshop, wire, unit))
        return list(workshop.work(wire, unit))
    except StrategyError as error:
        return str(error)


class Worker:
    """One process and its pipe."""

    def __init__(self, context: ForkServerContext | SpawnContext, arguments: Arguments) -> None:
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, *arguments), daemon=True)
        self.process.start()
        other.close()
        self.wire: bytes | None = None
        self.unit: Unit | None = None

    def begin(self, wire: bytes, unit: Unit) -> None:
        """Send a unit; the task goes along once a round."""
        self.unit = unit
        self.connection.send((None if self.wire is wire else wire, unit))
        self.wire = wire

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self.connection.close()
        self.process.kill()
        self.process.join()


class WorkerPool:
    """`count` workers for an experiment; `train` gives every unit's answers in the order of the units."""

    def __init__(
        self,
        experiment: Experiment,
        run: str,
        fleet: object,
        count: int,
        folder: Path | None = None,
        device: str = "cpu",
    ) -> None:
        self._blocks = Blocks()
        shared = self._blocks.fleet(fleet) if isinstance(fleet, PooledFleet) else None
        self._arguments = (experiment, run, shared, folder)
        self.count, self._context = count, context(device)
        self.validates = shared is not None and shared.held is not None
        self._workers = [Worker(self._context, self._arguments) for _ in range(count)]

    @property
    def pids(self) -> list[int]:
        """Process ids, for tests that kill."""
        return [worker.process.pid or 0 for worker in self._workers]

    def train(self, wire: bytes, units: Sequence[Unit]) -> list[list[Any]]:
        """Answers of every unit (see `Workshop.work` and `measure_parts`).

        Raises RunError if a unit kills its workers, StrategyError where the strategy breaks its contract.
        """
        waiting = deque(range(len(units)))
        tries = [0] * len(units)
        answers: dict[int, list[Any]] = {}
        busy: dict[int, int] = {}
        while len(answers) < len(units):
            for place in range(len(self._workers)):
                if place not in busy and waiting:
                    number = waiting.popleft()
                    tries[number] += 1
                    if tries[number] > TRIES:
                        raise RunError(
                            f"{TRIES} workers died at the same work ({str(units[number])[:80]}); free "
                            "memory, or set experiment.workers = 1"
                        )
                    busy[place] = number
                    self._begin(place, wire, units[number])
            for place in self._ready(list(busy)):
                number = busy.pop(place)
                try:
                    answer: list[Any] | str = self._workers[place].connection.recv()
                except (EOFError, ConnectionError):
                    self._replace(place)
                    waiting.appendleft(number)
                    continue
                if isinstance(answer, str):  # training it once more would end the same way
                    raise StrategyError(answer)
                answers[number] = answer
        return [answers[number] for number in range(len(units))]

    def _begin(self, place: int, wire: bytes, unit: Unit) -> None:
        # A worker that died idle is noticed here, or when its answer does not come.
        if not self._workers[place].process.is_alive():
            self._replace(place)
        with suppress(BrokenPipeError, ConnectionError):
            self._workers[place].begin(wire, unit)

    def _ready(self, places: Sequence[int]) -> list[int]:
        """Workers that have answered or died."""
        waited: dict[Any, int] = {}
        for place in places:
            worker = self._workers[place]
            waited[worker.connection] = waited[worker.process.sentinel] = place
        return sorted({waited[thing] for thing in wait(list(waited))})

    def _replace(self, place: int) -> None:
        self._workers[place].end()
        self._workers[place] = Worker(self._context, self._arguments)

    def close(self) -> None:
        """End every worker and remove the shared memory."""
        for worker in self._workers:
            worker.end()
        self._workers.clear()
        self._blocks.close()
        end()
