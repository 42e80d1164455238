"""The vehicle's part in a masked round: what it trained goes into the mask, and it answers the later trips.

    trained contribution - encode -> whole numbers -> mask -> bytes        (privacy/secagg has the protocols)

A vehicle remembers one round at a time; what it held of an earlier one is dropped when a new one begins.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from carpool.privacy import signing
from carpool.privacy.dp.forms import NoisyForm
from carpool.privacy.errors import VehicleError
from carpool.privacy.secagg import announcement as ann
from carpool.privacy.secagg import helpers_vehicle, oneshot_vehicle
from carpool.privacy.secagg import plus_vehicle as plus
from carpool.privacy.secagg.announcement import Announcement
from carpool.privacy.secagg.committee import Committee, decode_committee
from carpool.privacy.secagg.journal import Journal
from carpool.privacy.secagg.masks import Ring
from carpool.privacy.secagg.once_vehicle import Speaker
from carpool.privacy.secagg.plus_policy import Participant
from carpool.privacy.secagg.settings import Settings, buffer_about
from carpool.privacy.secagg.sumform import Form, buffered_digest
from carpool.privacy.spans import timed
from carpool.privacy.wire import ContributionMessage, TaskMessage
from carpool.strategies.contract import Facts, Header, Strategy

LAST = 5
"""The last trip of `secagg+`."""
ROUNDING = 0x5EC466
"""Sets the generator that rounds apart from every other one of a vehicle and round."""


@dataclass(frozen=True)
class Work:
    """What a vehicle was sent and made of it; secret: contribution, not printed.

    wire: the task's bytes; shared: parameters that travel; index: which generator it draws from; seed: of the
    experiment.
    """

    wire: bytes = field(repr=False)
    task: TaskMessage = field(repr=False)
    shared: int
    contribution: ContributionMessage = field(repr=False)
    index: int
    seed: int


@dataclass(frozen=True)
class Encoder:
    """What vehicles make of their contributions before they mask them.

    variance: of the protocol's own error in one vehicle's number, squared steps.
    """

    settings: Settings
    strategy: Strategy[Any]
    variance: float = 0.0

    def form(self, announced: Announcement, work: Work) -> Form:
        """What the numbers of this round mean, by the vehicle's own settings.

        Raises VehicleError where none do, and where the announcement says otherwise.
        """
        task = work.task
        about = f"{task.run}/{task.round}/{task.pass_number}"
        if self.strategy.buffer:
            about = buffer_about(task.run, announced.round_id)
        try:
            form = self.settings.form(
                self.strategy.channels,
                self.strategy.sizes(work.shared),
                most=announced.most,
                about=about,
                variance=self.variance,
                seed=work.seed,
                vehicle=work.index,
            )
        except ValueError as error:
            raise VehicleError(f"the announced round cannot be masked: {error}") from error
        check_form(announced, form)
        return form

    def accepted(self, announced: Announcement, form: Form, work: Work) -> tuple[bytes, int]:
        """The task as it is announced, and the model's version at the step; raises VehicleError.

        A buffer takes tasks of several versions: this vehicle's own must be among them, as it got it.
        """
        version, strategy = work.task.version, self.strategy
        if not strategy.buffer:
            return form.task_hash(work.wire), version
        wire = hashlib.sha256(work.wire).digest()
        for age in range(strategy.max_staleness + 1):
            hashed = buffered_digest(wire, form.encoding(), version + age)
            if hashed in announced.tasks:
                return hashed, version + age
        raise VehicleError(f"the open buffer does not take what was trained from version {version}")

    def encoded(self, form: Form, work: Work, version: int | None = None) -> Ring:
        """The contribution as uint32 [numbers], its weight and loss inside; raises VehicleError.

        version: of the model when it is counted, None: the task's; an older task may count less.
        """
        one, task = work.contribution, work.task
        at = task.version if version is None else version
        facts = Facts(task.round, at, task.population, task.cohort, task.pass_number)
        header = Header(one.examples, one.steps, one.version)
        try:
            weight = float(self.strategy.weight(header, facts))
        except (ArithmeticError, ValueError) as error:
            raise VehicleError(f"a contribution of {one.examples} samples has no weight: {error}") from error
        key = (ROUNDING, task.round, task.pass_number, work.index)
        rng = np.random.default_rng(np.random.SeedSequence(work.seed, spawn_key=key))
        return form.encode(one.vectors, weight, one.loss, rng)


def drawn_by(form: Form) -> Callable[[int], bytes]:
    """What draws the seeds of noise: the operating system, unless the form's own noise is NOT PRIVATE."""
    if isinstance(form, NoisyForm) and not form.source.private:
        return lambda n: form.source.words(-(-n // 4)).tobytes()[:n]
    return secrets.token_bytes


class Agent(Protocol):
    """A vehicle in the protocols."""

    def first(self, announcement: bytes, committee: bytes, work: Work) -> bytes:
        """The answer to a task. Raises VehicleError for what it will not answer."""

    def answer(self, trip: int, data: bytes) -> bytes:
        """The answer to a later trip; raises VehicleError, after which the round is over for it."""

    def forget(self) -> None:
        """The round is over: what was held for its later trips is dropped."""


@dataclass
class PlusAgent:
    """A vehicle in `secagg+`; secret: participant and state, not printed."""

    participant: Participant = field(repr=False)
    encoder: Encoder
    now: Callable[[], float]
    _state: plus.VehicleState | None = field(default=None, repr=False)
    _vector: tuple[Form, Ring] | None = field(default=None, repr=False)
    _update: bytes = field(default=b"", repr=False)

    @timed("privacy")
    def first(self, announcement: bytes, committee: bytes, work: Work) -> bytes:
        """Fresh keys."""
        announced = ann.decode_announcement(announcement)
        self._update = update_name(work, buffered=False)
        refuse_twice(self.participant.journal, self._update, work)
        form = self.encoder.form(announced, work)
        self._state, self._vector = None, None
        vector = self.encoder.encoded(form, work)
        state, answer = plus.begin(self.participant, announced, form.task_hash(work.wire), self.now())
        self._state, self._vector = state, (form, vector)
        return answer

    @timed("privacy")
    def answer(self, trip: int, data: bytes) -> bytes:
        """Trips 2 to 5, in turn."""
        state, self._state = self._state, None
        if state is None:
            raise VehicleError("the vehicle is in no masked round")
        state, answer = self._step(trip, state, data)
        self._state = state if trip < LAST else None
        return answer

    def forget(self) -> None:
        """Drop the vector and the secrets of a round that never came to its end."""
        self._state, self._vector = None, None

    def _step(self, trip: int, state: plus.VehicleState, data: bytes) -> tuple[plus.VehicleState, bytes]:
        if trip == 2 and self._vector is not None:
            participant = replace(self.participant, draw=drawn_by(self._vector[0]))
            return plus.on_roster(participant, state, data, self.now())
        if trip == 3 and self._vector is not None:
            (form, vector), self._vector = self._vector, None
            noisy = form.finish(vector, state.roster_size, state.extras)
            found = plus.on_sealed(self.participant, state, data, noisy)
            self.participant.journal.bind(self._update, state.announced.digest)
            return found
        if trip == 4:
            return plus.on_list(self.participant, state, data)
        if trip == LAST:
            return plus.on_signatures(self.participant, state, data)
        raise VehicleError(f"trip {trip} of a masked round is out of turn")


@dataclass
class OnceAgent:
    """A vehicle in `one-shot` or `helpers`; secret: speaker, not printed. It speaks once and may leave."""

    speaker: Speaker = field(repr=False)
    encoder: Encoder
    now: Callable[[], float]

    @timed("privacy")
    def first(self, announcement: bytes, committee: bytes, work: Work) -> bytes:
        """Its one message."""
        announced = ann.decode_announcement(announcement)
        speak = SPEAK.get(announced.protocol)
        if speak is None or announced.protocol is not PROTOCOLS[self.encoder.settings.protocol]:
            raise VehicleError(f"the round is of {announced.protocol.name}, not of this vehicle's protocol")
        form = self.encoder.form(announced, work)
        task, version = self.encoder.accepted(announced, form, work)
        vector = self.encoder.encoded(form, work, version)
        drawn = known_committee(committee)
        update = update_name(work, buffered=self.encoder.strategy.buffer > 0)
        refuse_twice(self.speaker.journal, update, work)
        said = speak(self.speaker, announced, drawn, task=task, vector=vector, now=self.now())
        self.speaker.journal.bind(update, announced.digest)
        return said

    def answer(self, trip: int, data: bytes) -> bytes:
        """There is no later trip."""
        raise VehicleError(f"trip {trip}: this vehicle has said all that it says in a round")

    def forget(self) -> None:
        """Nothing is held."""


SPEAK = {
    ann.Protocol.ONE_SHOT: oneshot_vehicle.contribute,
    ann.Protocol.HELPERS: helpers_vehicle.contribute,
}
PROTOCOLS = {
    "secagg+": ann.Protocol.SECAGG_PLUS,
    "one-shot": ann.Protocol.ONE_SHOT,
    "helpers": ann.Protocol.HELPERS,
}


def update_name(work: Work, *, buffered: bool) -> bytes:
    """What stands in the journal for what is made of a task: run, round and pass, or, without rounds, itself.

    Two sums that share all updates but one give that one away. So a vehicle masks what it makes of a task
    once, whatever round id, buffer or cohort it is asked for again: the server may say that it lost the first
    sum, or that all the others came too late.
    """
    task = work.task
    if buffered:
        return signing.digest("carpool/once/update", 1, [hashlib.sha256(work.wire).digest()])
    numbers = [number.to_bytes(8, "little") for number in (task.round, task.pass_number)]
    return signing.digest("carpool/secagg/update", 1, [task.run.encode(), *numbers])


def refuse_twice(journal: Journal, update: bytes, work: Work) -> None:
    """Raise VehicleError where what was made of this task has been sent before."""
    if journal.get(update) is not None:
        round_ = work.task.round
        raise VehicleError(f"this vehicle has sent what it made of the task of round {round_}; begin another")


@lru_cache(maxsize=4)
def known_committee(data: bytes) -> Committee:
    """The committee in these bytes, read once for all vehicles of a process; raises VehicleError."""
    return decode_committee(data)


def check_form(announced: Announcement, form: Form) -> None:
    """Raise VehicleError unless the announced numbers are those of the vehicle's own form."""
    for name in ("numbers", "bits", "levels", "noise"):
        said, own = getattr(announced, name), getattr(form, name)
        if said != own:
            raise VehicleError(f"the round is announced with {name} = {said}; this vehicle's are {own}")
