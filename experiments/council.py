"""The simulated committee of `one-shot`, or the three organisations of `helpers`: stationary nodes.

Drawn from a pool of stationary nodes by the log's public randomness, or named. Keys and journals are the
run's own; who is absent in a round is drawn by the seed. A real member is a process of its own that says the
same.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from carpool.experiments.config import Experiment
from carpool.experiments.privacy_config import Privacy
from carpool.experiments.runlog import RunLog
from carpool.experiments.simfleet import SimulatedFleet
from carpool.privacy.errors import VehicleError
from carpool.privacy.identity import Role
from carpool.privacy.secagg import announcement as ann
from carpool.privacy.secagg import committee as c
from carpool.privacy.secagg import helpers_node, oneshot_committee, rlwe
from carpool.privacy.secagg.helpers_vehicle import HELPERS
from carpool.privacy.secagg.journal import MemoryJournal
from carpool.privacy.secagg.once_member import MemberState, Node
from carpool.privacy.spans import timed
from carpool.server.secure_once import RELEASE, Kind

FIRST_NODE = 1 << 41
"""Numbers of stationary nodes, apart from those of vehicles."""
ABSENT = 0xAB5E27


def sizes_of(privacy: Privacy) -> c.Sizes:
    """The committee that vehicles and members expect: by the experiment's file, not by what is announced."""
    how = privacy.committee
    if privacy.protocol == "helpers":
        return HELPERS
    if how.members:
        return c.designated(how.members, how.corrupt)
    return c.find(how.corrupt_fraction, how.dropout_fraction)


class Council:
    """committee: as announced; variance: of the protocol's error in a vehicle's number, squared steps."""

    def __init__(self, experiment: Experiment, fleet: SimulatedFleet, log: RunLog) -> None:
        how = experiment.privacy.committee
        self._helpers = experiment.privacy.protocol == "helpers"
        self._step: Any = helpers_node if self._helpers else oneshot_committee
        self._absent, self._seed = how.absent, experiment.experiment.seed
        self.variance = 0.0 if self._helpers else rlwe.VARIANCE
        sizes = sizes_of(experiment.privacy)
        named = self._helpers or how.members
        pool = tuple(range(FIRST_NODE, FIRST_NODE + (sizes.members if named else how.pool)))
        epoch = int(time.time() * 1000)  # keys are made anew whenever the run is taken up
        beacon = log.epoch(epoch, pool)
        self._nodes: dict[int, Node] = {}
        rows = []
        for point, number in enumerate(c.sample(pool, beacon, sizes.members), 1):
            key, certificate = fleet.member(number, Role.COMMITTEE)
            sealing = X25519PrivateKey.generate()
            rows.append(c.join(epoch, certificate, key, sealing.public_key().public_bytes_raw()))
            self._nodes[point] = Node(
                number,
                key,
                sealing.private_bytes_raw(),
                MemoryJournal(),
                fleet.trust,
                sizes,
                experiment.privacy.secagg.n_min,
                experiment.privacy.secagg.per_version,
                log.round_check,
                log.committee_check,
            )
        self.committee = c.Committee(epoch, sizes, pool, beacon, tuple(rows))
        self._states: dict[tuple[bytes, int], MemberState] = {}

    def present(self, round_: int) -> frozenset[int]:
        """The points of those who answer in this round."""
        rng = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(ABSENT, round_)))
        draws = rng.random(len(self._nodes))
        return frozenset(
            point for point, draw in zip(self._nodes, draws, strict=True) if draw >= self._absent
        )

    @timed("privacy")
    def ask(
        self, round_: int, announced: ann.Announcement, kind: Kind, messages: Mapping[int, bytes]
    ) -> dict[int, bytes]:
        """What the members that are there answer, by point; who refuses does not answer."""
        answers = {}
        for point in sorted(self.present(round_).intersection(messages)):
            try:
                answers[point] = self._answer(announced, point, kind, messages[point])
            except VehicleError:
                continue
        return answers

    def _answer(self, announced: ann.Announcement, point: int, kind: Kind, data: bytes) -> bytes:
        node, now, name = self._nodes[point], time.time(), (announced.round_id, point)
        if kind is Kind.PROPOSAL:
            state = self._step.join_round(node, announced, self.committee, now)
            state, answer = self._step.on_proposal(node, state, data, now)
        else:
            state = self._states.pop(name, None)
            if state is None:
                raise VehicleError(f"member {point} is not in this round")
            if kind is Kind.LIST:
                state, answer = self._step.on_list(node, state, data)
            elif self._helpers:
                state, answer = self._step.on_request(node, state, data)
            else:
                state, answer = self._step.on_certificate(node, state, data)
        if kind is not RELEASE or self._helpers:
            self._states[name] = state
        return bytes(answer)

    def forget(self, announced: ann.Announcement) -> None:
        """The round is over."""
        self._states = {k: v for k, v in self._states.items() if k[0] != announced.round_id}
