"""A buffer under `one-shot` or `helpers`: an asynchronous step whose contributions the server does not see.

    task ... announcement of the open buffer -> vehicle, at its upload -> one message; the vehicle may leave
    K contributions -> proposal -> complaint | list -> approval | certificate -> release -> step

A buffer is a round to the protocols: masks depend on it alone, not on a cohort or on who started when. Its
announcement lists the tasks that it takes, of all versions that are young enough and have enough vehicles
under way; in a task's hash is the version at which the buffer steps, and so what each of them weighs.

A sum has `per_version` vehicles or more of every version in it (0: n_min), by the policy of vehicles and
members, not the server's: it could make up all updates of the others. Who is of a version of fewer when the
buffer closes is left out and counts as too old. What comes for a buffer that is closed is refused and lost; a
vehicle never masks an update twice, as two sums that share all updates but one give that one away.
"""

from __future__ import annotations

import math
import secrets
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from carpool.privacy.errors import RoundError, VehicleError
from carpool.privacy.secagg import announcement as ann
from carpool.privacy.secagg import once
from carpool.privacy.secagg.announcement import MOST_TASKS, MOST_VEHICLES, Announcement
from carpool.privacy.secagg.helpers_server import HelpersServer
from carpool.privacy.secagg.oneshot_server import OneShotServer
from carpool.privacy.secagg.settings import buffer_about
from carpool.privacy.secagg.sumform import Form, buffered_digest
from carpool.privacy.spans import timed
from carpool.server.buffer import Buffer, Counted
from carpool.server.handover import Handed
from carpool.server.inflight import Ask
from carpool.server.kept import Kept
from carpool.server.messages import Answer
from carpool.server.office import Office
from carpool.server.receive import RoundPlan, Usable
from carpool.server.round import shared_size
from carpool.server.secure import DAY_S, Heard, Opening, Secrecy, SecurePass, bytes_in
from carpool.server.secure_once import Council, Group, concluded, opened
from carpool.strategies.deadline import Decision, Policy

NOBODY = np.zeros(0, np.int64)
REMEMBERED = 1024
"""Closed buffers whose late messages are known to be late."""


class Masked:
    """The masked buffers of a run, one after another. closed: digests of earlier ones' announcements."""

    def __init__(self, office: Office, secrecy: Secrecy) -> None:
        if secrecy.board is None or secrecy.council is None:
            raise RoundError(
                f"{secrecy.settings.protocol} sums rounds, and this strategy has a buffer; use one-shot"
            )
        self.office, self.secrecy, self.board = office, secrecy, secrecy.board
        self.council: Council = secrecy.council
        self.closed: deque[bytes] = deque(maxlen=REMEMBERED)

    @contextmanager
    def opened(self, buffer: Buffer) -> Iterator[Tray]:
        """The open buffer, announced, until the step is over."""
        office, secrecy = self.office, self.secrecy
        office.make()
        accepted = takes(office, secrecy)
        opening, hashes = announce(office, secrecy, self.council, accepted)
        kept = Kept(office.plan.folder)
        shot = secrecy.settings.protocol == "one-shot"
        server = (OneShotServer if shot else HelpersServer)(
            opening.announced, self.council.committee, secrecy.trust, secrecy.now, kept
        )
        oldest = min((ask.at for ask in office.under_way()), default=office.clock.now())
        self.board.post(opening.announced.encode(), self.council.committee.encode(), oldest)
        try:
            yield Tray(self, buffer, Group(opening, server, kept), hashes)
        finally:
            self.closed.append(opening.announced.digest)
            kept.close()
            self.council.forget(opening.announced)


def takes(office: Office, secrecy: Secrecy) -> dict[int, tuple[int, bytes]]:
    """The tasks that the next buffer takes, newest first: by round, version and SHA-256 of the wire.

    None that is older than max_staleness, and none of which too few vehicles are under way for `per_version`.
    """
    facts, oldest = office.facts, office.facts.version - office.strategy.max_staleness
    working = Counter(ask.round for ask in office.under_way())
    young = {
        round_: one
        for round_, one in sorted(office.hashes.items(), reverse=True)
        if one[0] >= oldest and (round_ == facts.round or working[round_] >= secrecy.settings.least)
    }
    return dict(list(young.items())[:MOST_TASKS])


def announce(
    office: Office, secrecy: Secrecy, council: Council, accepted: dict[int, tuple[int, bytes]]
) -> tuple[Opening, dict[int, bytes]]:
    """Fix, sign and log what the buffer is; also the tasks' hashes by round. Raises RoundError."""
    strategy, facts, settings = office.strategy, office.facts, secrecy.settings
    # So many may wait at most while no sum is allowed: one short of K, and of `least` in every version.
    most = max(strategy.buffer, settings.n_min) + len(accepted) * (settings.least - 1)
    most, round_id = min(most, MOST_VEHICLES), secrets.token_bytes(16)
    try:
        form = settings.form(
            strategy.channels,
            strategy.sizes(shared_size(strategy, office.training.state, facts)),
            most=most,
            about=buffer_about(office.plan.run, round_id),
            variance=council.variance,
        )
    except ValueError as error:
        raise RoundError(f"step {facts.round} cannot be masked: {error}") from error
    hashes = {
        round_: buffered_digest(wire, form.encoding(), facts.version)
        for round_, (_, wire) in accepted.items()
    }
    plain = plain_announcement(secrecy, council, form, most, round_id, tuple(hashes.values()))
    announced = ann.announce(plain, secrecy.certificate, secrecy.key)
    versions = [version for version, _ in accepted.values()]
    secrecy.log.round(announced, settings.protocol, council.committee.hash, versions)
    return Opening(form, announced, b"", hashes[facts.round]), hashes


def plain_announcement(
    secrecy: Secrecy, council: Council, form: Form, most: int, round_id: bytes, tasks: tuple[bytes, ...]
) -> Announcement:
    """The announcement, not signed yet."""
    settings = secrecy.settings
    shot = settings.protocol == "one-shot"
    return Announcement(
        protocol=ann.Protocol.ONE_SHOT if shot else ann.Protocol.HELPERS,
        round_id=round_id,
        committee=council.committee.hash,
        numbers=form.numbers,
        bits=form.bits,
        levels=form.levels,
        most=most,
        n_min=settings.n_min,
        per_task=settings.least,
        noise=form.noise,
        deadline=int(secrecy.now()) + 2 * DAY_S,  # a buffer is open for a day at most, and then opened
        tasks=tasks,
    )


class Tray:
    """The open buffer. said: nodes that sent something made of this step's own task."""

    def __init__(self, masked: Masked, buffer: Buffer, group: Group, hashes: dict[int, bytes]) -> None:
        self.masked, self.buffer, self.group = masked, buffer, group
        self.office, self.secrecy = masked.office, masked.secrecy
        self.said: set[int] = set()
        self._hashes, self._late = hashes, 0
        self._heard = Heard(failures=buffer.failures)
        self._tasks: Counter[bytes] = Counter()

    @property
    def full(self) -> bool:
        """Whether as many as a step takes are of versions with enough vehicles."""
        least = self.secrecy.settings.least
        sound = sum(count for count in self._tasks.values() if count >= least)
        return sound >= max(self.office.strategy.buffer, self.secrecy.settings.n_min)

    def take_all(self) -> None:
        """Take what is there: of what came at the same moment nothing is thrown away while there is room."""
        announced = self.group.opening.announced
        while self.office.arrived and self._tasks.total() < announced.most:
            self.take(*self.office.arrived.popleft())

    @timed("privacy")
    def take(self, ask: Ask, reply: Answer) -> None:
        """One answer; never raises for what a vehicle sent."""
        buffer, office = self.buffer, self.office
        buffer.ended.append(ask)
        try:
            data = bytes_in(reply, self._heard)
            self._put(ask, data)
        except (VehicleError, ValueError):
            # Who is told that its version is not taken any more does not send anything.
            if ask.round not in self._hashes and not isinstance(reply, Handed) and reply.has_error():
                buffer.old += 1
            else:
                buffer.refused += 1
            return
        finally:
            buffer.bytes_up = self._heard.bytes_up
        after = office.clock.now() - ask.at
        age = office.facts.version - ask.version
        self._heard.usable[ask.node] = Usable(-1, 1.0, math.nan, 0, after)
        buffer.counted.append(Counted(ask, 1.0, math.nan, 0, after, age))

    def _put(self, ask: Ask, data: bytes) -> None:
        """Into the sum; raises VehicleError."""
        if ask.round == self.office.facts.round:
            self.said.add(ask.node)
        protocol = self.group.opening.announced.protocol
        header = once.decode_header(data[: once.header_size(protocol)], protocol)
        if header.announced in self.masked.closed:
            self._late += 1
            raise VehicleError(f"vehicle {ask.node} masked for a buffer that has closed")
        if header.task != self._hashes.get(ask.round):
            raise VehicleError(f"vehicle {ask.node} says that it trained on another task than it was sent")
        self.group.take(ask.node, data)
        self._tasks[header.task] += 1

    def close(self, full: bool) -> SecurePass:
        """Have the sum opened, if the buffer is full; the buffer then says who is in it."""
        office, buffer, heard, group = self.office, self.buffer, self._heard, self.group
        self.masked.board.close(office.clock.now())
        size, came, overhead = office.strategy.buffer, len(buffer.counted), group.overhead
        plan = self._plan()
        if full:
            opened(self.secrecy, self.masked.council, group, plan, office.clock)
        thin = group.server.gathering.thin
        heard.steps = {"asked": len(buffer.ended), "sent": came}
        heard.dropped = {
            "send": len(buffer.ended) - came - self._late,
            "late": self._late,
            "version": len(thin),
        }
        heard.vectors = heard.bytes_up - overhead
        decision = Decision(True, full, None, f"{came} of the {size} contributions of a step")
        found = concluded(self.secrecy, self.masked.council, [group], office.strategy, plan, heard, decision)
        inside = found.gathered.usable
        if found.decision.counted:
            buffer.old += sum(one.ask.node in thin for one in buffer.counted)
            buffer.refused += len(group.server.gathering.refused)
        buffer.counted = [one for one in buffer.counted if one.ask.node in inside]
        return found

    def _plan(self) -> RoundPlan:
        """What the sum is held to: n_min; a buffer has no quorum."""
        plan = self.office.plan
        needed = Policy(cohort=self.secrecy.settings.n_min, quorum=1.0)
        return RoundPlan(plan.run, self.office.facts, NOBODY, needed, folder=plan.folder)
