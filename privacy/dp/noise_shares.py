"""Skellam noise in parts of which some can be taken off a sum again: XNoise.

Unit: one vehicle; relation and sensitivity: skellam.py's, nothing is decided here.
Sensitivity: none of its own; only noise is made and taken off.
Theorem: Jiang et al. 2024 (Dordis, EuroSys), arXiv:2209.12528, Section 4; independent Skellam numbers add up
    to a Skellam number whose variance is the sum, so what stays is Skellam noise of `remaining` variance.
Event: skellam.py's, with the variance `remaining`.
Not covered: whether a seed that was revealed is one that its vehicle used (a vehicle that lies adds or takes
    away noise of its own making: count it among the corrupt), and seeds that are revealed to the wrong party.

The base comes from the vehicle's own randomness and can never be taken off; component k from a seed of 16
bytes that is secret until the protocol reveals it. The same seed and variance give the same numbers on every
machine.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from carpool.privacy.dp.randomness import Bits, KeyedBits
from carpool.privacy.dp.samplers import add_skellam
from carpool.privacy.secagg.masks import KEY, Ring

PURPOSE = "xnoise"
Whole = NDArray[np.int64]


def vehicle_noise(
    total_variance: float, shares: Sequence[float], seeds: Sequence[bytes], bits: Bits, d: int
) -> Whole:
    """All the noise that one vehicle adds: int64 [d].

    total_variance: that a sum must keep, s, in squared steps; shares: variances of the base and of each
    component in units of s (carpool.privacy.secagg.noise_levels.shares); seeds: one a component, 16 bytes,
    fresh for each vehicle and round; bits: of the base, from the operating system. Raises ValueError for
    another number of seeds, for two alike, and for a share that is negative, NaN or infinite.
    """
    variances = part_variances(total_variance, shares)
    if len(seeds) != len(variances) - 1 or len(set(seeds)) != len(seeds):
        raise ValueError(
            f"{len(variances) - 1} components need as many seeds, all different, not {len(seeds)}"
        )
    out = np.zeros(d, np.int64)
    add_skellam(bits, variances[0], out)
    for seed, variance in zip(seeds, variances[1:], strict=True):
        add_skellam(_stream(seed), variance, out)
    return out


def component(seed: bytes, variance: float, d: int) -> Whole:
    """The noise of one seed, int64 [d]: alike where it is added and where it is taken off.

    variance: squared steps, that of `part_variances`. Raises ValueError for a seed that is not 16 bytes.
    """
    out = np.zeros(d, np.int64)
    add_skellam(_stream(seed), variance, out)
    return out


def take_off(total: Ring, seed: bytes, variance: float) -> None:
    """Subtract a revealed seed's noise from a sum uint32 [d] in place, mod 2^32 (shorten it afterwards)."""
    # x - c = -(-x + c), mod 2^32: no second vector.
    np.negative(total, out=total)
    add_skellam(_stream(seed), variance, total)
    np.negative(total, out=total)


def part_variances(total_variance: float, shares: Sequence[float]) -> tuple[float, ...]:
    """The variance of the base and of each component in squared steps: one product each, alike everywhere."""
    if not 0 < total_variance < math.inf or not shares or not all(0 <= share < math.inf for share in shares):
        raise ValueError(
            f"a total variance of {total_variance} in shares {tuple(shares)}: use finite ones, 0 or more"
        )
    return tuple(total_variance * share for share in shares)


def remaining(
    total_variance: float, shares: Sequence[float], counted: int, removed: Collection[int]
) -> float:
    """The variance in a sum of `counted` vehicles without components `removed` (from 1), squared steps."""
    if counted < 0 or not all(1 <= k < len(shares) for k in removed):
        raise ValueError(f"{counted} vehicles without the components {sorted(removed)} of {len(shares) - 1}")
    kept = [share for k, share in enumerate(shares) if k not in removed]
    return counted * total_variance * math.fsum(kept)


def _stream(seed: bytes) -> KeyedBits:
    if len(seed) != KEY:
        raise ValueError(f"a noise seed has {KEY} bytes, not {len(seed)}")
    return KeyedBits(seed, PURPOSE)
