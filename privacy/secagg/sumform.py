"""How the vectors of a contribution become the one vector that is masked, and a sum of such vectors floats.

    channel 1 | channel 2 | ... | weight, weighted loss, clipped        whole numbers mod 2^bits

Everything that a vehicle says of its work is inside the mask: its weight (by which it multiplies the
weighted channels itself, as a part of the largest that counts), its mean loss and whether a vector was
clipped. Channels are rotated each by itself. What a number means (sizes, norms, Q) is public, and part of the
task's hash.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from carpool.privacy import signing
from carpool.privacy.errors import RoundError, VehicleError
from carpool.privacy.secagg.masks import Ring
from carpool.privacy.secagg.quantise import ROUNDING, Bits, Quantiser
from carpool.privacy.vectors import Vector, check_vector

VERSION = 1
TAIL = 3
MOST_LOSS = 100.0
"""A mean loss above is said to be this."""
_SLACK = 1 + 1e-5
_FULL = 1 - 1e-6


@dataclass(frozen=True)
class Part:
    """One channel: float32 [size] of L2 norm at most `clip`; weighted: multiplied by the vehicle's weight."""

    name: str
    size: int
    clip: float
    weighted: bool


@dataclass(frozen=True)
class Sums:
    """What a sum comes to: float32 by channel, the total weight, the mean loss, how many clipped a vector."""

    sums: Mapping[str, Vector]
    weight: float
    loss: float | None
    clipped: int


class Form(Protocol):
    """How contributions become masked numbers: plain sums here, private ones in privacy/dp/forms.py."""

    @property
    def numbers(self) -> int:
        """Length of the masked vector."""

    @property
    def bits(self) -> Bits:
        """Of the ring."""

    @property
    def levels(self) -> int:
        """Q: numbers of one vehicle lie in -Q..Q, before any noise."""

    @property
    def noise(self) -> int:
        """Variance that each vehicle adds, squared steps."""

    def encoding(self) -> bytes:
        """What there is to know of the form, as bytes: part of the hash of the task."""

    def task_hash(self, wire: bytes) -> bytes:
        """The hash of all that a vehicle was sent and goes by, 32 bytes."""

    def encode(
        self, vectors: Mapping[str, Vector], weight: float, loss: float, rng: np.random.Generator
    ) -> Ring:
        """A contribution as uint32 [numbers]."""

    def finish(self, ring: Ring, roster: int, seeds: Sequence[bytes]) -> Ring:
        """The same with what depends on the roster."""

    def decode(self, total: Ring, count: int) -> Sums:
        """A sum of `count` contributions."""


@dataclass(frozen=True)
class SumForm:
    """The form of a round's masked vectors, for sums of up to `most` vehicles.

    most_weight: a larger weight counts as this; rotation: 16 public bytes, None for no rotation; variance: of
    what each vehicle adds beyond its numbers (an error of the protocol), squared steps. ValueError where
    nothing would be left to represent.
    """

    parts: tuple[Part, ...]
    most: int
    most_weight: float
    bits: Bits = 32
    rotation: bytes | None = None
    variance: float = 0.0

    def __post_init__(self) -> None:
        if not self.parts or not 0 < self.most_weight < math.inf:
            raise ValueError(
                f"{len(self.parts)} channels and a largest weight of {self.most_weight} are no form"
            )
        self.quantisers  # noqa: B018  # raises

    @cached_property
    def quantisers(self) -> tuple[Quantiser, ...]:
        """One for each channel, and one for the three numbers behind them."""
        common = (self.most, self.bits)
        channels = [
            Quantiser(part.size, part.clip, *common, self._turned(place), self.variance)
            for place, part in enumerate(self.parts)
        ]
        return (*channels, Quantiser(TAIL, 1.0, *common, None, self.variance))

    def _turned(self, place: int) -> bytes | None:
        if self.rotation is None or self.parts[place].size == 1:
            return None
        return hashlib.sha256(self.rotation + bytes((place,))).digest()[:16]

    @property
    def numbers(self) -> int:
        """Length d of the masked vector."""
        return sum(one.padded for one in self.quantisers)

    @property
    def levels(self) -> int:
        """Q: numbers of one vehicle lie in -Q..Q."""
        return self.quantisers[0].levels

    @property
    def noise(self) -> int:
        """Variance that each vehicle adds, squared steps."""
        return 0

    def finish(self, ring: Ring, roster: int, seeds: Sequence[bytes]) -> Ring:
        """Nothing more is added."""
        return ring

    def encoding(self) -> bytes:
        """What there is to know of the form, as bytes: part of the hash of the task."""
        rows = [f"{p.name}:{p.size}:{p.clip!r}:{int(p.weighted)}" for p in self.parts]
        facts = f"{self.most}:{self.most_weight!r}:{self.bits}:{self.variance!r}"
        parts = [*(row.encode() for row in rows), facts.encode(), self.rotation or b""]
        return signing.message("carpool/secagg/form", VERSION, parts)

    def task_hash(self, wire: bytes) -> bytes:
        """The hash of all that a vehicle was sent and goes by: the task's bytes, and this form. 32 bytes."""
        return task_digest(wire, self.encoding())

    def encode(
        self, vectors: Mapping[str, Vector], weight: float, loss: float, rng: np.random.Generator
    ) -> Ring:
        """A contribution as uint32 [numbers]; rng: of the rounding. Raises VehicleError for unsound vectors.

        vectors: float32 by channel, clipped already; weight: above 0; loss: the mean loss of its training.
        """
        if vectors.keys() != {part.name for part in self.parts}:
            raise VehicleError(
                f"a contribution carries {[p.name for p in self.parts]}, not {sorted(vectors)}"
            )
        if not (math.isfinite(weight) and weight > 0 and math.isfinite(loss)):
            raise VehicleError(f"a weight of {weight} and a loss of {loss} cannot be counted")
        share = min(weight, self.most_weight) / self.most_weight
        encoded, clipped = [], weight > self.most_weight
        for part, quantiser in zip(self.parts, self.quantisers, strict=False):
            vector = vectors[part.name]
            check_vector(vector, part.size, part.name)
            norm = math.sqrt(float(np.dot(vector, vector)))
            if norm > part.clip * _SLACK:
                raise VehicleError(f"{part.name} has norm {norm:.6g}, above its clip norm {part.clip:g}")
            clipped = clipped or norm > part.clip * _FULL
            scaled = vector * np.float32(share) if part.weighted else vector
            encoded.append(quantiser.encode(scaled, rng))
        heard = min(max(loss, -MOST_LOSS), MOST_LOSS) / MOST_LOSS
        tail = np.array([share, share * heard, float(clipped)], np.float32)
        encoded.append(self.quantisers[-1].encode(tail, rng))
        return np.concatenate(encoded)

    def decode(self, total: Ring, count: int) -> Sums:
        """The sum of `count` contributions, from uint32 [numbers]; RoundError where it cannot be one.

        Under masks nobody sees a vehicle that adds more than it may: where the sum itself shows it, by more
        weight than there are vehicles or by a norm above the sum of their norms, it is not used.
        """
        if total.shape != (self.numbers,) or not 0 < count <= self.most:
            raise RoundError(f"a sum of {count} vehicles with {total.shape} numbers is not of this form")
        tail = self.quantisers[-1]
        share, heard, clipped = tail.decode(total[-tail.padded :]).tolist()
        slack = 8 * tail.step * math.sqrt(count * (self.variance + 1)) + 1e-6
        if not 0 < share <= count * (1 + slack) or abs(heard) > share + slack:
            raise RoundError(f"the weights of {count} vehicles add up to {share:g} of {count}: void round")
        sums: dict[str, Vector] = {}
        start = 0
        for part, quantiser in zip(self.parts, self.quantisers, strict=False):
            vector = quantiser.decode(total[start : start + quantiser.padded])
            most = (share + slack if part.weighted else count) * part.clip * _SLACK
            most += 8 * quantiser.step * math.sqrt(quantiser.padded * count * (self.variance + ROUNDING))
            if (norm := math.sqrt(float(np.dot(vector, vector)))) > most:
                raise RoundError(
                    f"the sum of {part.name} of {count} vehicles has norm {norm:g}, above {most:g}: somebody "
                    "added more than its clip norm; void round"
                )
            sums[part.name] = vector * np.float32(self.most_weight) if part.weighted else vector
            start += quantiser.padded
        return Sums(
            sums,
            share * self.most_weight,
            heard / share * MOST_LOSS,
            min(count, max(0, round(clipped))),
        )


def task_digest(wire: bytes, form: bytes) -> bytes:
    """SHA-256 over a task's bytes and the form of its sum."""
    return signing.digest("carpool/secagg/task", VERSION, [hashlib.sha256(wire).digest(), form])


def buffered_digest(wire: bytes, form: bytes, version: int) -> bytes:
    """A task as a buffer accepts it: task, form and the model's version at which the buffer steps. 32 bytes.

    wire: SHA-256 of the task's bytes; form: its `encoding`. The version is in it so that a vehicle knows by
    how many its own is older, hence its weight, from nothing but what is announced.
    """
    return signing.digest("carpool/secagg/buffered", VERSION, [wire, form, version.to_bytes(8, "little")])


def parts_of(channels: Sequence[tuple[str, int, float, bool]]) -> tuple[Part, ...]:
    """Parts from (name, size, clip, weighted)."""
    return tuple(Part(*row) for row in channels)
