"""Example-level noise (`sgd`) in a run: how much of it, what it has cost, and the vehicles' own odometers.

    sizes, [train], target -> noise multiplier -> Examples     the trainer, and what a round costs a vehicle
                                               -> Record       the server: whom it asked, epsilon so far
                                               -> Odometers    the vehicles: charged before they train

RUN/noise.json      the noise that was found for the target; it is checked again before it is used
RUN/participation   whom the server asked in which round, on disk before anybody is asked

Epsilon of a round is that of the dearest vehicle, with every round that it was ASKED in, whatever came of
it: by Rényi's bound, and in the last round by the sharper accountant. The noise is enough for a vehicle that
is asked in every round. The ledger has one charge a round: that of the vehicle that would pay most by the
end, as if it had been asked; its epsilon is no less than the records'.
Not covered: in the ledger of a fleet whose vehicles are of several sizes, several experiments need not have
the same dearest vehicle; `vehicle_epsilon` is counted by each vehicle for itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from carpool.client.camera.samples import Rows, Schema, Shard
from carpool.client.dpsgd import ExampleNoise, private_trainer, training_of
from carpool.client.flat import FlatModel
from carpool.client.paths import made_up
from carpool.client.trainer import LocalTrainer, TrainSettings
from carpool.experiments.asked import node_of
from carpool.experiments.config import Experiment
from carpool.experiments.guard import capped
from carpool.experiments.private_noise import PARTICIPATION
from carpool.experiments.runfolder import read_json, write_json
from carpool.privacy.dp import accounting, example_level
from carpool.privacy.dp.budget import quick
from carpool.privacy.dp.events import Event, Relation
from carpool.privacy.dp.example_level import Spent, Training
from carpool.privacy.dp.grid import check_noise
from carpool.privacy.dp.ledger import Accountant, tight
from carpool.privacy.dp.odometer import Cap, Part, take_part
from carpool.privacy.dp.odometerfile import FileOdometer
from carpool.privacy.dp.participation import ParticipationFile
from carpool.privacy.dp.schema import Schema as Participations
from carpool.privacy.errors import ConfigError, PrivacyRefused, RunError, UsageError, VehicleError

if TYPE_CHECKING:
    from carpool.server.private import Private

NOISE = "noise.json"
SLACK = 1 + 1e-9
"""Of a target, for the last bits of sums in another order."""


@dataclass(frozen=True)
class Examples:
    """Example-level training of a fleet. sizes: examples of each vehicle, int64 [vehicles].

    event: one round of the vehicle that pays most by the end.
    """

    sizes: Rows
    training: Training
    noise: ExampleNoise
    rounds: int
    delta: float
    relation: Relation
    event: Event

    @cached_property
    def trainer(self) -> type[LocalTrainer]:
        """What trains the vehicles."""
        return private_trainer(self.noise)

    def try_on(self, model: FlatModel, schema: Schema, settings: TrainSettings) -> None:
        """Raise ConfigError for a model that cannot be trained example by example."""
        shard = Shard(made_up(schema, 1), np.zeros(1, np.int64))
        self.trainer(model, [shard], settings, [np.random.default_rng(0)])

    def part(self, vehicle: int) -> Part:
        """One round of vehicle 0, 1, ... for its own odometer; raises ValueError where it has no examples."""
        return self.training.part(self.noise.noise_multiplier, int(self.sizes[vehicle]))

    def spent(self, taken: NDArray[np.int64], accountant: accounting.Choice = "rdp") -> float:
        """Epsilon of the dearest vehicle; taken: rounds that each was asked in, int64 [vehicles]."""
        sizes, of = np.unique(self.sizes, return_inverse=True)
        most = np.zeros(len(sizes), np.int64)
        np.maximum.at(most, of, taken)
        most[sizes < 1] = 0  # they have nothing to train on, and nothing to hide
        noise = self.noise.noise_multiplier
        return spent_by(sizes, most, self.training, noise, self.delta, self.relation, accountant).epsilon


def spent_by(
    sizes: NDArray[np.int64],
    rounds: NDArray[np.int64],
    training: Training,
    noise: float,
    delta: float,
    relation: Relation,
    accountant: accounting.Choice = "auto",
) -> Spent:
    """`example_level.spent` of arrays."""
    return example_level.spent(
        sizes.tolist(), rounds.tolist(), training, noise, delta, relation, accountant=accountant
    )


def examples_for(
    experiment: Experiment, sizes: Rows, settings: TrainSettings, folder: Path | None = None
) -> Examples | None:
    """Example-level training as the experiment asks for it, None where it does not.

    folder: of the run, where the noise that was found is kept. Raises ConfigError where no noise will do.
    """
    if experiment.privacy.dp.mechanism != "sgd":
        return None
    try:
        return _found(experiment, sizes, settings, folder)
    except (ValueError, ArithmeticError, UsageError) as error:
        raise ConfigError([f"[privacy.dp]: {error}"]) from error


def _found(experiment: Experiment, sizes: Rows, settings: TrainSettings, folder: Path | None) -> Examples:
    dp, rounds, training = experiment.privacy.dp, experiment.experiment.rounds, training_of(settings)
    alike = np.unique(sizes[sizes > 0])
    if not len(alike):
        raise ValueError("no vehicle has an example to train on")
    often = np.full(len(alike), rounds)

    def worst(noise: float, accountant: accounting.Choice = "auto") -> Spent:
        return spent_by(alike, often, training, noise, dp.delta, dp.relation, accountant)

    if dp.noise_multiplier:
        noise = dp.noise_multiplier
        check_noise(noise)
        dearest = worst(noise, "rdp")
    else:
        noise, dearest = kept_noise(folder), Spent(math.inf, dp.delta, -1, "rdp")
        if noise:
            dearest = worst(noise)
        if not dearest.epsilon <= dp.epsilon * SLACK:  # also where somebody has changed the file
            noise = example_level.noise_multiplier(
                alike.tolist(), often.tolist(), training, dp.epsilon, dp.delta, dp.relation
            )
            dearest = worst(noise)
            keep_noise(folder, noise)
    size = int(alike[max(0, dearest.vehicle)])
    found = ExampleNoise(dp.clip_norm, noise, seeded=dp.randomness == "seeded")
    return Examples(sizes, training, found, rounds, dp.delta, dp.relation, training.event(noise, size))


def kept_noise(folder: Path | None) -> float:
    """The noise that was found before, 0 where none was, or none that can be used."""
    if folder is None or not (folder / NOISE).is_file():
        return 0.0
    try:
        noise = float(read_json(folder / NOISE)["noise_multiplier"])
        check_noise(noise)
    except (RunError, LookupError, TypeError, ValueError):
        return 0.0  # it is found anew
    return noise


def keep_noise(folder: Path | None, noise: float) -> None:
    """For workers and for a resumed run: finding it takes seconds."""
    if folder is not None and folder.is_dir():
        write_json(folder / NOISE, {"noise_multiplier": noise})


class Record:
    """Whom the server asked, on disk, and what that has cost them; the `schema` of `Private`.

    cap: the most that a vehicle lets itself be charged, 0 for no limit: it is not asked beyond; needed: the
    fewest vehicles that a round needs; halt: told why no more rounds are possible. Raises RunError.
    """

    def __init__(
        self, examples: Examples, folder: Path, cap: float, needed: int, halt: Callable[[str], None]
    ) -> None:
        self._examples, self._cap, self._needed, self._halt = examples, cap, needed, halt
        path, always = folder / PARTICIPATION, Participations(1, examples.rounds)
        self._file = ParticipationFile(path, always, examples.rounds, resume=path.exists())

    def taken(self) -> NDArray[np.int64]:
        """Rounds that each vehicle was asked in, int64 [vehicles]."""
        found, known = np.zeros(len(self._examples.sizes), np.int64), self._file.dump()
        found[known["ids"] - node_of(0)] = known["count"]
        return found

    def allowed(self, ids: NDArray[np.int64], round_: int) -> NDArray[np.bool_]:
        """Which of these can pay for one more round; raises PrivacyRefused where too few of all can."""
        if not self._cap:
            return np.ones(len(ids), np.bool_)
        able = self._able()
        if np.count_nonzero(able) < self._needed:
            why = (
                f"round {round_} needs {self._needed} vehicles, but only {np.count_nonzero(able)} can take "
                f"part in it within privacy.dp.vehicle_epsilon {self._cap:g}; it did not begin and the model "
                "so far stays: plan fewer rounds, more noise or a larger cap"
            )
            self._halt(why)
            raise PrivacyRefused(why)
        return able[ids - node_of(0)]

    def _able(self) -> NDArray[np.bool_]:
        """Of all vehicles, bool [vehicles]."""
        one = self._examples
        kinds, of = np.unique(np.stack((one.sizes, self.taken())), axis=1, return_inverse=True)
        fits = [size > 0 and self._fits(size, count + 1) for size, count in kinds.T.tolist()]
        return np.array(fits)[of.reshape(-1)]

    def _fits(self, size: int, rounds: int) -> bool:
        one = self._examples
        event = one.training.event(one.noise.noise_multiplier, size, rounds)
        return within(event, one.delta, one.relation, self._cap)

    def admit(self, ids: NDArray[np.int64], round_: int) -> None:
        """These are asked; durable when it returns. Whom a killed process admitted to this round is known."""
        known = self._file.dump()
        self._file.admit(np.setdiff1d(ids, known["ids"][known["last"] == round_]), round_)

    def epsilon(self) -> float:
        """Spent so far."""
        accountant: accounting.Choice = "auto" if self._file.latest == self._examples.rounds else "rdp"
        return self._examples.spent(self.taken(), accountant)


@lru_cache(maxsize=4096)
def within(event: Event, delta: float, relation: Relation, most: float) -> bool:
    """Whether an event costs at most so much, by the value that would be reported."""
    return frugal(most)((event,), delta, relation) <= most


@lru_cache(maxsize=64)
def frugal(enough: float) -> Accountant:
    """The reported epsilon, but Rényi's quick bound where that is small enough already."""

    def found(events: Sequence[Event], delta: float, relation: Relation) -> float:
        bound = quick(events, delta, relation)
        return bound if bound <= enough else tight(events, delta, relation)

    return found


def recorded(private: Private, examples: Examples, experiment: Experiment) -> None:
    """Have a run's books count examples: whom it may ask, and the epsilon that its records tell."""
    selection, privacy = experiment.selection, experiment.privacy
    needed = max(1, math.ceil(selection.quorum * selection.cohort - 1e-9))
    if privacy.channel == "secagg":
        needed = max(needed, privacy.secagg.n_min)

    def halt(why: str) -> None:
        private.refused = why

    record = Record(examples, private.folder, privacy.dp.vehicle_epsilon, needed, halt)
    private.schema, private.epsilon = record, record.epsilon
    left = examples.rounds - len(set(private.began))
    if left > 0:  # asked once for the whole, the budget answers every round at once
        one = examples.event
        whole = Event(one.mechanism, one.noise_multiplier, one.sampling_rate, one.count * left)
        private.books.plan(whole)


class Odometers:
    """The vehicles' own counts, files in `folder`: each is charged before it trains, and may refuse."""

    def __init__(self, examples: Examples, cap: Cap, folder: Path) -> None:
        self._examples, self._cap, self._folder = examples, cap, folder

    def charge(self, vehicle: int) -> None:
        """Count one round of vehicle 0, 1, ...; raises VehicleError where it refuses."""
        path, holder = self._folder / f"{vehicle:06}.json", f"vehicle-{node_of(vehicle)}"
        try:
            odometer = FileOdometer(path, holder, self._cap, unit="example", relation=self._examples.relation)
            take_part(self._examples.part(vehicle), odometer)
        except (PrivacyRefused, UsageError) as error:
            raise VehicleError(str(error)) from error


def odometers_of(experiment: Experiment, examples: Examples | None, folder: Path | None) -> Odometers | None:
    """The odometers of a run's vehicles, None where nothing is to be counted, or nowhere."""
    if examples is None or folder is None:
        return None
    own, place = capped(experiment.privacy.dp, folder)
    return Odometers(examples, Cap(own, examples.delta, frugal(own)), place) if own else None
