"""The reference round of the audit with one fault each: the twelve of the design, and more."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from carpool.privacy.audit.reference import UPDATE, Reference, reference_claim
from carpool.privacy.audit.rounds import Released
from carpool.privacy.dp import accounting
from carpool.privacy.dp.events import Event


class NoiseForgotten(Reference):
    def noise(self, ask, counted):
        return np.zeros(self.claim.size)


class NoiseHalved(Reference):
    def noise(self, ask, counted):
        return super().noise(ask, counted) / 2


class NoiseDividedByTheCohort(Reference):
    """Noise for the mean, put on the sum."""

    def noise(self, ask, counted):
        return super().noise(ask, counted) / self.claim.planned


class ClipAfterAggregation(Reference):
    def clipped(self, vector):
        return vector

    def total(self, vectors):
        return Reference.clipped(self, super().total(vectors))


class NoClip(Reference):
    def clipped(self, vector):
        return vector


class ClipByLayer(Reference):
    """The whole C for each tensor."""

    def clipped(self, vector):
        layers = self.blocks(vector).values()
        return np.concatenate([super(ClipByLayer, self).clipped(layer.reshape(-1)) for layer in layers])


class WeightedByWhatTheySay(Reference):
    def weighed(self, vector, weight):
        return weight * vector


class ReplaceOneClaimedWithC(Reference):
    """Its claim is that of zero-out neighbours: sensitivity C, and the epsilon of that."""

    @staticmethod
    def claim_of(**options):
        claim = reference_claim(**options)
        return replace(claim, relation="replace-one")


class ReseededEachRound(Reference):
    def generator(self, ask, who):
        return np.random.default_rng([ask.randomness or 7, *who.encode()])


class NoiseOnTheFirstLayer(Reference):
    def noise(self, ask, counted):
        noise = super().noise(ask, counted)
        noise[math.prod(next(iter(self.claim.tensors.values()))) :] = 0
        return noise


class SharesLost(Reference):
    """Vehicles 0, 1, 2 .. up to a part of the planned ones are counted, but their noise never comes."""

    part_lost = 0.3

    def noise(self, ask, counted):
        silent = [f"vehicle-{number:04d}" for number in range(round(self.part_lost * self.claim.planned))]
        return super().noise(ask, [vehicle for vehicle in counted if vehicle not in silent])


class FewSharesLost(SharesLost):
    part_lost = 0.1


# More than the design lists:


class DividedByReplies(Reference):
    """The mean of those who replied."""

    def divisor(self, counted):
        return float(max(1, counted))


class ForkedGenerator(Reference):
    """One generator of numpy's for the process: children go on with the parent's stream."""

    def __init__(self, claim):
        super().__init__(claim)
        self.rng = np.random.default_rng()

    def generator(self, ask, who):
        return super().generator(ask, who) if ask.randomness is not None else self.rng


class RestartsItsStream(ForkedGenerator):
    """A seed from the configuration: after a restart the same noise comes again."""

    def __init__(self, claim):
        super().__init__(claim)
        self.rng = np.random.default_rng(5)


class OneStreamForAllTensors(Reference):
    def noise(self, ask, counted):
        sizes = [math.prod(shape) for shape in self.claim.tensors.values()]
        return np.concatenate([self.generator(ask, "server").normal(0, self.std, size) for size in sizes])


class SecretlyReportsTheLoss(Reference):
    def __call__(self, ask):
        released = super().__call__(ask)
        return replace(released, vectors={**released.vectors, "loss": np.array([2.3])})


class KeepsNaN(Reference):
    def accepted(self, one):
        return np.concatenate([np.asarray(tensor, float).reshape(-1) for tensor in one.tensors.values()])


class CrashesOnExtraTensors(Reference):
    def accepted(self, one):
        if len(one.tensors) != len(self.claim.tensors):
            raise KeyError(sorted(one.tensors))
        return super().accepted(one)


class CountsDuplicates(Reference):
    def __call__(self, ask):
        fresh = tuple(
            replace(one, vehicle=f"{one.vehicle}#{place}") if any(
                other.vehicle == one.vehicle for other in ask.cohort[:place]
            ) else one
            for place, one in enumerate(ask.cohort)
        )  # fmt: skip
        released = super().__call__(replace(ask, cohort=fresh))
        counted = tuple(name.split("#")[0] for name in released.counted)
        return replace(released, counted=counted)


class ChargesNothing(Reference):
    def __call__(self, ask):
        return replace(super().__call__(ask), charged={})


class ChargesTheNoiseThatWasPlanned(Reference):
    """Dropouts take noise away, and the ledger is not told."""

    def event(self, counted):
        return Event("gaussian", self.part.noise_multiplier)


class ChargesLessThanItPromised(Reference):
    def event(self, counted):
        return Event("gaussian", self.part.noise_multiplier / 2)


class NoiseForZerosAlone(Reference):
    """Leaves its noise away as soon as there is something to hide."""

    def noise(self, ask, counted):
        noise = super().noise(ask, counted)
        return noise if all(one.silent for one in ask.cohort) else 0 * noise


class DropsSilently(Reference):
    def __call__(self, ask):
        return replace(super().__call__(ask), refused=())


class VoidedByOneNaN(Reference):
    def __call__(self, ask):
        released = super().__call__(ask)
        return Released({}, ()) if released.refused else released


class CountsTheLost(Reference):
    def __call__(self, ask):
        released = super().__call__(ask)
        return replace(released, counted=tuple(one.vehicle for one in ask.cohort))


class NotRepeatable(Reference):
    """Ignores the randomness that it is given."""

    def generator(self, ask, who):
        return np.random.default_rng()


def claimed(bug, **options):
    """The claim that a planted fault breaks."""
    shared = issubclass(bug, (SharesLost, ChargesTheNoiseThatWasPlanned))
    make = getattr(bug, "claim_of", reference_claim)
    return make(**{"shared": shared, **options})


def epsilon_of_replace_one(claim):
    """What it should have said."""
    event = Event("gaussian", claim.parts[0].noise_multiplier, count=claim.rounds)
    return accounting.epsilon([event], claim.delta, "replace-one").epsilon


DESIGN = {
    NoiseForgotten: {"noise", "epsilon"},
    NoiseHalved: {"noise", "epsilon"},
    NoiseDividedByTheCohort: {"noise", "epsilon"},
    ClipAfterAggregation: {"difference"},
    NoClip: {"difference"},
    ClipByLayer: {"difference"},
    WeightedByWhatTheySay: {"difference"},
    ReplaceOneClaimedWithC: {"difference", "price", "epsilon"},
    ReseededEachRound: {"correlation"},
    NoiseOnTheFirstLayer: {"noise", "epsilon"},
    SharesLost: {"noise", "epsilon"},
    FewSharesLost: {"noise", "epsilon"},
}
"""Each fault of the design, and exactly the checks that find it."""

MORE = {
    DividedByReplies: {"difference"},
    ForkedGenerator: {"correlation"},
    RestartsItsStream: {"correlation"},
    OneStreamForAllTensors: {"correlation"},
    SecretlyReportsTheLoss: {"form"},
    KeepsNaN: {"crash", "finite", "difference", "counted"},
    CrashesOnExtraTensors: {"crash"},
    CountsDuplicates: {"difference", "counted"},
    ChargesNothing: {"charges"},
    ChargesTheNoiseThatWasPlanned: {"noise", "epsilon"},
    ChargesLessThanItPromised: {"charge", "price"},
    NoiseForZerosAlone: {"noise", "epsilon"},
    DropsSilently: {"refused"},
    VoidedByOneNaN: {"void"},
    CountsTheLost: {"lost", "counted"},
    NotRepeatable: {"replay"},
}
assert UPDATE
