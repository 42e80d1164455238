"""What DP-SGD on the vehicle costs: the facts of a training, its event, and epsilon over the rounds.

Unit: one example (a sample at one place of one vehicle), which must lie in no other vehicle. Neighbours:
    zero-out, the example adds nothing to any gradient; replace-one, it is another one. Not add-remove: how
    many examples a vehicle has is public, as its sampling rate, its steps and its weight follow from it.
Sensitivity: clip_norm, of the sum of a step's gradients, each clipped by itself (example_sum.py). Every step
    is a release of its own, charged whether its batch had examples or none.
Theorem: Abadi et al. 2016, arXiv:1607.00133, Algorithm 1; the accountant's for the sampled Gaussian, which
    needs Poisson sampling: each example by itself, with secret randomness (example_sum.poisson).
    Examples of different vehicles: parallel composition (McSherry 2009, Theorem 4), so that a fleet's
    epsilon is its dearest vehicle's.
Event: gaussian, noise multiplier z, sampling rate q = batch / examples, count = steps.
Not covered: examples that are alike. A second of driving is many frames of one scene, and who knows one of
    them knows them all; for a whole vehicle use unit "vehicle".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from carpool.privacy.dp import accounting, calibrate
from carpool.privacy.dp.events import RELATIONS, Event, Relation
from carpool.privacy.dp.odometer import Part
from carpool.privacy.errors import PrivacyRefused


@dataclass(frozen=True)
class Training:
    """A vehicle's training in one round, as the experiment sets it.

    batch: expected examples of a batch, at most all; epochs: times that an example is expected to be drawn;
    steps: exactly so many batches instead (0: by epochs). Raises ValueError.
    """

    batch: int
    epochs: int = 1
    steps: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1 or self.epochs < 1 or self.steps < 0:
            raise ValueError(
                f"batches of {self.batch}, {self.epochs} epochs, {self.steps} steps: use 1 or more of the "
                "first two, 0 or more of the last"
            )

    def expected(self, examples: int) -> int:
        """Examples that a batch has on average, the public number that its sum is divided by; ValueError."""
        if examples < 1:
            raise ValueError(f"a vehicle with {examples} examples trains nothing")
        return min(self.batch, examples)

    def rate(self, examples: int) -> float:
        """With what chance each example is in a batch, 0 < q <= 1."""
        return self.expected(examples) / examples

    def taken(self, examples: int) -> int:
        """Batches of one round."""
        return self.steps or self.epochs * math.ceil(examples / self.expected(examples))

    def event(self, noise_multiplier: float, examples: int, rounds: int = 1) -> Event:
        """What `rounds` >= 1 rounds of a vehicle with so many examples release."""
        count = self.taken(examples) * rounds
        return Event("gaussian", noise_multiplier, self.rate(examples), count)

    def part(self, noise_multiplier: float, examples: int) -> Part:
        """One round for the vehicle's own odometer: it draws its examples itself, so that the rate counts."""
        return Part(self.event(noise_multiplier, examples), own_sampling=True)


@dataclass(frozen=True)
class Spent:
    """epsilon: of the dearest vehicle, 0 where nobody took part; vehicle: which, -1 for none."""

    epsilon: float
    delta: float
    vehicle: int
    accountant: accounting.Accountant


def covered(relation: str) -> Relation:
    """The relation, if example-level training keeps a promise under it; raises PrivacyRefused."""
    for known in RELATIONS:
        if relation == known != "add-remove":
            return known
    raise PrivacyRefused(
        f'relation {relation!r} at unit "example" would have to hide how many examples a vehicle has, but '
        'its steps and sampling rate show that; use "zero-out", which costs the same, or "replace-one"'
    )


def spent(
    sizes: Sequence[int],
    rounds: Sequence[int],
    training: Training,
    noise_multiplier: float,
    delta: float,
    relation: Relation,
    *,
    accountant: accounting.Choice = "auto",
) -> Spent:
    """Epsilon of the dearest vehicle after the rounds that each took part in, whatever came of them.

    sizes: examples of each vehicle; rounds: of each, 0 or more. Raises PrivacyRefused and UsageError as
    `accounting.epsilon` does, ValueError for other lengths.
    """
    covered(relation)
    accounting.checked(delta, relation)
    if len(sizes) != len(rounds):
        raise ValueError(f"{len(sizes)} sizes for {len(rounds)} vehicles")
    dearest = Spent(0.0, delta, -1, "closed")
    for bound, vehicle, event in _candidates(sizes, rounds, training, noise_multiplier, delta, relation):
        if bound <= dearest.epsilon:  # and so are all that follow
            break
        found = accounting.epsilon((event,), delta, relation, accountant=accountant)
        if found.epsilon > dearest.epsilon:
            dearest = Spent(found.epsilon, delta, vehicle, found.accountant)
    return dearest


def noise_multiplier(
    sizes: Sequence[int],
    rounds: Sequence[int],
    training: Training,
    epsilon: float,
    delta: float,
    relation: Relation,
) -> float:
    """The noise with which no vehicle costs more than `epsilon`, at most 1e-3 above the least.

    rounds: the most that each may take part in; where nothing bounds it, all rounds of the experiment. Often
    it is the smallest vehicle's noise, but not always: with a sample more than a batch, a vehicle has twice
    the steps at nearly the same rate. Raises UsageError, PrivacyRefused and ValueError as `spent`.
    """
    covered(relation)
    needed = 0.0
    # Who is dearest hardly depends on the noise: one search or two will do.
    for _ in range(len(sizes) + 1):
        worst = spent(sizes, rounds, training, needed or 1.0, delta, relation)
        if worst.vehicle < 0 or (needed and worst.epsilon <= epsilon):
            break
        size, times = sizes[worst.vehicle], rounds[worst.vehicle]
        rate, count = training.rate(size), training.taken(size) * times
        needed = max(needed, calibrate.calibrate(epsilon, delta, count, rate, relation))
    return needed


def _candidates(
    sizes: Sequence[int],
    rounds: Sequence[int],
    training: Training,
    noise: float,
    delta: float,
    relation: Relation,
) -> list[tuple[float, int, Event]]:
    """Those who may be dearest: a Rényi bound that is no less than what they cost, vehicle, event.

    In falling order of the bound. Left out is who has no higher rate and no more steps than another: the
    cost grows with both (a smaller rate is the larger one, sampled once more).
    """
    alike: dict[tuple[float, int], int] = {}
    for vehicle, (size, times) in enumerate(zip(sizes, rounds, strict=True)):
        if times < 0:
            raise ValueError(f"vehicle {vehicle} took part in {times} rounds")
        if times:
            alike.setdefault((training.rate(size), training.taken(size) * times), vehicle)
    found, most = [], 0
    for (rate, count), vehicle in sorted(alike.items(), key=lambda item: (-item[0][0], -item[0][1])):
        if count > most:
            most, event = count, Event("gaussian", noise, rate, count)
            bound = accounting.epsilon((event,), delta, relation, accountant="rdp").epsilon
            found.append((bound, vehicle, event))
    return sorted(found, key=lambda one: (-one[0], one[1]))
