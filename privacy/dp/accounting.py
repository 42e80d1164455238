"""From the facts of a ledger to (epsilon, delta): one function, `epsilon`, and nothing is guessed.

Unit: whatever the events' sensitivities are of. Relations: zero-out and add-remove move the sum by the
    sensitivity, replace-one by twice that; it is this file that doubles it, no library is trusted with it.
Accountants, and when `auto` takes them:
    closed  Gaussian and matrix noise without sampling: exact, Balle and Wang 2018 (closed.py)
    pld     with Poisson sampling: privacy loss distributions, dp-accounting, rounded against us
    rdp     with Skellam noise: the Rényi bound (skellam_rdp.py), to which Gaussian events add
Sampled Gaussian: (1-q) N(0) + q N(1) against N(0), both ways, under zero-out and add-remove (Zhu, Dong and
    Wang 2022, arXiv:2106.08567, Theorem 11); (1-q) N(0) + q N(1) against (1-q) N(0) + q N(-1) under
    replace-one. That this pair dominates in any dimension: for a >= 1 the divergence of neighbours x, x' is
    E f(W) with f(w) = q max(0, 1 - w) convex and W = c e^(G - var G / 2) + c' e^(G' - var G' / 2), where G
    and G' are Gaussian of variances |x|^2, |x - x'|^2, covariance <x, x - x'>, over the noise's. E f(W)
    grows with each of the three (Kahane 1986), and x' = -x of length 1 has the largest of each: 1, 4 and 2.
    Symmetry gives a < 1, joint convexity whatever the others do.
Not covered: sampling of Skellam or matrix releases (refused: those who learn the sum know whom they asked);
    the central-limit accountant (GDP) lies below the truth and is not offered.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from carpool.privacy.dp import closed, renyi, skellam_rdp
from carpool.privacy.dp.events import RELATIONS, Event, Relation
from carpool.privacy.errors import PrivacyRefused, UsageError

if TYPE_CHECKING:
    from carpool.privacy.dp.renyi import Curve

Accountant = Literal["closed", "pld", "rdp"]
Choice = Literal["auto", "closed", "pld", "rdp"]
CHOICES: tuple[Choice, ...] = ("auto", "closed", "pld", "rdp")

INTERVAL = 1e-4  # of the loss, between two points of a distribution
SMALLEST_DELTA = 1e-11  # below, the rounding of PLD's Fourier transforms is no longer small beside delta
LARGEST_PLD = 1000.0  # an epsilon above which a sharper value is worth nothing
MOST_POINTS = 1e6  # of a distribution
MOST_RELEASES = 2_000_000  # beyond, composing distributions takes minutes
DISTINCT = 16  # kinds of sampled releases, each of which needs a distribution of its own


@dataclass(frozen=True)
class Epsilon:
    """What was spent. epsilon: 0 or more, inf without noise; gaussian: with Skellam noise in it, the epsilon
    of Gaussian noise of the same variances by the same accountant, None otherwise."""

    epsilon: float
    delta: float
    accountant: Accountant
    gaussian: float | None = None


def epsilon(
    events: Iterable[Event], delta: float, relation: Relation, *, accountant: Choice = "auto"
) -> Epsilon:
    """What all the events together cost; order does not matter.

    delta: 0 < delta < 1. accountant: "auto" gives the value to report; the others are for comparison.
    Raises UsageError on a delta, relation or accountant that does not fit, PrivacyRefused on an event
    of an unknown mechanism or of facts that no theorem here covers.
    """
    checked(delta, relation)
    merged = merge(events)
    if accountant not in CHOICES:
        raise UsageError(f"accountant {accountant!r} is unknown; use one of {', '.join(CHOICES)}")
    if not merged:
        return Epsilon(0.0, delta, "closed")
    sampled = any(event.sampling_rate < 1 for event in merged)
    skellam = any(event.mechanism == "skellam" for event in merged)
    if accountant == "closed" and (sampled or skellam):
        raise UsageError("the closed form knows Gaussian noise without sampling alone; use --accountant auto")
    if accountant == "pld" and skellam:
        raise UsageError("no loss distribution of Skellam noise is known here; use --accountant auto")
    if any(event.noise_multiplier == 0 for event in merged):
        return Epsilon(math.inf, delta, "closed")
    if accountant == "closed" or (accountant == "auto" and not sampled and not skellam):
        return Epsilon(closed.epsilon_of(strength(merged, relation), delta), delta, "closed")
    bound = renyi.epsilon_of(total_curve(merged, relation), delta)
    if accountant == "rdp" or skellam:
        twin = _gaussian_twin(merged, relation, delta) if skellam else None
        return Epsilon(bound, delta, "rdp", twin)
    return _by_pld(merged, delta, relation, bound)


def checked(delta: float, relation: str) -> None:
    """Raise UsageError unless 0 < delta < 1 and the relation is a known one."""
    if not 0 < delta < 1:
        raise UsageError(f"delta is {delta}; use a number above 0 and below 1, such as 1e-5")
    if relation not in RELATIONS:
        raise UsageError(f"relation {relation!r} is unknown; use one of {', '.join(RELATIONS)}")


def merge(events: Iterable[Event]) -> list[Event]:
    """Alike events as one of the summed count, in order of first appearance; raises PrivacyRefused."""
    counts: dict[Event, int] = {}
    for event in events:
        covered(event)
        one = event if event.count == 1 else replace(event, count=1)
        counts[one] = counts.get(one, 0) + event.count
    return [replace(one, count=count) for one, count in counts.items()]


def covered(event: Event) -> None:
    """Raise PrivacyRefused unless a theorem of this package covers the event."""
    if event.mechanism not in ("gaussian", "skellam", "matrix"):
        raise PrivacyRefused(
            f"no accountant for releases of mechanism {event.mechanism!r}: their epsilon is unknown; use a "
            "Carpool that knows them"
        )
    if event.sampling_rate < 1 and event.mechanism != "gaussian":
        raise PrivacyRefused(
            f"sampling at {event.sampling_rate} makes no {event.mechanism} release cheaper: who sees the sum "
            "knows who was asked; record a sampling rate of 1"
        )
    if event.mechanism == "skellam" and event.sensitivity / event.step > event.l1 * (1 + 1e-9):
        raise PrivacyRefused(
            f"a Skellam release of L2 sensitivity {event.sensitivity / event.step} and L1 sensitivity "
            f"{event.l1} steps cannot be: L1 is never the smaller one; record both as they are after rounding"
        )


def factor(relation: Relation) -> int:
    """By how many sensitivities neighbours move a sum."""
    return 2 if relation == "replace-one" else 1


def strength(events: Iterable[Event], relation: Relation) -> float:
    """The mu of closed.py of Gaussian and matrix events without sampling; inf without noise."""
    terms = []
    for event in events:
        if event.noise_multiplier == 0:
            return math.inf
        terms.append(math.sqrt(event.count) * event.sensitivity * factor(relation) / event.noise_multiplier)
    return math.hypot(*terms)


def total_curve(events: Iterable[Event], relation: Relation) -> Curve:
    """The Rényi curve of all events together; a new array."""
    total = 0 * renyi.ORDERS
    for event in events:
        total += curve(event, relation) * event.count
    return total


def curve(event: Event, relation: Relation) -> Curve:
    """The Rényi curve of ONE of the event's releases; inf without noise."""
    if event.noise_multiplier == 0:
        return 0 * renyi.ORDERS + math.inf
    noise = event.noise_multiplier / event.sensitivity
    if event.mechanism == "skellam":
        times = factor(relation)
        deviation = event.noise_multiplier / event.step
        variance = deviation * deviation  # ** would raise where this overflows
        return skellam_rdp.curve(variance, times * event.l1, times * event.sensitivity / event.step)
    if event.sampling_rate < 1:
        return renyi.sampled_gaussian(noise, event.sampling_rate, relation == "replace-one")
    return renyi.gaussian(noise / factor(relation))


def _gaussian_twin(events: Sequence[Event], relation: Relation, delta: float) -> float:
    """Epsilon, by the same accountant, had the Skellam noise been Gaussian."""
    skellam = [event for event in events if event.mechanism == "skellam"]
    others = total_curve((event for event in events if event.mechanism != "skellam"), relation)
    return renyi.epsilon_of(others + renyi.gaussian(1 / strength(skellam, relation)), delta)


def distributed(counts: Mapping[Event, int], delta: float) -> bool:
    """Whether loss distributions give a value sharper than the Rényi bound in bearable time.

    counts: how often the event of each kind was released; the count in the event itself is ignored.
    """
    sampled = [number for event, number in counts.items() if event.sampling_rate < 1]
    return (
        delta >= SMALLEST_DELTA
        and len(sampled) <= DISTINCT
        and sum(sampled) <= MOST_RELEASES
        and all(event.mechanism != "skellam" and event.noise_multiplier > 0 for event in counts)
    )


def _by_pld(events: Sequence[Event], delta: float, relation: Relation, bound: float) -> Epsilon:
    """The smaller of two upper bounds: PLD's, and the Rényi `bound`."""
    if bound == 0 or bound > LARGEST_PLD or not distributed({event: event.count for event in events}, delta):
        return Epsilon(bound, delta, "rdp")
    plain = strength((event for event in events if event.sampling_rate == 1), relation)
    sampled = [event for event in events if event.sampling_rate < 1]
    interval = _interval(sampled, bound)
    total = _plain_distribution(plain, interval)
    for event in sampled:
        noise = event.noise_multiplier / event.sensitivity
        one = _distribution(noise, event.sampling_rate, relation == "replace-one", interval)
        total = total.compose(one.self_compose(event.count))
    found = float(total.get_epsilon_for_delta(delta))
    return Epsilon(found, delta, "pld") if found <= bound else Epsilon(bound, delta, "rdp")


def _interval(sampled: Sequence[Event], bound: float) -> float:
    """INTERVAL, times a power of two.

    Finer where epsilon or one release's losses are tiny, coarser where epsilon is so large that nobody reads
    its third decimal, or where a distribution would fill the memory.
    """
    size = bound / 20 if bound > 20 else min(1.0, bound / 0.1)
    most = 4 * bound
    for event in sampled:
        noise = event.noise_multiplier / event.sensitivity
        # Rounding adds up to interval^2 / 4 to a loss's variance of about (rate / noise)^2, `count` times.
        harmless = max(event.sampling_rate / noise / 8, 4e-4 * bound / math.sqrt(event.count))
        size = min(size, harmless / INTERVAL)
        most = max(most, (10 * noise + 2) / noise / noise)
    size = max(size, most / MOST_POINTS / INTERVAL)
    return INTERVAL * 2.0 ** math.ceil(math.log2(size))


def _plain_distribution(mu: float, interval: float) -> Any:
    """Losses of all releases without sampling: those of one Gaussian, or of nothing."""
    from dp_accounting.pld import privacy_loss_distribution as losses

    if mu == 0:
        return losses.identity(interval)
    return losses.from_gaussian_mechanism(1 / mu, value_discretization_interval=interval)


@lru_cache(maxsize=DISTINCT)
def _distribution(noise: float, rate: float, replaced: bool, interval: float) -> Any:
    """Losses of one sampled release, both directions, rounded against us."""
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld import privacy_loss_distribution as losses

    return losses.from_gaussian_mechanism(
        noise,
        sampling_prob=rate,
        value_discretization_interval=interval,
        # REPLACE_ONE is the pair of the module's docstring; dp-accounting calls zero-out REPLACE_SPECIAL.
        neighboring_relation=(
            NeighboringRelation.REPLACE_ONE if replaced else NeighboringRelation.ADD_OR_REMOVE_ONE
        ),
    )
