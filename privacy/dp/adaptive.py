"""Adaptive clipping: the clip norm follows a quantile of the norms, learnt from one noised bit a vehicle.

Andrew et al. 2021, arXiv:1905.03871, Algorithm 1. Departure: the bit travels as one more channel of the same
contribution, scaled so that ONE mechanism of noise multiplier z and clip norm `joint_norm` covers both; the
noise is the paper's (bits_noise on the count, delta_noise on the rest).

Unit, relation: those of the mechanism that the channels are released by.
Sensitivity: (delta, bit) has L2 norm at most sqrt(C^2 + v^2) = C delta_noise / z with the bit sent as -v or
    v, v = C delta_noise / (2 bits_noise): what that mechanism checks, and adds its noise for.
Theorem: arXiv:1905.03871, Theorem 1: 1 / z^2 = 1 / delta_noise^2 + 1 / (2 bits_noise)^2.
Event: that mechanism's, of noise multiplier z; the bit pays by making the noise on the rest larger.
Not covered: the clip norms are published. Replies that are lost pull the noisy fraction towards 1/2 (the
    denominator is public and does not know of them): with a target of 1/2 that is without effect.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from carpool.privacy.dp.grid import check_noise
from carpool.privacy.dp.joint import LARGEST_CLIP, SMALLEST_CLIP, check_clip
from carpool.privacy.errors import RoundError, VehicleError
from carpool.privacy.vectors import Vector

BIT = "clip bit"
"""Name of the channel, float32 [1]."""
TARGET, RATE = 0.5, 0.2
"""gamma and eta of the paper."""
MOST_BITS = 1 << 13
"""A bit is then 64 grid steps of 2^20."""


@dataclass(frozen=True)
class Split:
    """How noise is split between the vectors and the count of bits.

    noise_multiplier: z, what the release is charged as; bits_noise: standard deviation of the noise on the
    count of unclipped contributions, in contributions; the paper takes the planned cohort / 20. Raises
    ValueError below z / sqrt(3), where the noise on the vectors would more than double, and above
    MOST_BITS z, where a bit would be so small that it is lost on the grid.
    """

    noise_multiplier: float
    bits_noise: float

    def __post_init__(self) -> None:
        check_noise(self.noise_multiplier)
        least, most = self.noise_multiplier / math.sqrt(3), self.noise_multiplier * MOST_BITS
        if not least <= self.bits_noise <= most:  # NaN, too
            raise ValueError(
                f"noise {self.bits_noise} on the count of clip bits does not go with noise multiplier "
                f"{self.noise_multiplier:g}: use {least:.4g} to {most:.4g}, best the planned cohort / 20"
            )

    @property
    def delta_noise(self) -> float:
        """z_delta = (z^-2 - (2 bits_noise)^-2)^(-1/2): noise on the vectors, in clip norms."""
        return 1 / math.sqrt(self.noise_multiplier**-2 - (2 * self.bits_noise) ** -2)

    def joint_norm(self, clip_norm: float) -> float:
        """Largest L2 norm of vectors and bit together: the clip norm of the mechanism that releases both."""
        return clip_norm * self.delta_noise / self.noise_multiplier

    def bit(self, clip_norm: float) -> float:
        """v: how large the bit is sent, weight units."""
        return clip_norm * self.delta_noise / (2 * self.bits_noise)


def with_bit(
    vectors: Mapping[str, Vector], clipped: bool, clip_norm: float, split: Split
) -> dict[str, Vector]:
    """Vectors that `clip_jointly` gave for this clip norm, and the bit beside them (float32 [1], -v or v).

    clipped: what `clip_jointly` said. Raises VehicleError for a channel that has the bit's name.
    """
    check_clip(clip_norm)
    if BIT in vectors:
        raise VehicleError(f"a channel is called {BIT!r} as the clip bit is; rename it")
    value = split.bit(clip_norm)
    return {**vectors, BIT: np.array([-value if clipped else value], np.float32)}


def noisy_fraction(total: float, clip_norm: float, split: Split, denominator: float) -> float:
    """b~, the noisy fraction of contributions that were not clipped; noise may take it outside 0 to 1.

    total: the released SUM of the bits' channel, weight units; clip_norm: the round's; denominator: the
    public constant. Raises RoundError for a total that is not finite.
    """
    if not math.isfinite(total):
        raise RoundError(f"the clip bits came to {total}; the round is void")
    return 0.5 + total / (2 * split.bit(clip_norm) * denominator)


def next_clip(clip_norm: float, fraction: float, *, target: float = TARGET, rate: float = RATE) -> float:
    """C exp(-rate (fraction - target)): the next round's clip norm, kept where clip norms may lie.

    target: gamma, the part that should not be clipped, 0 to 1; rate: eta > 0. Raises ValueError.
    """
    check_clip(clip_norm)
    if not (0 <= target <= 1 and 0 < rate < math.inf and math.isfinite(fraction)):
        raise ValueError(
            f"fraction {fraction}, target {target}, rate {rate}: use a finite fraction, a target from 0 to 1 "
            "and a finite rate above 0"
        )
    # No step by more than e^20, however odd the rate: exp must not overflow.
    step = max(-20.0, min(20.0, -rate * (fraction - target)))
    # `joint_norm` is up to twice as large.
    return min(max(clip_norm * math.exp(step), SMALLEST_CLIP), LARGEST_CLIP / 2)
