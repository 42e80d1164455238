"""The simulated vehicles' half of the masked channels: what an engine trained is masked before it leaves.

A real vehicle does this in its own ClientApp. Here every engine trains as it does without masks, and the
vehicle's agent, keys and journal live beside the simulated fleet: the server gets the very bytes that it
would get.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from carpool.client.ring import RingAgent
from carpool.client.secure import Agent, Encoder, OnceAgent, PlusAgent, Work
from carpool.experiments.asked import Asked, node_of
from carpool.experiments.council import sizes_of
from carpool.privacy.dp.joint import clip_jointly
from carpool.privacy.dp.protection import ON_THE_SUM
from carpool.privacy.errors import VehicleError
from carpool.privacy.secagg.journal import MemoryJournal
from carpool.privacy.secagg.once_vehicle import Speaker
from carpool.privacy.secagg.plus_policy import Participant
from carpool.privacy.secagg.settings import Settings
from carpool.privacy.wire import ANNOUNCED, ContributionMessage, decode_contribution
from carpool.server.board import Board
from carpool.strategies.contract import Channel
from carpool.strategies.fold import shrink

if TYPE_CHECKING:
    from carpool.experiments.council import Council
    from carpool.experiments.runlog import RunLog
    from carpool.experiments.workshop import Workshop

FULL = 1 - 1e-5
"""A factor above leaves a vector as it is: it was clipped before, in float32."""


class Veil:
    """The vehicles' agents, made when a vehicle is first asked.

    log: what they hold beacons against; council: the committee, of the protocols that have one; full: whether
    the cryptography of a round runs; board: where they look which buffer is open, without rounds.
    """

    def __init__(
        self,
        workshop: Workshop,
        settings: Settings,
        log: RunLog,
        council: Council | None = None,
        full: Callable[[int], bool] = lambda round_: True,
        board: Board | None = None,
    ) -> None:
        self._board = board
        self._full = full
        self._workshop, self._settings, self._log, self._council = workshop, settings, log, council
        self._agents: dict[int, Agent] = {}
        self._rings: dict[int, Agent] = {}
        self._ring = False
        noise = settings.protection
        self._clip = noise.clip_norm if noise is not None and noise.mechanism in ON_THE_SUM else None

    @property
    def trips(self) -> bool:
        """Whether more trips follow."""
        return self._settings.protocol == "secagg+"

    def agent(self, index: int) -> Agent:
        """Vehicle `index` in the protocols, or in their arithmetic alone."""
        if self._ring:
            return self._rings.setdefault(index, self._made(node_of(index)))
        found = self._agents.get(index)
        if found is None:
            found = self._agents[index] = self._made(node_of(index))
        return found

    def _made(self, node: int) -> Agent:
        fleet, settings = self._workshop.fleet, self._settings
        key, certificate = fleet.identity(node)
        journal, strategy = MemoryJournal(), self._workshop.strategy
        if self._ring:
            variance = 0.0 if self._council is None else self._council.variance
            return RingAgent(Encoder(settings, strategy, variance), self.trips)
        if self._council is None:
            policy, check = settings.policy, self._log.beacon_check
            log = self._log.round_check
            participant = Participant(node, certificate, key, fleet.trust, policy, journal, check, logged=log)
            return PlusAgent(participant, Encoder(settings, strategy), time.time)
        sizes = sizes_of(self._workshop.experiment.privacy)
        who = (node, certificate, key, journal, fleet.trust, sizes, settings.n_min, settings.least)
        speaker = Speaker(*who, self._log.round_check, self._log.committee_check)
        return OnceAgent(speaker, Encoder(settings, strategy, self._council.variance), time.time)

    def first(self, asked: Asked, contribution: bytes) -> bytes:
        """What a vehicle sends in answer to its task; raises VehicleError."""
        data, committee = announced_to(asked) if self._board is None else self._board.at(asked.uploads)
        workshop = self._workshop
        shared = workshop.sharing.size
        largest = max(workshop.strategy.sizes(shared).values())
        said = within(decode_contribution(contribution, largest), workshop.strategy.channels)
        work = Work(
            asked.wire,
            workshop.decode(asked.wire),
            shared,
            said if self._clip is None else jointly(said, self._clip),
            asked.index,
            workshop.experiment.experiment.seed,
        )
        self._ring = not self._full(work.task.round)
        return self.agent(asked.index).first(data, committee, work)

    def answer(self, index: int, trip: int, data: bytes) -> bytes:
        """What it answers to a later trip; raises VehicleError."""
        return self.agent(index).answer(trip, data)

    def forget(self) -> None:
        """The round is over: vehicles that left in the middle of it hold nothing of it any more."""
        for agent in self._agents.values():
            agent.forget()


def announced_to(asked: Asked) -> tuple[bytes, bytes]:
    """Announcement and committee beside a task; raises VehicleError."""
    if asked.message is None or ANNOUNCED not in asked.message.content:
        raise VehicleError("the task of a masked round came without its announcement")
    announced = dict(asked.message.content[ANNOUNCED].items())
    data, committee = announced.get("announcement"), announced.get("committee")
    if len(announced) != 2 or not isinstance(data, bytes) or not isinstance(committee, bytes):
        raise VehicleError("the announcement of a masked round has two entries of bytes")
    return data, committee


def jointly(contribution: ContributionMessage, clip_norm: float) -> ContributionMessage:
    """The same, its channels together at most so long: a malicious vehicle sends as much as is counted."""
    clipped, cut = clip_jointly(contribution.vectors, clip_norm)
    return replace(contribution, vectors=clipped) if cut else contribution


def within(contribution: ContributionMessage, channels: Sequence[Channel]) -> ContributionMessage:
    """The same with no vector above its clip norm: a malicious vehicle sends as much as is counted.

    An honest one's are not: it clipped them. What is not a number stays as it is, and is refused.
    """
    factors = {c.name: shrink(contribution.vectors[c.name], c.clip) for c in channels}
    cut = {
        name: contribution.vectors[name] * np.float32(factor)
        for name, factor in factors.items()
        if factor < FULL
    }
    return replace(contribution, vectors={**contribution.vectors, **cut}) if cut else contribution
