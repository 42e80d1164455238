"""[privacy] of the experiment file: what the server may see, by which protocol, and with which noise."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from carpool.experiments.fields import (
    Count,
    Fraction,
    NotNegative,
    NotNegativeInt,
    Positive,
    Probability,
    Ranges,
    Section,
)


class Secagg(Section):
    """[privacy.secagg]

    per_version 0: n_min.
    max_weight 0: the largest weight in the simulated fleet; ranges: L2 norms by channel, in place of
    clip_norm; full_rounds 0: the cryptography runs in every round, otherwise in the first ones alone, and
    the arithmetic of its sums in the others.
    """

    adversary: Literal["curious", "semi-malicious"] = "semi-malicious"
    corrupt_fraction: Fraction = 0.05
    dropout_fraction: Fraction = 0.4
    n_min: Annotated[int, Field(ge=2)] = 12
    per_version: NotNegativeInt = 0
    bits: Literal[16, 24, 32] = 32
    rotate: bool = False
    clip_norm: Positive = 100.0
    ranges: Ranges = {}
    max_weight: NotNegative = 0.0
    trip_s: Positive = 60.0
    upload_s: Positive = 600.0
    full_rounds: NotNegativeInt = 0


class Committee(Section):
    """[privacy.committee]: who opens the sums of one-shot.

    members 0: the smallest committee that is safe for the two fractions; otherwise a named one of so many, of
    whom `corrupt` may lie. absent: simulated, part of the members that does not answer in a round.
    """

    corrupt_fraction: Fraction = 0.05
    dropout_fraction: Fraction = 0.1
    members: NotNegativeInt = 0
    corrupt: NotNegativeInt = 0
    pool: Count = 200
    absent: Probability = 0.0


class Matrix(Section):
    """[privacy.dp.matrix]: noise that is correlated over the rounds, and who may take part how often.

    bands 0: as many as min_separation, at most 64; max_participations 0: as many as the separation allows.
    """

    kind: Literal["toeplitz", "tree"] = "toeplitz"
    bands: NotNegativeInt = 0
    min_separation: Count = 1
    max_participations: NotNegativeInt = 0


class Adaptive(Section):
    """[privacy.dp.adaptive]: a clip norm that follows a quantile of the norms, from clip_norm on.

    quantile 0: it stays; otherwise the part of contributions that should not be clipped; bits_noise 0: the
    cohort / 20.
    """

    quantile: Fraction = 0.0
    lr: Positive = 0.2
    bits_noise: NotNegative = 0.0


class DP(Section):
    """[privacy.dp]

    vehicle_epsilon 0: a vehicle lets itself be charged as much as the run's target; ledger: of the whole
    fleet, beside the run's own; fleet_epsilon 0: what is in it is counted and has no limit.
    """

    mechanism: Literal["none", "central", "distributed", "local", "sgd", "matrix"] = "none"
    unit: Literal["vehicle", "example"] = "vehicle"
    relation: Literal["zero-out", "add-remove", "replace-one"] = "zero-out"
    clip_norm: Positive = 1.0
    epsilon: Positive = 8.0
    noise_multiplier: Positive | None = None
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    sampling: Literal["none", "poisson"] = "none"
    xnoise: bool = True
    vehicle_epsilon: NotNegative = 0.0
    ledger: str = ""
    fleet_epsilon: NotNegative = 0.0
    randomness: Literal["system", "seeded"] = "system"
    matrix: Matrix = Matrix()
    adaptive: Adaptive = Adaptive()


class Privacy(Section):
    """[privacy]"""

    channel: Literal["plain", "sealed", "secagg"] = "plain"
    protocol: Literal["secagg+", "one-shot", "helpers"] = "secagg+"
    secagg: Secagg = Secagg()
    committee: Committee = Committee()
    dp: DP = DP()
