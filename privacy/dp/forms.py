"""How a contribution becomes the masked numbers of a secure sum, where the sum is to be private.

    GridForm     whole grid steps; the server adds the noise to the sum (`central`, `matrix`)
    NoisyForm    Skellam noise on each vehicle (`distributed`), in parts that can be taken off again (XNoise)

Nothing else is in the sum: no weights, losses or counts of clipped vectors, which would have to pay for
themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from carpool.privacy import signing
from carpool.privacy.dp import skellam
from carpool.privacy.dp.events import Event, Relation
from carpool.privacy.dp.grid import STEPS, Grid, most_in_ring
from carpool.privacy.dp.noise_shares import part_variances, remaining, take_off, vehicle_noise
from carpool.privacy.dp.protection import ON_THE_SUM, Protection, honest, sure
from carpool.privacy.dp.randomness import Bits, bits_of
from carpool.privacy.errors import RoundError, VehicleError
from carpool.privacy.secagg import noise_levels
from carpool.privacy.secagg.masks import Ring, shorten
from carpool.privacy.secagg.sumform import Sums, task_digest
from carpool.privacy.vectors import Vector

VERSION = 1


@dataclass(frozen=True)
class GridForm:
    """Clipped contributions in grid steps, for sums of up to `most` vehicles.

    ValueError where a sum would not fit into the ring, with the fix.
    """

    grid: Grid
    most: int
    bits: skellam.Width = 32

    def __post_init__(self) -> None:
        if self.most * STEPS >= 1 << (self.bits - 1):
            raise ValueError(
                f"sums of {self.most} vehicles of {STEPS} steps do not fit into {self.bits} bits; use "
                f"privacy.secagg.bits = 32 and ask at most {((1 << 31) - 1) // STEPS} vehicles"
            )

    @property
    def numbers(self) -> int:
        """Length of the masked vector."""
        return self.grid.size

    @property
    def levels(self) -> int:
        """Q: numbers of one vehicle lie in -Q..Q."""
        return STEPS

    @property
    def noise(self) -> int:
        """Variance that each vehicle adds, squared steps."""
        return 0

    def encoding(self) -> bytes:
        """What there is to know of the form, as bytes."""
        return signing.message(
            "carpool/dp/grid-form", VERSION, [described(self.grid), f"{self.most}:{self.bits}".encode()]
        )

    def task_hash(self, wire: bytes) -> bytes:
        """The hash of all that a vehicle was sent and goes by, 32 bytes."""
        return task_digest(wire, self.encoding())

    def encode(
        self, vectors: Mapping[str, Vector], weight: float, loss: float, rng: np.random.Generator
    ) -> Ring:
        """A clipped contribution as uint32 [numbers], no weight and no loss; raises VehicleError."""
        ring: Ring = self.grid.whole(vectors).view(np.uint32)
        shorten(ring, self.bits)
        return ring

    def finish(self, ring: Ring, roster: int, seeds: Sequence[bytes]) -> Ring:
        """Nothing more is added."""
        return ring

    def decode(self, total: Ring, count: int) -> Sums:
        """Never: its noise is still missing."""
        raise RoundError("a sum without its noise is not decoded")


@dataclass(frozen=True)
class NoisyForm:
    """Contributions rotated, rounded and with Skellam noise, for sums of up to plan.most vehicles.

    rotation: 16 public bytes of the round; source: of rounding and base noise, one vehicle's alone; extras:
    components of XNoise, 0 without; gamma, delta: shares of a roster that lie and leave, for which these are
    made; relation: which fleets are neighbours.
    """

    grid: Grid
    plan: skellam.Plan
    rotation: bytes
    source: Bits = field(repr=False)
    extras: int = 0
    gamma: float = 0.0
    delta: float = 0.0
    relation: Relation = "zero-out"

    @property
    def numbers(self) -> int:
        """Length of the masked vector."""
        return self.plan.padded

    @property
    def bits(self) -> skellam.Width:
        """Of the ring."""
        return self.plan.bits

    @property
    def levels(self) -> int:
        """Q: numbers of one vehicle lie in -Q..Q, before its noise."""
        return self.plan.levels

    @property
    def noise(self) -> int:
        """Variance that each vehicle adds at first, parts that are taken off again included: the most it is.

        Squared steps, rounded up. With XNoise that is s / (U - T), largest for the smallest roster.
        """
        return math.ceil(self.plan.variance * self.plan.spread)

    @cached_property
    def total_variance(self) -> float:
        """What XNoise keeps in a sum, such that its honest part, of those who stay, has the target."""
        return self.plan.target / (1 - self.gamma / (1 - self.delta))

    def encoding(self) -> bytes:
        """What there is to know of the form, as bytes."""
        facts = f"{self.plan!r}:{self.extras}:{self.gamma!r}:{self.delta!r}"
        return signing.message(
            "carpool/dp/noisy-form", VERSION, [described(self.grid), facts.encode(), self.rotation]
        )

    def task_hash(self, wire: bytes) -> bytes:
        """The hash of all that a vehicle was sent and goes by, 32 bytes."""
        return task_digest(wire, self.encoding())

    def encode(
        self, vectors: Mapping[str, Vector], weight: float, loss: float, rng: np.random.Generator
    ) -> Ring:
        """A contribution as uint32 [numbers]: with its noise, or, with extras, still without (`finish`).

        Raises VehicleError for unsound vectors. Clipped once more: the bound is the mechanism's own.
        """
        if vectors.keys() != self.grid.sizes.keys():
            raise VehicleError(f"a contribution carries {list(self.grid.sizes)}, not {sorted(vectors)}")
        joined = np.concatenate([vectors[name] for name in self.grid.slices])
        if not self.extras:
            return skellam.encode(self.plan, joined, self.rotation, self.source)
        return skellam.quantised(self.plan, joined, self.rotation, self.source).view(np.uint32)

    def finish(self, ring: Ring, roster: int, seeds: Sequence[bytes]) -> Ring:
        """With the noise of a roster of so many: the base and a component for each seed."""
        if not self.extras:
            return ring
        shares = noise_levels.shares(roster, self.delta, self.extras)
        noise = vehicle_noise(self.total_variance, shares, seeds, self.source, self.numbers)
        noisy: Ring = ring + noise.astype(np.uint32)
        shorten(noisy, self.bits)
        return noisy

    def realised(self, roster: int, counted: int) -> float:
        """Variance of the noise that is `sure` in a sum of `counted` vehicles of a roster, squared steps."""
        adding = sure(counted, roster, self.gamma, self.relation)
        if not self.extras:
            return adding * self.plan.variance
        shares = noise_levels.shares(roster, self.delta, self.extras)
        gone = noise_levels.revealed(roster, counted, self.delta, self.extras)
        return remaining(self.total_variance, shares, adding, gone)

    def event(self, roster: int, counted: int) -> Event:
        """What the sum of these is charged as; raises RoundError where nobody's noise is sure."""
        found = self.realised(roster, counted)
        if not found > 0:
            raise RoundError(
                f"of {counted} vehicles in the sum of a roster of {roster}, as many may lie "
                f"(privacy.secagg.corrupt_fraction {self.gamma:g}): nobody's noise is sure, void round"
            )
        return self.plan.event(found)

    def strip(self, total: Ring, roster: int, revealed: Mapping[int, Mapping[int, bytes]]) -> None:
        """Take the noise of revealed seeds (vehicle, component: seed) off a sum, in place."""
        if self.extras:
            variances = part_variances(
                self.total_variance, noise_levels.shares(roster, self.delta, self.extras)
            )
            for vehicle in sorted(revealed):
                for k, seed in sorted(revealed[vehicle].items()):
                    take_off(total, seed, variances[k])
        shorten(total, self.bits)

    def decode(self, total: Ring, count: int) -> Sums:
        """The noisy sum as float32 by channel; the rest of what is said of a sum is not said."""
        joined = skellam.decode(self.plan, total, self.rotation)
        sums = {name: joined[place] for name, place in self.grid.slices.items()}
        return Sums(sums, float(count), None, 0)


def form_for(
    protection: Protection,
    sizes: Mapping[str, int],
    *,
    most: int,
    n_min: int,
    bits: skellam.Width,
    rotation: bytes,
    gamma: float,
    delta: float,
    extras: int,
    variance: float,
    seed: int = 0,
    purpose: str = "skellam",
) -> GridForm | NoisyForm:
    """The form of a private sum; variance: of the protocol's own error. Raises ValueError where none fits.

    seed, purpose: of a generator that is NOT PRIVATE, where the protection says so: another purpose for each
    vehicle and round.
    """
    grid = Grid(sizes, protection.clip_norm)
    if protection.mechanism in ON_THE_SUM:
        room = most_in_ring(protection.noise_multiplier, bits)
        if most > room:
            raise ValueError(
                f"sums of {most} vehicles and their noise do not fit into {bits} bits, which have room for "
                f"{room}; use privacy.secagg.bits = 32, ask fewer, or use mechanism distributed"
            )
        return GridForm(grid, most, bits)
    # XNoise keeps its target for every roster; without it, all who lie may be among the n_min that stay.
    planned = honest(n_min, n_min if extras else most, gamma, protection.relation)
    spread = 1.0
    if extras:  # what a vehicle adds at first, over what it would add for a sum of n_min without XNoise
        if gamma + delta >= 1:
            raise ValueError(f"shares {gamma} that lie and {delta} that leave: nobody is left to add noise")
        spread = max(1.0, planned / (n_min * (1 - delta) * (1 - gamma / (1 - delta))))
    plan = skellam.Plan(
        grid.size,
        protection.clip_norm,
        protection.noise_multiplier,
        planned,
        most,
        bits,
        spread,
        variance,
    )
    source = bits_of(protection.private, seed, purpose)
    return NoisyForm(grid, plan, rotation, source, extras, gamma, delta, protection.relation)


def described(grid: Grid) -> bytes:
    """Channels and clip norm in words."""
    rows = ",".join(f"{name}={size}" for name, size in grid.sizes.items())
    return f"{rows}:{grid.clip_norm!r}".encode()
