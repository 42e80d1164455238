"""When a round ends: pure decisions from counts and times, for a server, a buffer and a peer alike.

A round is closed when every asked vehicle has answered or refused; or when the adaptive deadline has passed
and the quorum is there; or at `max_s` whatever came. Below quorum the round is void and the model stays. What
arrives beyond the cohort before the round closes is counted too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# The median absolute deviation of a normal distribution times this is its standard deviation.
_NORMAL = 1.4826


@dataclass(frozen=True)
class Policy:
    """What the experimenter asked for.

    cohort: replies wanted, >= 1; quorum: share of the cohort, 0 < quorum <= 1, below which a round is void.
    mads: width of the deadline in robust standard deviations, >= 0.
    min_s, max_s: seconds from the start of the round, 0 <= min_s <= max_s, max_s > 0 and finite.
    window: how many of the latest durations the deadline looks at, >= 1.
    """

    cohort: int
    quorum: float = 0.9
    mads: float = 3.0
    min_s: float = 0.0
    max_s: float = 3600.0
    window: int = 200

    def __post_init__(self) -> None:
        if self.cohort < 1:
            raise ValueError(f"cohort is {self.cohort}; it must be at least 1")
        if not 0 < self.quorum <= 1:
            raise ValueError(f"quorum is {self.quorum}; it must be above 0 and at most 1")
        if not 0 <= self.mads < math.inf:
            raise ValueError(f"mads is {self.mads}; it must be a number of at least 0")
        if not (0 <= self.min_s <= self.max_s < math.inf and self.max_s > 0):
            raise ValueError(
                f"min_s is {self.min_s} and max_s {self.max_s}; use 0 <= min_s <= max_s, max_s > 0"
            )
        if self.window < 1:
            raise ValueError(f"window is {self.window}; it must be at least 1")

    @property
    def needed(self) -> int:
        """Replies that make the quorum: quorum x cohort rounded up, at least 1.

        >>> Policy(cohort=20, quorum=0.9).needed, Policy(cohort=10, quorum=0.7).needed
        (18, 7)
        """
        # 0.7 * 10 is 7.000000000000001 in binary: what is an integer up to rounding is that integer.
        return max(1, math.ceil(round(self.quorum * self.cohort, 6)))


@dataclass(frozen=True)
class Progress:
    """Where a round stands.

    asked, arrived (usable replies), refused (vehicles that said no, or whose reply was unusable): counts.
    elapsed: seconds since the round began; durations: seconds each reply of this round took.
    history: durations of recent rounds, oldest first. Those of replies that came too late belong there as
    well: else it holds only the fast vehicles, and the deadline creeps down from round to round.
    """

    asked: int
    arrived: int
    refused: int
    elapsed: float
    durations: tuple[float, ...] = ()
    history: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if min(self.asked, self.arrived, self.refused) < 0 or self.arrived + self.refused > self.asked:
            raise ValueError(
                f"{self.arrived} arrived and {self.refused} refused of {self.asked} asked; "
                "count each vehicle once"
            )
        if not 0 <= self.elapsed < math.inf:
            raise ValueError(f"elapsed is {self.elapsed}; it must be a number of seconds of at least 0")


@dataclass(frozen=True)
class Decision:
    """closed: the round is over. counted: the quorum is met (a round closed without it is void).

    wake: seconds since the start at which to look again if nothing arrives before; None once closed.
    reason: a few words for the log.
    """

    closed: bool
    counted: bool
    wake: float | None
    reason: str


def deadline(policy: Policy, durations: Sequence[float]) -> float:
    """Median + mads x 1.4826 x MAD of the latest durations, held between min_s and max_s; max_s without any.

    durations: finite seconds >= 0, oldest first; raises ValueError.

    >>> deadline(Policy(cohort=4, mads=2.0), [10.0, 11.0, 12.0, 13.0, 900.0])
    14.9652
    """
    latest = np.asarray(durations[-policy.window :], np.float64)
    if not len(latest):
        return policy.max_s
    if not bool(np.isfinite(latest).all() and (latest >= 0).all()):
        raise ValueError("durations must be finite seconds of at least 0; leave out replies that never came")
    median = _median(latest)
    spread = _NORMAL * _median(np.abs(latest - median))
    return min(max(median + policy.mads * spread, policy.min_s), policy.max_s)


def _median(values: NDArray[np.float64]) -> float:
    """What np.median gives for at least one finite number, without its ceremony: this runs at every reply."""
    ordered, half = np.sort(values), len(values) // 2
    return float(ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2)


def decide(policy: Policy, progress: Progress) -> Decision:
    """Whether the round is over, whether it counts, when to look again; call it at every arrival and wake."""
    counted = progress.arrived >= policy.needed
    share = f"{progress.arrived} of {policy.needed} needed"
    if progress.arrived + progress.refused >= progress.asked:
        return Decision(True, counted, None, f"everybody answered, {share}")
    if progress.elapsed >= policy.max_s:
        return Decision(True, counted, None, f"the longest round of {policy.max_s:g} s is over, {share}")
    limit = deadline(policy, progress.history + progress.durations)
    if progress.elapsed < limit:
        return Decision(False, counted, limit, f"waiting until {limit:.4g} s, {share}")
    if counted:
        return Decision(True, True, None, f"the deadline of {limit:.4g} s has passed, {share}")
    return Decision(False, False, policy.max_s, f"waiting for the quorum, {share}")
