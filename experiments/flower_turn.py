"""One masked round over Flower's Grid: whom it asks, which vehicle a node is, who saw what.

content, terms, announcement -> (the app trains) -> keys, with the certificate behind the node
trips 2 to 5 by server/secure_plus.py -> the sum, or why there is none
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, RecordDict
from flwr.serverapp import Grid

from carpool.experiments import flower_terms as ft
from carpool.experiments.flower_grids import Members
from carpool.privacy.errors import ConfigError, VehicleError
from carpool.privacy.secagg import messages as m
from carpool.privacy.secagg.announcement import NO_COMMITTEE, Announcement, Protocol, announce
from carpool.privacy.secagg.plus_server import PlusServer
from carpool.privacy.secagg.sumform import SumForm
from carpool.privacy.wire import ANNOUNCED
from carpool.server.clock import Clock
from carpool.server.receive import RoundPlan
from carpool.server.secure import Given, Heard, Opening, Secrecy, first
from carpool.server.secure_plus import ADVERTISE, Group, carry, concluded, dealt
from carpool.strategies.contract import Channel, Facts
from carpool.strategies.deadline import Policy
from carpool.strategies.fedavg import fedavg

SKEW_S = 600
"""Seconds by which clocks may differ where a round's deadline is concerned."""


class Unlogged:
    """In place of a transparency log: nothing is published, and the graph's randomness is the server's."""

    def round(
        self,
        announcement: Announcement,
        protocol: str,
        committee_hash: bytes = b"",
        versions: Sequence[int] = (),
    ) -> None:
        """Nothing."""

    def keys(self, round_id: bytes, vehicles: int, commitment: bytes) -> bytes:
        """32 bytes of the operating system."""
        return secrets.token_bytes(32)

    def participation(self, round_id: bytes, list_hash: bytes, vehicles: Sequence[int]) -> None:
        """Nothing."""

    def transcript(self, round_id: bytes, transcript: bytes, released: bool) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Order:
    """What a round is to be. sent: arrays whose change is summed, none for metrics alone; timeout: s."""

    content: RecordDict
    terms: ft.Terms
    sent: ft.Sent
    message_type: str
    timeout: float


class Turn:
    """One attempt at a round. speaks: by node, the vehicle that it was once, kept from turn to turn.

    vehicles: the numbers of those in the sum; given: the sum; record: who saw what, `why` it is void.
    """

    def __init__(
        self, secrecy: Secrecy, grid: Grid, clock: Clock, speaks: dict[int, int], quorum: float
    ) -> None:
        self._secrecy, self._grid, self._clock = secrecy, grid, clock
        self._speaks, self._quorum = speaks, quorum
        self._nodes: dict[int, int] = {}
        self.vehicles: tuple[int, ...] = ()
        self.given = Given(None)
        self.record: dict[str, Any] = {"protocol": "secagg+", "released": False, "why": None}
        self.record |= {"refused": {}, "silent": [], "steps": {}}

    def run(self, order: Order, nodes: Sequence[int]) -> None:
        """The round; raises ConfigError for what no ring can hold, never for what vehicles do."""
        secrecy, n_min = self._secrecy, self._secrecy.settings.n_min
        if len(nodes) < n_min:
            self.record["why"] = f"{len(nodes)} nodes were to be asked; n_min is {n_min}: void round"
            return
        form = self._form(order, len(nodes))
        opening = self._opening(order, form, len(nodes))
        needed = max(n_min, math.ceil(round(self._quorum * len(nodes), 6)))
        policy = Policy(len(nodes), needed / len(nodes), min_s=order.timeout, max_s=order.timeout)
        facts = Facts(order.terms.round, 0, len(nodes), len(nodes))
        plan = RoundPlan("flower", facts, np.arange(len(nodes), dtype=np.int64), policy)
        channels = tuple(Channel(part.name, size=part.size, clip=part.clip) for part in form.parts)
        strategy = replace(fedavg(), channels=channels)
        front = PlusServer(opening.announced, secrecy.settings.policy, secrecy.trust, secrecy.now)
        heard, groups = Heard(), list[Group]()
        pending = self._ask(order, opening, nodes, heard)
        asked = dict(pending)
        decision = first(
            strategy, plan, pending, self._grid, self._clock, heard, lambda *one: self._take(front, *one)
        )
        heard.step(ADVERTISE, "advertised", len(asked), len(front.advertised))
        refused, heard.refused = heard.refused, {}
        heard.usable = {self._speaks[node]: one for node, one in heard.usable.items()}
        if decision.counted:
            groups = dealt(secrecy, opening, front, strategy, facts)
            grid = Members(self._grid, self._nodes, order.message_type)
            carry(secrecy, opening, groups, strategy, plan, grid, self._clock, heard)
        done = concluded(secrecy, opening, groups, strategy, plan, heard, decision, heard.bytes_down)
        refused |= {self._nodes[vehicle]: why for vehicle, why in heard.refused.items()}
        silent = sorted(set(asked.values()) - set(self._nodes.values()) - set(refused))
        self.record |= {**done.secagg, "refused": refused, "silent": silent}
        if done.decision.counted:
            self.given = done.fold
            self.vehicles = tuple(sorted(v for one in groups if one.sums for v in one.server.masked))

    def _form(self, order: Order, asked: int) -> SumForm:
        try:
            return order.terms.form(ft.size_of(order.sent), asked)
        except ValueError as error:
            raise ConfigError([f"the round cannot be masked: {error}"]) from error

    def _opening(self, order: Order, form: SumForm, asked: int) -> Opening:
        """Fix and sign what the round is."""
        secrecy, terms = self._secrecy, order.terms
        task = form.task_hash(ft.task_bytes(order.content, order.message_type, terms))
        lasts = order.timeout + 3 * secrecy.trip_s + secrecy.upload_s + SKEW_S
        plain = Announcement(
            protocol=Protocol.SECAGG_PLUS,
            round_id=secrets.token_bytes(16),
            committee=NO_COMMITTEE,
            numbers=form.numbers,
            bits=form.bits,
            levels=form.levels,
            most=asked,
            n_min=secrecy.settings.n_min,
            per_task=1,
            noise=0,
            deadline=int(secrecy.now() + lasts),
            tasks=(task,),
        )
        announced = announce(plain, secrecy.certificate, secrecy.key)
        secrecy.log.round(announced, "secagg+")
        return Opening(form, announced, b"", task)

    def _ask(self, order: Order, opening: Opening, nodes: Sequence[int], heard: Heard) -> dict[str, int]:
        """Send everybody the content with the announcement: {name of the message: node}."""
        beside = ConfigRecord()
        beside[ft.ANNOUNCEMENT], beside[ft.TERMS] = opening.announced.encode(), order.terms.encode()
        whole = RecordDict({**dict(order.content), ANNOUNCED: beside})
        messages = [
            self._grid.create_message(
                content=whole,
                message_type=order.message_type,
                dst_node_id=node,
                group_id=str(order.terms.round),
                ttl=order.timeout,
            )
            for node in nodes
        ]
        names: Sequence[str | None] = list(self._grid.push_messages(messages))
        pending = {name: node for name, node in zip(names, nodes, strict=True) if name is not None}
        heard.bytes_down = len(pending) * sum(record.count_bytes() for record in whole.values())
        heard.steps["asked"] = len(pending)
        return pending

    def _take(self, front: PlusServer, node: int, data: bytes) -> None:
        """A node's keys: the node is its vehicle's from then on. Raises VehicleError."""
        vehicle = m.decode_advertisement(data).vehicle
        known = self._speaks.get(node, vehicle)
        if known != vehicle:
            raise VehicleError(
                f"node {node} spoke for vehicle {known} before and now for {vehicle}; a node is one vehicle"
            )
        front.advertise(vehicle, data)
        self._speaks[node] = vehicle
        self._nodes[vehicle] = node
