"""A pass in which only the arithmetic of secure aggregation runs; its record says so. See client/ring.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.serverapp import Grid

from carpool.privacy import signing
from carpool.privacy.dp.forms import NoisyForm
from carpool.privacy.errors import RoundError, VehicleError
from carpool.privacy.secagg.announcement import Protocol
from carpool.privacy.secagg.masks import KEY, Ring, shorten, unpack
from carpool.privacy.secagg.noise_levels import revealed
from carpool.privacy.secagg.sumform import Form, Sums
from carpool.privacy.spans import span, timed
from carpool.server.clock import Clock
from carpool.server.receive import RoundPlan
from carpool.server.secure import (
    Given,
    Heard,
    Opening,
    Secrecy,
    SecurePass,
    ask,
    first,
    prepare,
)
from carpool.server.secure_sums import closed, combined, sums_of
from carpool.server.trips import trip
from carpool.strategies.contract import Strategy, Task

READY = b"ready"
WIDTHS = {16: 2, 24: 3, 32: 4}


@dataclass
class Adder:
    """Adds vectors up as they come. seeds: by vehicle, of noise that may be taken off."""

    form: Form
    several: bool
    levels: int = 0
    total: Ring = field(init=False)
    here: set[int] = field(default_factory=set)
    inside: set[int] = field(default_factory=set)
    seeds: dict[int, tuple[bytes, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.total = np.zeros(self.form.numbers, np.uint32)

    def ready(self, vehicle: int, data: bytes) -> None:
        """A vehicle has trained, or sends its numbers; raises VehicleError."""
        if not self.several:
            self.vector(vehicle, data)
        elif data != READY:
            raise VehicleError("a vehicle says that it is ready, and nothing else")
        self.here.add(vehicle)

    def vector(self, vehicle: int, data: bytes) -> None:
        """A vehicle's seeds and numbers; raises VehicleError."""
        size, start = WIDTHS[self.form.bits] * self.form.numbers, KEY * self.levels
        if len(data) != start + size or vehicle in self.inside:
            raise VehicleError(f"{start + size} bytes of numbers were expected once, not {len(data)}")
        self.total += unpack(memoryview(data)[start:], self.form.bits)
        self.seeds[vehicle] = tuple(data[i : i + KEY] for i in range(0, start, KEY))
        self.inside.add(vehicle)


@timed("privacy")
def ring_pass(
    secrecy: Secrecy,
    strategy: Strategy[Any],
    state: Any,
    task: Task,
    plan: RoundPlan,
    grid: Grid,
    clock: Clock,
) -> SecurePass:
    """One pass; the same vehicles are in its sum as if the protocol had run."""
    settings = secrecy.settings
    several = settings.protocol == "secagg+"
    variance = 0.0 if several else secrecy.council.variance  # so that the form is the protocol's
    opening = prepare(secrecy, strategy, state, task, plan, Protocol.SECAGG_PLUS, variance=variance)
    adder = Adder(opening.form, several)
    pending, sent = ask(opening, plan, grid, tickets=strategy.memory is not None or strategy.passes)
    heard = Heard(bytes_down=sent)
    heard.steps["asked"] = asked = len(pending)
    with span("other"):
        decision = first(strategy, plan, pending, grid, clock, heard, adder.ready)
    heard.step(
        "advertise" if several else "send", "advertised" if several else "sent", asked, len(adder.here)
    )
    if several and decision.counted:
        roster = len(adder.here)
        adder.levels = settings.policy.levels(roster)
        messages = dict.fromkeys(sorted(adder.here), roster.to_bytes(8, "little"))
        fine = trip(
            grid,
            clock,
            heard,
            3,
            messages,
            adder.vector,
            round_=plan.facts.round,
            wait_s=secrecy.upload_s,
        )
        heard.step("mask", "masked", roster, len(fine))
    inside, needed = len(adder.inside), max(plan.policy.needed, settings.n_min)
    counted = decision.counted and inside >= needed
    why = decision.reason if counted else f"{inside} vehicles are in the sum, {needed} are needed: void round"
    reduced, loss, clipped = None, None, None
    if counted:
        try:
            found = opened(secrecy, opening, adder, inside)
            reduced, loss, clipped = combined(strategy.channels, [(found, inside)])
        except RoundError as error:
            counted, why = False, str(error)
    transcript = signing.digest("carpool/ring/pass", 1, [opening.announced.digest])
    secrecy.log.transcript(opening.announced.round_id, transcript, counted)
    heard.usable = {node: one for node, one in heard.usable.items() if node in adder.inside and counted}
    record = record_of(
        secrecy, heard, inside, counted=counted, why=why, transcript=transcript, clipped=clipped
    )
    return SecurePass(heard, Given(reduced), closed(decision, counted, why), heard.bytes_down, loss, record)


def opened(secrecy: Secrecy, opening: Opening, adder: Adder, inside: int) -> Sums:
    """The sum, charged before anything of it is used; raises RoundError, PrivacyRefused."""
    form, several, vehicles = opening.form, adder.several, sorted(adder.inside)
    listed = signing.digest("carpool/ring/list", 1, [opening.announced.digest, repr(vehicles).encode()])
    secrecy.log.participation(opening.announced.round_id, listed, vehicles)
    if secrecy.private is not None:
        roster = len(adder.here) if several else opening.announced.most
        secrecy.private.certified(form, roster, inside)
    stripped(form, adder)
    return sums_of(secrecy, form, adder.total, inside)


def stripped(form: Form, adder: Adder) -> None:
    """Take the noise that the protocol would reveal off the total."""
    if not isinstance(form, NoisyForm):
        shorten(adder.total, form.bits)
        return
    roster = len(adder.here)
    gone = revealed(roster, len(adder.inside), form.delta, form.extras) if form.extras else ()
    seeds = {v: {k: own[k - 1] for k in gone} for v, own in adder.seeds.items()}
    form.strip(adder.total, roster, seeds)


def record_of(
    secrecy: Secrecy,
    heard: Heard,
    inside: int,
    *,
    counted: bool,
    why: str,
    transcript: bytes,
    clipped: int | None,
) -> Mapping[str, Any]:
    """Who saw what: of a simulation of the protocol, everything."""
    return {
        "protocol": secrecy.settings.protocol,
        "cryptography": "ring",
        "n_min": secrecy.settings.n_min,
        "neighbours": None,
        "threshold": None,
        "committee": None,
        "steps": heard.steps,
        "dropped": heard.dropped,
        "sums": [{"vehicles": inside, "released": counted, "why": None if counted else why}],
        "released": counted,
        "why": None if counted else why,
        "transcript": transcript.hex(),
        "clipped": clipped,
        "bytes": {"vectors": heard.bytes_up, "protocol": 0},
    }
