"""A round that is right, to try the audit on: clipped sums with Gaussian noise, from the server or in shares.

Written to be read beside a mechanism, and to be broken on purpose (each step is a method). Its noise is in
floating point, so it is NOT a mechanism to use: privacy.dp has those.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from carpool.privacy.audit.rounds import Ask, Block, Claim, Contribution, Numbers, Part, Released
from carpool.privacy.dp import accounting
from carpool.privacy.dp.events import Event, Relation
from carpool.privacy.errors import RoundError, VehicleError

UPDATE = "update"
"""Name of the one part."""
SHAPES: Mapping[str, tuple[int, ...]] = {"body": (60, 100), "head": (43, 40), "bias": (43,)}
"""Some 7,800 numbers: enough, in four rounds, to see noise that is 5 % too small."""


def reference_claim(
    shapes: Mapping[str, tuple[int, ...]] = SHAPES,
    *,
    clip_norm: float = 0.5,
    noise_multiplier: float = 1.0,
    planned: int = 20,
    relation: Relation = "zero-out",
    shared: bool = False,
    delta: float = 1e-5,
    rounds: int = 10,
) -> Claim:
    """The claim of a `Reference`. shared: each of the planned vehicles adds its part of the noise."""
    divisor = float(planned)
    blocks = {name: Block(math.prod(shape), clip_norm, divisor) for name, shape in shapes.items()}
    sensitivity = float(accounting.factor(relation))
    event = Event("gaussian", noise_multiplier, count=rounds)
    return Claim(
        shapes,
        clip_norm,
        (Part(UPDATE, blocks, noise_multiplier, sensitivity),),
        planned,
        accounting.epsilon([event], delta, relation).epsilon,
        delta,
        rounds,
        relation,
        "vehicle" if shared else "server",
        0.0 if shared else 1.0,
    )


class Reference:
    """The mean of clipped contributions over the planned cohort, with noise; a `Round`."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.part = claim.parts[0]

    def __call__(self, ask: Ask) -> Released:
        """Run one round."""
        vectors: dict[str, Numbers] = {}
        refused = []
        for one in ask.cohort:
            if one.vehicle in ask.lost:
                continue
            try:
                if one.vehicle in vectors:
                    raise VehicleError(f"{one.vehicle} sent twice; it is counted once")
                vectors[one.vehicle] = self.weighed(self.clipped(self.accepted(one)), one.weight)
            except VehicleError:
                refused.append(one.vehicle)
        if not vectors and self.claim.noise == "vehicle":
            raise RoundError("nobody is left to add noise; the round is void")
        total = self.total(list(vectors.values()))
        noisy = total + self.noise(ask, list(vectors))
        return Released(
            {name: block / self.divisor(len(vectors)) for name, block in self.blocks(noisy).items()},
            tuple(vectors),
            tuple(refused),
            {self.part.name: self.event(len(vectors))},
            self.blocks(total) if ask.exact else None,
        )

    def accepted(self, one: Contribution) -> Numbers:
        """All tensors as one float64 [d]; VehicleError for any that is not a finite float32 of its shape."""
        shapes = self.claim.tensors
        if not (math.isfinite(one.weight) and one.weight > 0) or set(one.tensors) != set(shapes):
            raise VehicleError(f"a weight of {one.weight} or tensors {sorted(one.tensors)} do not fit")
        for name, shape in shapes.items():
            tensor = one.tensors[name]
            if tensor.dtype != np.float32 or tensor.shape != shape or not np.isfinite(tensor).all():
                raise VehicleError(f"{name} is no finite float32 of shape {shape}")
        return np.concatenate([one.tensors[name].astype(np.float64).reshape(-1) for name in shapes])

    def clipped(self, vector: Numbers) -> Numbers:
        """To the clip norm, over all tensors together."""
        norm = math.sqrt(float(vector @ vector))
        return vector * min(1.0, self.claim.clip_norm / norm) if norm > 0 else vector

    def weighed(self, vector: Numbers, weight: float) -> Numbers:
        """All vehicles count alike."""
        return vector

    def total(self, vectors: Sequence[Numbers]) -> Numbers:
        """The sum, float64 [d]."""
        return np.sum(vectors, axis=0) if vectors else np.zeros(self.claim.size)

    def divisor(self, counted: int) -> float:
        """A public constant: the planned cohort, whoever replied."""
        return float(self.claim.planned)

    def noise(self, ask: Ask, counted: Sequence[str]) -> Numbers:
        """Of the sum, float64 [d]: the server's, or the shares of those counted."""
        if self.claim.noise == "server":
            return self.gaussian(ask, "server", self.std)
        share = self.std / math.sqrt(self.claim.planned)
        shares = [self.gaussian(ask, vehicle, share) for vehicle in counted]
        return np.asarray(np.sum(shares, axis=0))

    @property
    def std(self) -> float:
        """Of the whole noise on each number of the sum, weight units."""
        return self.part.noise_multiplier * self.claim.clip_norm

    def gaussian(self, ask: Ask, who: str, std: float) -> Numbers:
        """Noise that depends on the randomness, the round and who adds it."""
        return self.generator(ask, who).normal(0.0, std, self.claim.size)

    def generator(self, ask: Ask, who: str) -> np.random.Generator:
        """A stream for each who and round; of the operating system's entropy where no randomness is given."""
        if ask.randomness is None:
            return np.random.default_rng()
        return np.random.default_rng([ask.randomness, ask.number, *who.encode()])

    def event(self, counted: int) -> Event:
        """What the release is charged as: the noise that is there."""
        z = self.part.noise_multiplier
        if self.claim.noise == "vehicle":
            z *= math.sqrt(counted / self.claim.planned)
        return Event("gaussian", z)

    def blocks(self, vector: Numbers) -> dict[str, Numbers]:
        """A vector [d] tensor by tensor."""
        found, start = {}, 0
        for name, shape in self.claim.tensors.items():
            size = math.prod(shape)
            found[name] = vector[start : start + size].reshape(shape)
            start += size
        return found


class NoLeak(Reference):
    """Releases noise alone, whatever it is handed: there is nothing to find."""

    def total(self, vectors: Sequence[Numbers]) -> Numbers:
        """Of nobody."""
        return np.zeros(self.claim.size)


class Forgetful(Reference):
    """Forgets its noise: what an audit must find."""

    def noise(self, ask: Ask, counted: Sequence[str]) -> Numbers:
        """None."""
        return np.zeros(self.claim.size)


def without_leak(claim: Claim) -> Claim:
    """The claim of `NoLeak`: a vehicle moves nothing."""
    return replace(claim, parts=tuple(replace(part, sensitivity=0.0) for part in claim.parts))
