"""Matrix mechanism (DP-FTRL): noise that is correlated over the rounds, so that running sums stay accurate.

Unit: one vehicle, zero-out; add-remove alike, replace-one doubles it (the accountant's part).
Sensitivity: that of C G over a WHOLE training of T rounds (`toeplitz.sensitivity`, `tree.sensitivity`), as
`grid.to_grid` is the only way in and `schema.Participation` keeps everybody to b rounds apart and k times.
Theorem: Denisov et al. 2022, arXiv:2202.08312, Theorem 2.1 (rounds may depend on what was published); in
whole numbers Canonne et al. 2020, arXiv:2004.00010, Theorem 4, round by round.
Event: one "matrix" for all T rounds; stopping early costs the same.
Not covered: whoever has the key or sees a sum before its noise, so the aggregator is trusted with sums; one
round's noise put on two different sums, whose difference would then be exact.

In whole numbers nothing is lost to rounding: with coefficients a_j / 2^FRACTION (a_0 = 2^FRACTION), sums g_t
in grid steps and discrete Gaussian z_t, the server is taken to publish M_t = sum_j a_j g_(t-j) + z_t, a whole
number. What it does publish, g_t + x_t with x_t = floor((z_t - sum_(j>=1) a_j x_(t-j)) / 2^FRACTION + 1/2),
is computed from M alone in the same way, since every whole g_t passes through the floor. The tree's estimates
alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carpool.privacy.dp import toeplitz, tree
from carpool.privacy.dp.events import Event
from carpool.privacy.dp.grid import STEPS
from carpool.privacy.dp.schema import Schema
from carpool.privacy.errors import RunError

FRACTION = 12
"""Bits after the point of a coefficient; raw noise is drawn in steps of the grid by 2^-FRACTION."""
SLACK = 1e-12
"""Most that the noise being discrete may add to delta, before the factor (1 + e^epsilon)."""


@dataclass(frozen=True)
class Plan:
    """A factorisation for one training: what its noise and its charge depend on, and nothing else.

    coefficients: a_0 .. a_(bands-1) in 2^-FRACTION, a_0 = 2^FRACTION; none for the tree. Raises ValueError
    where no sensitivity is known for them.
    """

    rounds: int
    schema: Schema
    coefficients: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.rounds < 1 << 31:
            raise ValueError(f"a training has 1 round to 2^31 - 1, not {self.rounds}")
        if not all(type(a) is int and abs(a) <= 1 << FRACTION for a in self.coefficients):
            raise ValueError(f"coefficients are whole numbers from -2^{FRACTION} to 2^{FRACTION}")
        if self.coefficients and (
            self.coefficients[0] != 1 << FRACTION or len(self.coefficients) > self.rounds
        ):
            raise ValueError(
                f"the first of {len(self.coefficients)} coefficients is {self.coefficients[0]}; it must be "
                f"2^{FRACTION}, with at most {self.rounds} of them"
            )
        _ = self.sensitivity

    @property
    def kind(self) -> str:
        """ "toeplitz" or "tree"."""
        return "toeplitz" if self.coefficients else "tree"

    @property
    def column(self) -> NDArray[np.float64]:
        """The first column of C up to its last band, float64 [bands]; empty for the tree."""
        return np.array(self.coefficients, np.float64) / (1 << FRACTION)

    @cached_property
    def sensitivity(self) -> float:
        """L2, in clip norms, of one vehicle over the whole training."""
        b, k = self.schema.min_separation, self.schema.max_participations
        if self.coefficients:
            return toeplitz.sensitivity(self.column, self.rounds, b, k)
        return tree.sensitivity(self.rounds, b, k)

    def variances(self) -> NDArray[np.float64]:
        """The variance of the noise on each running sum for raw noise of variance 1, float64 [rounds]."""
        if self.coefficients:
            return toeplitz.variances(self.column, self.rounds)
        return tree.variances(self.rounds)

    def rms_error(self) -> float:
        """Root mean square over the rounds of the running sums' noise at noise multiplier 1, in clip norms.

        Noise multiplier 1 means raw noise as wide as the sensitivity: plans with equal figures here would
        have equal errors at equal epsilon. One band is independent noise: sqrt(k (T + 1) / 2).
        """
        return self.sensitivity * math.sqrt(float(self.variances().mean()))

    def width(self, noise_multiplier: float) -> float:
        """How wide raw noise must be, in clip norms, for the epsilon of one Gaussian release."""
        return noise_multiplier * self.sensitivity

    def facts(self) -> dict[str, Any]:
        """The plan as plain data, for the checkpoint: a resumed training keeps its very coefficients."""
        return {
            "rounds": self.rounds,
            "min_separation": self.schema.min_separation,
            "max_participations": self.schema.max_participations,
            "coefficients": list(self.coefficients),
        }

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Plan:
        """What `facts` gave; raises RunError for anything else."""
        try:
            if set(facts) != {"rounds", "min_separation", "max_participations", "coefficients"}:
                raise ValueError(f"its fields are {sorted(facts)}")
            schema = Schema(facts["min_separation"], facts["max_participations"])
            return cls(facts["rounds"], schema, tuple(facts["coefficients"]))
        except (ValueError, TypeError) as error:
            raise RunError(
                f"the plan of the matrix noise is damaged ({error}); use the last whole checkpoint"
            ) from error


def toeplitz_plan(rounds: int, schema: Schema, bands: int, *, optimise: bool = True) -> Plan:
    """A banded Toeplitz plan; memory grows with `bands`, accuracy too up to the separation.

    Coefficients are the optimised ones where bands <= separation, else the square root's. Raises ValueError
    for bands outside 1 .. rounds.
    """
    if not 1 <= bands <= rounds:
        raise ValueError(f"{bands} bands for {rounds} rounds; use 1 to {rounds}, best the separation")
    use = optimise and bands <= schema.min_separation
    found = toeplitz.optimised(bands, rounds) if use else toeplitz.square_root(bands)
    return Plan(rounds, schema, tuple(round(c * (1 << FRACTION)) for c in found.tolist()))


def tree_plan(rounds: int, schema: Schema) -> Plan:
    """The binary tree with the streaming Honaker estimate: O(log T) memory and no tuning, but more noise."""
    return Plan(rounds, schema)


def event(plan: Plan, width: float) -> Event:
    """The charge of a whole training with raw noise of standard deviation `width` clip norms, width > 0."""
    return Event("matrix", noise_multiplier=width, sensitivity=plan.sensitivity)


def delta_slack(plan: Plan, width: float, d: int) -> float:
    """How far, in total variation, all raw noise is from rounded continuous noise of the same width.

    Rounded Gaussian noise is Gaussian noise post-processed, so with slack s a promise (epsilon, delta) for
    the latter holds for ours with delta + (1 + e^epsilon) s. A number of parameter sigma is within 1 / (24
    sigma^2) of it.
    """
    draws = plan.rounds * (1 if plan.coefficients else 2)
    return draws * d / (24 * raw_sigma(width) ** 2)


def raw_sigma(width: float) -> float:
    """Raw noise of `width` clip norms in its own steps."""
    return width * STEPS * (1 << FRACTION)
