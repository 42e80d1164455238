"""From a target to the noise, or to the number of rounds, that keeps it: searches over the accountant.

Every result was itself accounted and found within the target; noise is at most PRECISION above the least.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Literal

from carpool.privacy.dp import accounting, closed
from carpool.privacy.dp.events import Event, Relation
from carpool.privacy.errors import UsageError

PRECISION = 3e-4  # relative, of the noise multiplier
LARGEST_EPSILON = 1000.0  # above, nothing is promised any more
MOST_ROUNDS = 10_000_000
NOISES = (1e-6, 1e12)  # between which noise is looked for

Plan = Callable[[float], Sequence[Event]]


def calibrate(
    target_epsilon: float,
    delta: float,
    rounds: int,
    sampling_rate: float = 1.0,
    relation: Relation = "zero-out",
    *,
    mechanism: Literal["gaussian", "skellam", "matrix"] = "gaussian",
    sensitivity: float = 1.0,
    l1: float = 0.0,
    step: float = 0.0,
) -> float:
    """Noise multiplier with which `rounds` alike releases cost at most `target_epsilon`.

    Sensitivity, l1 and step are those of an Event; where they depend on the noise, see `noise_for`. For
    "matrix" a release is a whole training. Raises UsageError where a value cannot be meant or none will do.
    """

    def plan(noise: float) -> Sequence[Event]:
        return (Event(mechanism, noise, sampling_rate, rounds, sensitivity, l1, step),)

    if mechanism != "skellam" and sampling_rate == 1:
        _checked(target_epsilon, delta, relation)
        needed = accounting.strength(plan(1.0), relation) / closed.mu_of(target_epsilon, delta)
        needed *= 1 + 1e-9  # so that a sum in another order fits, too
        while accounting.epsilon(plan(needed), delta, relation).epsilon > target_epsilon:
            needed *= 1 + 1e-12  # the last bits
        return needed
    return noise_for(plan, target_epsilon, delta, relation)


def noise_for(plan: Plan, target_epsilon: float, delta: float, relation: Relation) -> float:
    """Smallest noise multiplier z, to PRECISION, with which the events of `plan(z)` cost at most the target.

    plan: pure; more noise may not cost more. Raises UsageError as `calibrate` does.
    """
    _checked(target_epsilon, delta, relation)

    def cost(log_noise: float) -> float:
        spent = accounting.epsilon(plan(math.exp(log_noise)), delta, relation).epsilon
        return math.log(max(spent, 1e-300) / target_epsilon)

    safe = _by_renyi(plan, target_epsilon, delta, relation)
    unsafe, there, slope = -math.inf, cost(safe), 1.5
    for _ in range(100):
        spare = -there / slope
        if spare <= PRECISION / 2 or safe - unsafe <= PRECISION:
            return math.exp(safe)
        guess = safe - spare + PRECISION / 5
        if not unsafe < guess < safe or spare > 1:
            guess = (max(unsafe, safe - 1) + safe) / 2
        found = cost(guess)
        if guess != safe and math.isfinite(found) and found > there:
            slope = min(max((found - there) / (safe - guess), 0.3), 30.0)
        if found <= 0:
            safe, there = guess, found
        else:
            unsafe = guess
    return math.exp(safe)


def _by_renyi(plan: Plan, target_epsilon: float, delta: float, relation: Relation) -> float:
    """Log of a noise that is enough by the Rényi bound, which is never below the value reported; to 1 %."""

    def enough(log_noise: float) -> bool:
        events = plan(math.exp(log_noise))
        spent = accounting.epsilon(events, delta, relation, accountant="rdp").epsilon
        return spent <= target_epsilon

    least, most = (math.log(noise) for noise in NOISES)
    low = high = 0.0  # a plan need not make sense far from where it is used: the search widens from 1
    while not enough(high):
        if high >= most:
            raise UsageError(
                f"no noise up to {NOISES[1]:g} keeps epsilon {target_epsilon} at delta {delta}; take a "
                "larger epsilon or fewer rounds"
            )
        low, high = high, min(high + 1, most)
    while low == high or enough(low):
        if low <= least:
            raise UsageError(f"epsilon {target_epsilon} needs no noise at all here; take a smaller one")
        low, high = max(low - 1, least), low
    while high - low > 0.01:
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def largest_rounds(
    target_epsilon: float, delta: float, event: Event, relation: Relation, others: Iterable[Event] = ()
) -> int:
    """How many releases like `event` (its count is ignored) fit beside `others`; 0 to MOST_ROUNDS.

    Raises UsageError and PrivacyRefused as `accounting.epsilon` does.
    """
    _checked(target_epsilon, delta, relation)
    spent = tuple(others)

    def cost(rounds: int, accountant: accounting.Choice = "auto") -> float:
        more = (replace(event, count=rounds),) if rounds else ()
        return accounting.epsilon((*spent, *more), delta, relation, accountant=accountant).epsilon

    # The Rényi bound is quick and never below the value reported: what fits by it, fits.
    sure = _largest(lambda rounds: cost(rounds, "rdp"), target_epsilon, 0, 1)
    return _largest(cost, target_epsilon, sure, max(1, sure // 8))


def _largest(cost: Callable[[int], float], budget: float, low: int, step: int) -> int:
    """Largest number within the budget, from `low`, which is taken to be unless it is 0; 0 if none is.

    Between two numbers it goes by a power law, which costs nearly follow: each may take PLD a second.
    """
    below, halve = 0.0, False
    high = low + step
    while within(above := cost(high), budget):
        if high >= MOST_ROUNDS:
            return MOST_ROUNDS
        low, below, step = high, above, step * 2
        high = min(MOST_ROUNDS, low + step)
    while high - low > 1:
        middle = (low + high) // 2
        if not halve and below > 0 and math.isfinite(above) and above > below:
            power = math.log(above / below) / math.log(high / low)
            middle = min(max(int(low * (budget / below) ** (1 / power)), low + 1), high - 1)
        width, found = high - low, cost(middle)
        if within(found, budget):
            low, below = middle, found
        else:
            high, above = middle, found
        halve = not halve and high - low > width // 2
    return low


def within(spent: float, budget: float) -> bool:
    """Whether `spent` is at most the budget, but for the last bits of the sums that led to it."""
    return spent <= budget * (1 + 1e-9)


def _checked(target_epsilon: float, delta: float, relation: str) -> None:
    accounting.checked(delta, relation)
    if not 0 < target_epsilon <= LARGEST_EPSILON:
        raise UsageError(
            f"epsilon is {target_epsilon}; use a number above 0 and up to {LARGEST_EPSILON:g}, such as 8"
        )
