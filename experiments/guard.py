"""The simulated vehicles' own odometers: each counts what it takes part in, and refuses by itself.

RUN/odometers/000007.json           mode 0600, replaced before anything of a participation leaves
fleet.jsonl.odometers/000007.json   the same beside the ledger of a fleet, if vehicles have a cap of their own
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flwr.serverapp import Grid

from carpool.experiments.asked import Asked, node_of
from carpool.experiments.privacy_config import DP
from carpool.experiments.private import Planned
from carpool.experiments.simulated import SimulatedGrid, Veil
from carpool.privacy.dp.odometer import Cap, Odometer, Part, take_part
from carpool.privacy.dp.odometerfile import FileOdometer
from carpool.privacy.errors import PrivacyRefused, VehicleError
from carpool.privacy.wire import decode_task

if TYPE_CHECKING:
    from carpool.experiments.workshop import Workshop

FOLDER = "odometers"


def guarded(workshop: Workshop, folder: Path, grid: Grid) -> None:
    """Put the odometers before whatever leaves the simulated vehicles, where updates are private."""
    plan, dp = workshop.noise, workshop.experiment.privacy.dp
    if plan is None or plan.examples is not None or not isinstance(grid, SimulatedGrid):
        return  # example-level noise is charged before a vehicle trains, see example_runs.py
    own, place = capped(dp, folder)
    if own:
        grid.veil = Guard(plan, workshop.run[:64], Cap(own, dp.delta), place, grid.veil)


def capped(dp: DP, folder: Path) -> tuple[float, Path]:
    """How much a vehicle lets itself be charged, 0 for no limit, and where the odometers lie."""
    # By itself a vehicle can hold the run to its target only where that counts on nothing but the noise.
    target = 0.0 if dp.noise_multiplier or dp.sampling != "none" else dp.epsilon * (1 + 1e-9)
    own = dp.vehicle_epsilon or target
    if dp.vehicle_epsilon and dp.ledger:
        place = Path(f"{dp.ledger}.{FOLDER}")  # of the fleet: experiments add up on its vehicles, too
    else:
        place = folder / FOLDER
    return own, place


class Guard:
    """Stands before the veil, if there is one. cap: of each vehicle; folder: of the odometers."""

    def __init__(self, planned: Planned, run: str, cap: Cap, folder: Path, veil: Veil | None) -> None:
        self._planned, self._run, self._cap, self._folder, self._veil = planned, run, cap, folder, veil
        self._round: tuple[bytes, int] = (b"", 0)

    @property
    def trips(self) -> bool:
        """Whether more trips follow."""
        return self._veil is not None and self._veil.trips

    def first(self, asked: Asked, contribution: bytes) -> bytes:
        """Count the participation, then let the contribution go on; VehicleError where the cap is reached."""
        try:
            take_part(self._part(asked), self._odometer(asked.index))
        except PrivacyRefused as error:
            raise VehicleError(str(error)) from error
        return contribution if self._veil is None else self._veil.first(asked, contribution)

    def answer(self, index: int, trip: int, data: bytes) -> bytes:
        """What the vehicle answers to a later trip."""
        if self._veil is None:
            raise VehicleError("there is no later trip")
        return self._veil.answer(index, trip, data)

    def forget(self) -> None:
        """The round is over for everybody."""
        if self._veil is not None:
            self._veil.forget()

    def _odometer(self, index: int) -> Odometer:
        p = self._planned.protection
        path = self._folder / f"{index:06}.json"
        return FileOdometer(path, f"vehicle-{node_of(index)}", self._cap, unit=p.unit, relation=p.relation)

    def _part(self, asked: Asked) -> Part:
        plan, event = self._planned, self._planned.event
        if self._round[0] is not asked.wire:
            self._round = asked.wire, decode_task(asked.wire).round
        if plan.plan is None:
            return Part(event, moment=f"{self._run}/{self._round[1]}")
        schema = plan.plan.schema
        return Part(
            event,
            training=self._run,
            round=self._round[1],
            separation=schema.min_separation,
            most=schema.max_participations,
        )
