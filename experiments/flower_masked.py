"""A vehicle's half of secure aggregation for an ordinary Flower ClientApp: a mod, and nothing else to change.

    app = ClientApp(mods=[secagg_mod("/etc/carpool/vehicle-7", n_min=12)])

    trip 1      announcement and terms checked -> the app trains -> trained - sent in whole numbers -> keys
    trips 2-5   answered by the mod; the app is not called

The vector and the state of the protocol (secret: the keys of the round, the update in the clear) lie in
`context.state`, which stays on the vehicle, from trip to trip and over a restart of the app's process; they
are erased with the last trip, with a refusal, and when the round's deadline has passed. What may be said once
is in the journal, a file, before it is said. Whatever the mod was not told to let through is refused: a
server that asks for the update in the clear gets a code and no word.
"""

from __future__ import annotations

import copy
import fcntl
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from logging import ERROR, WARNING
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable, Mod
from flwr.supercore import log

from carpool.client.secure import LAST, check_form
from carpool.experiments import flower_terms as ft
from carpool.experiments.flower_state import Held, erase, keep, recalled
from carpool.privacy.errors import CarpoolError, VehicleError
from carpool.privacy.identity import Role
from carpool.privacy.memberfolder import MemberKeys, open_member
from carpool.privacy.secagg import plus_vehicle as plus
from carpool.privacy.secagg.announcement import Announcement, decode_announcement
from carpool.privacy.secagg.journal import FileJournal
from carpool.privacy.secagg.masks import Ring
from carpool.privacy.secagg.parameters import Adversary
from carpool.privacy.secagg.plus_policy import Beacon, Participant, Policy
from carpool.privacy.secagg.plus_state import Phase
from carpool.privacy.secagg.settings import Settings
from carpool.privacy.secagg.sumform import SumForm
from carpool.privacy.storage import refusals
from carpool.privacy.wire import ANNOUNCED, FAILURES, RECORD, TRIP
from carpool.server.messages import wire_of

JOURNAL = "secagg.journal"
NEXT = {Phase.BEGUN: 2, Phase.SHARED: 3, Phase.MASKED: 4, Phase.SIGNED: LAST}
"""The trip that a vehicle waits for."""
NAN, REFUSED = 1001, 1003
Where = str | Path
Whose = Where | MemberKeys | Callable[[Context], Where | MemberKeys]


def secagg_mod(
    identity: Whose,
    *,
    n_min: int,
    gamma: float = Settings.gamma,
    delta: float = Settings.delta,
    adversary: Adversary = Settings.adversary,
    ca: Where | None = None,
    revoked: Where | None = None,
    journal: Where | None = None,
    beacon: Beacon | None = None,
    unmasked: Collection[str] = (),
    now: Callable[[], float] = time.time,
) -> Mod:
    """The mod for `ClientApp(mods=[...])`; the server runs `SecureSum` with the same n_min, gamma and so on.

    identity: the vehicle's folder (memberfolder.py), or what gives it for a context, such as `lambda context:
    f"fleet/vehicle-{context.node_config['partition-id']}"`; ca, revoked: of these files, journal: of the
    journal, where not in that folder; beacon: checks a round's public randomness against a log; unmasked:
    message types, such as "evaluate", that the app answers in the clear. Raises ValueError.
    """
    policy = Policy(n_min, gamma, delta, adversary)
    return _Vehicle(identity, policy, ca, revoked, journal, beacon, frozenset(unmasked), now)


@dataclass(frozen=True, repr=False)
class _Asked:
    """The first message of a round, read and checked; the app has not seen it yet."""

    announced: Announcement
    terms: ft.Terms
    form: SumForm
    sent: Mapping[str, Any]
    plain: RecordDict
    task_hash: bytes


@dataclass(frozen=True, repr=False)
class _Vehicle:
    identity: Whose
    policy: Policy
    ca: Where | None
    revoked: Where | None
    journal: Where | None
    beacon: Beacon | None
    unmasked: frozenset[str]
    now: Callable[[], float]

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Answer a message; what is refused is logged here and answered with a code of `FAILURES`."""
        content = message.content if message.has_content() else RecordDict()
        if not {ANNOUNCED, TRIP} & set(content) and message.metadata.message_type in self.unmasked:
            return call_next(message, context)
        try:
            answer = self._answer(content, message, context, call_next)
        except CarpoolError as error:
            log(WARNING, "secagg: refused: %s", error)
            code = NAN if "NaN or Inf" in str(error) else REFUSED
            return Message(Error(code, FAILURES[code]), reply_to=message)
        return Message(RecordDict({RECORD: ConfigRecord({RECORD: answer})}), reply_to=message)

    def _answer(
        self, content: RecordDict, message: Message, context: Context, call_next: ClientAppCallable
    ) -> bytes:
        held = recalled(context)
        if held is not None and self.now() > held.state.announced.deadline:
            erase(context)
            held = None
        if TRIP in content:
            return self._trip(held, message, context)
        if ANNOUNCED in content:
            return self._first(message, context, call_next)
        raise VehicleError(
            f"the server asked for {message.metadata.message_type!r} in the clear; run SecureSum there, or "
            "name the message type in unmasked"
        )

    def _first(self, message: Message, context: Context, call_next: ClientAppCallable) -> bytes:
        asked = read(message)
        keys = self._keys(context)
        self._check(asked, keys)
        with self._speaking(keys) as participant:
            if participant.journal.get(asked.announced.round_id) is not None:
                raise VehicleError("this vehicle has spoken in this round before; ask it in a new one")
        erase(context)  # of a round that was not ended
        vector = encoded(asked, trained(asked, message, context, call_next))
        with self._speaking(keys) as participant:
            state, answer = plus.begin(participant, asked.announced, asked.task_hash, self.now())
        keep(context, Held(asked.terms.round, state, vector))
        return answer

    def _trip(self, held: Held | None, message: Message, context: Context) -> bytes:
        number, round_ = trip_of(message)
        if held is None:
            raise VehicleError(f"trip {number}: the vehicle is in no masked round")
        waits = NEXT[held.state.phase]
        if round_ != held.round or number < waits:  # late or repeated: no reason to leave the round
            raise VehicleError(
                f"trip {number} of round {round_} is late or repeated; this is trip {waits} of {held.round}"
            )
        try:
            if number != waits:
                raise VehicleError(f"trip {number} of a masked round came in place of {waits}")
            with self._speaking(self._keys(context)) as participant:
                state, answer = stepped(participant, held, wire_of(message), self.now())
        except BaseException:
            erase(context)
            raise
        if number == LAST:
            erase(context)
        else:
            vector = held.vector if state.phase is Phase.SHARED else None
            keep(context, Held(held.round, state, vector))
        return answer

    def _check(self, asked: _Asked, keys: MemberKeys) -> None:
        """All that can be known before the app trains; `begin` checks it again."""
        announced = asked.announced
        announced.check(keys.trust, self.now(), 0.0)
        if asked.task_hash not in announced.tasks:
            raise VehicleError("the announcement is for another task than this vehicle was sent")
        if announced.n_min < self.policy.n_min:
            raise VehicleError(
                f"the round is for {announced.n_min} vehicles or more; the policy is {self.policy.n_min}"
            )

    def _keys(self, context: Context) -> MemberKeys:
        found = self.identity(context) if callable(self.identity) else self.identity
        if isinstance(found, MemberKeys):
            return found
        return open_member(Path(found), Role.VEHICLE, self.now(), ca=self.ca, revoked=self.revoked)

    @contextmanager
    def _speaking(self, keys: MemberKeys) -> Iterator[Participant]:
        """The vehicle with its journal, which no other process of the vehicle has meanwhile."""
        path = Path(self.journal or keys.folder / JOURNAL)
        lock = path.with_name(path.name + ".lock")
        with refusals(lock, "lock"):
            handle = lock.open("ab")
        with handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            who = (keys.number, keys.certificate, keys.key, keys.trust)
            yield Participant(*who, self.policy, FileJournal(path), self.beacon)


def read(message: Message) -> _Asked:
    """The first message of a round, whose numbers are those that it announces; raises VehicleError."""
    content = message.content
    beside = content[ANNOUNCED]
    values = dict(beside) if isinstance(beside, ConfigRecord) else {}
    data, words = values.get(ft.ANNOUNCEMENT), values.get(ft.TERMS)
    if len(values) != 2 or not isinstance(data, bytes) or not isinstance(words, bytes):
        raise VehicleError("the announcement of a masked round comes with its terms, and nothing else")
    announced, terms = decode_announcement(data), ft.decode_terms(words)
    plain = RecordDict({name: one for name, one in content.items() if name != ANNOUNCED})
    sent = ft.opened(ft.the_arrays(plain)) if terms.arrays else {}
    try:
        form = terms.form(ft.size_of(sent), announced.most)
    except ValueError as error:
        raise VehicleError(f"the announced round cannot be masked: {error}") from error
    check_form(announced, form)
    task_hash = form.task_hash(ft.task_bytes(plain, message.metadata.message_type, terms))
    return _Asked(announced, terms, form, sent, plain, task_hash)


def trained(asked: _Asked, message: Message, context: Context, call_next: ClientAppCallable) -> RecordDict:
    """What the app answers to the message without its announcement; VehicleError where it fails."""
    bare = copy.copy(message)
    bare.content = asked.plain
    try:
        reply = call_next(bare, context)
    except Exception as error:  # its words may quote data: they go to the vehicle's log alone
        log(ERROR, "secagg: the app failed", exc_info=error)
        raise VehicleError(f"the app raised {type(error).__name__}") from error
    if not reply.has_content():
        raise VehicleError("the app answered with an error of its own")
    return reply.content


def encoded(asked: _Asked, reply: RecordDict) -> Ring:
    """The app's answer as uint32 [numbers], its weight and metrics inside; raises VehicleError."""
    terms, records = asked.terms, list(reply.metric_records.values())
    if len(records) != 1:
        raise VehicleError(f"the app must answer with one MetricRecord, not {len(records)}")
    vectors = {}
    if terms.arrays:
        vectors[ft.ARRAYS] = ft.difference(asked.sent, ft.opened(ft.the_arrays(reply)), terms.clip)
    for name, most in terms.metrics.items():
        value = min(max(ft.number(records[0], name), -most), most)
        vectors[ft.METRIC + name] = np.array([value], np.float32)
    weight = ft.number(records[0], terms.weight)
    return asked.form.encode(vectors, weight, 0.0, np.random.default_rng())


def trip_of(message: Message) -> tuple[int, int]:
    """(trip, round) of a later message; raises VehicleError."""
    record = message.content[TRIP]
    values = dict(record) if isinstance(record, ConfigRecord) else {}
    number, round_ = values.get("trip"), values.get("round")
    if len(values) != 2 or type(number) is not int or type(round_) is not int:
        raise VehicleError("a later message of a masked round has two numbers, trip and round")
    return number, round_


def stepped(participant: Participant, held: Held, data: bytes, now: float) -> tuple[plus.VehicleState, bytes]:
    """The next state and the answer of trips 2 to 5; raises VehicleError."""
    state = held.state
    if state.phase is Phase.BEGUN:
        return plus.on_roster(participant, state, data, now)
    if state.phase is Phase.SHARED and held.vector is not None:
        return plus.on_sealed(participant, state, data, held.vector)
    if state.phase is Phase.MASKED:
        return plus.on_list(participant, state, data)
    return plus.on_signatures(participant, state, data)
