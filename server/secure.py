"""What a round under secure aggregation has in common, whichever protocol: announce, gather, unmask, tell.

The server sees who answers which trip, and sums over n_min vehicles or more; losses and weights are inside.
Who saw what goes into the round's record, what must be public into the log.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.serverapp import Grid

from carpool.privacy.errors import RoundError, VehicleError
from carpool.privacy.identity import Trust
from carpool.privacy.secagg import announcement as ann
from carpool.privacy.secagg.announcement import Announcement
from carpool.privacy.secagg.settings import Settings
from carpool.privacy.secagg.sumform import Form
from carpool.privacy.wire import FAILURES, encode
from carpool.server.board import Board
from carpool.server.clock import Clock
from carpool.server.handover import Handed
from carpool.server.listen import listen
from carpool.server.messages import Answer, send, task_message, wire_of
from carpool.server.receive import RoundPlan, Usable
from carpool.strategies.contract import Reduced, Strategy, Task
from carpool.strategies.deadline import Decision, Latest

if TYPE_CHECKING:
    from carpool.server.private import Private

DAY_S = 86400


class Log(Protocol):
    """The transparency log of a run."""

    def round(
        self,
        announcement: Announcement,
        protocol: str,
        committee_hash: bytes = b"",
        versions: Sequence[int] = (),
    ) -> None:
        """A round, before anybody is asked; versions: of the model, one a task."""

    def keys(self, round_id: bytes, vehicles: int, commitment: bytes) -> bytes:
        """The ordered list of keys; then the public randomness that comes after it, 32 bytes."""

    def participation(self, round_id: bytes, list_hash: bytes, vehicles: Sequence[int]) -> None:
        """Who is in a sum, before it is opened."""

    def transcript(self, round_id: bytes, transcript: bytes, released: bool) -> None:
        """The hash of a round's messages, and whether it came to a sum."""


@dataclass(frozen=True)
class Secrecy:
    """How a server runs its rounds under secure aggregation.

    key, certificate: the aggregator's; now: Unix seconds, for certificates; trip_s, upload_s: how long it
    waits for a short answer and for a masked vector, seconds of the server's clock; council: the committee,
    of the protocols that have one; full: whether the cryptography of this round runs, or only its arithmetic;
    board: where buffers are announced, of a strategy that has them.
    """

    settings: Settings
    trust: Trust
    key: Ed25519PrivateKey
    certificate: bytes
    log: Log
    now: Callable[[], float]
    trip_s: float = 60.0
    upload_s: float = 600.0
    council: Any = None
    private: Private | None = None
    full: Callable[[int], bool] = lambda round_: True
    board: Board | None = None


@dataclass
class Heard:
    """What came in a round; as `receive.Gathered`, without any vectors.

    vectors: bytes of masked vectors; steps, dropped: how many got so far, and how many did not answer, by
    step.
    """

    usable: dict[int, Usable] = field(default_factory=dict)
    durations: list[float] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    failures: list[int] = field(default_factory=list)
    bytes_up: int = 0
    bytes_down: int = 0
    vectors: int = 0
    latest: Latest | None = None
    steps: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)

    def step(self, name: str, done: str, asked: int, answered: int) -> None:
        """Note that of `asked`, `answered` did this step."""
        self.steps[done] = self.steps.get(done, 0) + answered
        self.dropped[name] = self.dropped.get(name, 0) + asked - answered


@dataclass(frozen=True)
class Given:
    """What the server may know of a pass: in place of a fold."""

    reduced: Reduced | None

    def reduce(self) -> Reduced:
        """The sums; raises RoundError where nothing was released."""
        if self.reduced is None:
            raise RoundError("nothing was released in this round")
        return self.reduced


@dataclass(frozen=True)
class SecurePass:
    """One pass of a round. secagg: who saw what, for the record; sent: bytes down."""

    gathered: Heard
    fold: Given
    decision: Decision
    sent: int
    loss: float | None
    secagg: Mapping[str, Any]


@dataclass(frozen=True)
class Opening:
    """A pass that is about to begin: its form, its announcement, the bytes of its task and their hash."""

    form: Form
    announced: Announcement
    wire: bytes
    task_hash: bytes


def prepare(
    secrecy: Secrecy,
    strategy: Strategy[Any],
    state: Any,
    task: Task,
    plan: RoundPlan,
    protocol: ann.Protocol,
    *,
    committee: bytes = bytes(32),
    variance: float = 0.0,
) -> Opening:
    """Fix and sign what the pass is; raises RoundError where it cannot be."""
    facts, settings = plan.facts, secrecy.settings
    size = strategy.model(state).size if facts.sharing is None else facts.sharing.size
    wire = encode(task_message(plan.run, task, facts))
    most = max(len(plan.asked), settings.n_min, settings.most)
    try:
        form = settings.form(
            strategy.channels,
            strategy.sizes(size),
            most=most,
            about=about(plan.run, facts.round, facts.pass_number),
            variance=variance,
        )
    except ValueError as error:
        raise RoundError(f"round {facts.round} cannot be masked: {error}") from error
    plain = Announcement(
        protocol=protocol,
        round_id=secrets.token_bytes(16),
        committee=committee,
        numbers=form.numbers,
        bits=form.bits,
        levels=form.levels,
        most=most,
        n_min=settings.n_min,
        per_task=1,
        noise=form.noise,
        deadline=int(secrecy.now()) + DAY_S,
        tasks=(form.task_hash(wire),),
    )
    announced = ann.announce(plain, secrecy.certificate, secrecy.key)
    secrecy.log.round(announced, settings.protocol, b"" if committee == bytes(32) else committee)
    return Opening(form, announced, wire, plain.tasks[0])


def about(run: str, round_: int, pass_: int) -> str:
    """A pass in words."""
    return f"{run}/{round_}/{pass_}"


def ask(
    opening: Opening, plan: RoundPlan, grid: Grid, *, tickets: bool, committee: bytes = b""
) -> tuple[dict[str, int], int]:
    """Send task and announcement to everybody asked: {name of the work: node}, and the bytes sent."""
    facts = plan.facts
    given = [(facts.round, plan.counted.get(node, 0)) for node in plan.asked.tolist()] if tickets else None
    announced = opening.announced.encode()
    pending = send(
        grid,
        opening.wire,
        plan.asked,
        facts.round,
        plan.policy.max_s,
        given,
        announced=(announced, committee),
    )
    return pending, (len(opening.wire) + len(announced) + len(committee)) * len(pending)


Take = Callable[[int, bytes], None]
"""A vehicle's message; raises VehicleError."""


def bytes_in(reply: Answer, heard: Heard) -> bytes:
    """The bytes of an answer, counted; raises VehicleError where there are none."""
    if isinstance(reply, Handed):
        raise VehicleError("the grid handed something over that was not masked")
    if reply.has_error():
        heard.failures.append(reply.error.code)
        raise VehicleError(FAILURES.get(reply.error.code, "the vehicle reported an error"))
    data = wire_of(reply)
    heard.bytes_up += len(data)
    return data


def first(
    strategy: Strategy[Any],
    plan: RoundPlan,
    pending: dict[str, int],
    grid: Grid,
    clock: Clock,
    heard: Heard,
    take: Take,
) -> Decision:
    """Take the answers to the task until the strategy says that the round is closed."""

    def tally(reply: Answer, node: int, after: float) -> None:
        try:
            take(node, bytes_in(reply, heard))
        except (VehicleError, ValueError) as error:
            heard.refused[node] = str(error)
            return
        heard.usable[node] = Usable(-1, 1.0, math.nan, 0, after)
        heard.durations.append(after)
        if heard.latest is not None:
            heard.latest.add(after)

    return listen(strategy, plan, pending, grid, clock, heard, tally)
