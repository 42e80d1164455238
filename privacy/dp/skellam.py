"""The `distributed` mechanism: integer Skellam noise on each vehicle, inside a secure sum.

Unit: one vehicle. Relation: zero-out (a vehicle's numbers become zeros, its noise stays).
Sensitivity: a vehicle sends whole numbers of L2 norm at most sqrt(`l2_squared`), checked in exact integers
    before anything is sent, and of L1 norm at most `l1` (Cauchy-Schwarz, and |x| <= x^2 for whole numbers).
Theorem: Agarwal, Kairouz and Liu 2021, arXiv:2110.04995, Theorem 3.5; conditional rounding: Kairouz, Liu and
    Steinke 2021, arXiv:2102.06387, Proposition 22 with beta = exp(-1/2).
Event: "skellam", with the variance REALISED in the sum, the sensitivities after rounding, and the step.
Not covered: fewer than `honest` vehicles that add their noise (the realised variance is then less); time,
    which depends on the numbers drawn and on how often rounding was tried; who was in the sum.

    clip to C -> signs, Hadamard by blocks -> times s -> round at random until the norm holds -> + Skellam of
    variance z^2 C^2 s^2 / honest -> mod 2^bits

s C = `reach` steps is as fine as the ring allows, and not finer than is of use: at FINE steps for the square
root of the dimension, rounding adds 0.1 % to the squared sensitivity. Blocks are the smallest that allow it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from carpool.privacy.dp.events import Event
from carpool.privacy.dp.randomness import Bits
from carpool.privacy.dp.rotation import PIECE, hadamard_blocks, multiply_blocks, signs
from carpool.privacy.dp.samplers import LARGEST_SKELLAM, add_skellam
from carpool.privacy.errors import VehicleError
from carpool.privacy.secagg.masks import Ring, shorten
from carpool.privacy.vectors import Vector, check_vector

Width = Literal[16, 24, 32]
Steps = NDArray[np.int32]
"""Whole numbers of steps, int32 [padded]."""
DELTA = 1e-6
"""Probability that any coordinate of a vector is clamped: more than `levels` after the rotation."""
FINE, LEAST = 16, 4096
"""Steps a clip norm that are enough: FINE for the square root of the dimension, and LEAST."""
INFLATION = 1.25
"""Most that rounding may multiply the sensitivity by before a plan is refused."""
TRIES = 64
"""Roundings at random, each failing with at most 0.61, before one towards zero, which never does."""
_BLOCK = 1024
_PARTS = 1 << 16
"""Of a step, that rounding at random tells apart."""
_FLOAT = 1 << 23
"""Whole numbers below it are exact in float32, with a bit to spare."""


@dataclass(frozen=True)
class Plan:
    """How vectors float32 [size] of L2 norm `clip_norm` are released as a sum with Skellam noise.

    clip_norm: weight units; noise_multiplier: standard deviation of the noise of `honest` vehicles together,
    in clip norms; honest: the fewest that add noise in a released sum, floor(n_min (1 - gamma)); most:
    vehicles in a sum; bits: of the ring; spread: how many times the variance that a vehicle adds before part
    of it is taken off again (XNoise); extra: variance that each vehicle adds beyond, in squared steps (masks
    with errors), which counts for no privacy. Raises ValueError where the ring is too small, with the fix.
    """

    size: int
    clip_norm: float
    noise_multiplier: float
    honest: int
    most: int
    bits: Width = 32
    spread: float = 1.0
    extra: float = 0.0

    def __post_init__(self) -> None:
        if self.bits not in (16, 24, 32) or self.size < 1 or not 1 <= self.honest <= self.most:
            raise ValueError(
                f"{self.bits} bits, {self.size} numbers, {self.honest} honest of {self.most} vehicles: use "
                "16, 24 or 32 bits, 1 number or more, and at least 1 honest of those in a sum"
            )
        if not 1e-12 <= self.clip_norm <= 1e12 or not 1e-6 <= self.noise_multiplier <= 1e6:
            raise ValueError(
                f"a clip norm of {self.clip_norm} and a noise multiplier of {self.noise_multiplier}: use "
                "1e-12 to 1e12 and 1e-6 to 1e6"
            )
        if not (1 <= self.spread < math.inf and 0 <= self.extra < math.inf):
            raise ValueError(
                f"a spread of {self.spread} (1 or more) and an extra variance of {self.extra} (0 or more)"
            )
        if self.reach < 1 or self.l2 > INFLATION * self.reach:
            raise ValueError(
                f"{self.bits} bits hold the sum of {self.most} vehicles of {self.size} numbers and noise "
                f"multiplier {self.noise_multiplier:g} only at {self.reach} steps a clip norm, and rounding "
                "would spoil it; use more bits, ask fewer vehicles or send fewer numbers"
            )

    @cached_property
    def _grid(self) -> tuple[int, int]:
        """Numbers of a block, steps a clip norm."""
        block = min(_BLOCK, 1 << (self.size - 1).bit_length())
        best = block, self._reach(block)
        while best[1] < self._enough(block) and block < self.size:
            block *= 2
            best = max(best, (block, self._reach(block)), key=lambda pair: pair[1])
        return best

    def _padded(self, block: int) -> int:
        return -(-self.size // block) * block

    def _enough(self, block: int) -> int:
        return max(LEAST, math.ceil(FINE * math.sqrt(self._padded(block))))

    def _reach(self, block: int) -> int:
        """The most steps a clip norm that fit, by bisection; 0 for none."""
        low, high = 0, self._enough(block) + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._fits(block, middle) else (low, middle)
        return low

    def _fits(self, block: int, reach: int) -> bool:
        levels, variance = self._levels(block, reach), self._variance(reach) * self.spread
        noise = 8 * math.sqrt(self.most * (math.ceil(variance) + self.extra + 0.25))  # as it is announced
        return (
            levels < _FLOAT
            and variance <= LARGEST_SKELLAM
            and self.most * levels + noise < 1 << (self.bits - 1)
        )

    def _variance(self, reach: int) -> float:
        return (self.noise_multiplier * reach) ** 2 / self.honest

    def _levels(self, block: int, reach: int) -> int:
        share = math.sqrt(2 * math.log(2 * self._padded(block) / DELTA) / block)
        return math.ceil(reach * min(1.0, share))

    @property
    def block(self) -> int:
        """Numbers that are rotated together, a power of two."""
        return self._grid[0]

    @property
    def reach(self) -> int:
        """Steps a clip norm, s C."""
        return self._grid[1]

    @property
    def padded(self) -> int:
        """Numbers on the wire: whole blocks."""
        return self._padded(self.block)

    @property
    def step(self) -> float:
        """One whole number, in weight units."""
        return self.clip_norm / self.reach

    @property
    def levels(self) -> int:
        """The largest whole number that one vehicle sends before its noise."""
        return self._levels(self.block, self.reach)

    @property
    def variance(self) -> float:
        """Of the noise that each vehicle adds (with XNoise: that stays, a vehicle), in squared steps."""
        return self._variance(self.reach)

    @property
    def target(self) -> float:
        """Variance of the noise in a released sum, in squared steps: (z C s)^2."""
        return (self.noise_multiplier * self.reach) ** 2

    @property
    def l2_squared(self) -> int:
        """The largest squared L2 norm of what one vehicle sends, in squared steps: exact."""
        root = math.sqrt(self.padded)
        rounded = self.reach**2 + self.padded / 4 + self.reach + root / 2
        return math.floor(min(rounded, (self.reach + root) ** 2))

    @property
    def l2(self) -> float:
        """L2 sensitivity after rounding, in steps."""
        return math.sqrt(self.l2_squared)

    @property
    def l1(self) -> int:
        """L1 sensitivity after rounding, in steps."""
        return min(self.l2_squared, math.isqrt(self.padded * self.l2_squared - 1) + 1)

    def event(self, realised_variance: float) -> Event:
        """What a released sum is charged as; realised_variance: of the honest noise in it, squared steps."""
        if not 0 < realised_variance < math.inf:
            raise ValueError(f"a released sum has noise: its variance is above 0, not {realised_variance}")
        return Event(
            "skellam",
            noise_multiplier=math.sqrt(realised_variance) / self.reach,
            sensitivity=self.l2 / self.reach,
            l1=float(self.l1),
            step=1 / self.reach,
        )


def encode(plan: Plan, vector: Vector, rotation: bytes, bits: Bits) -> Ring:
    """The vehicle's half: clipped, rotated, rounded, with noise, mod 2^bits: uint32 [padded].

    Arguments as `quantised`.
    """
    ring: Ring = quantised(plan, vector, rotation, bits).view(np.uint32)
    add_skellam(bits, plan.variance, ring)
    shorten(ring, plan.bits)
    return ring


def quantised(plan: Plan, vector: Vector, rotation: bytes, bits: Bits) -> Steps:
    """The vector clipped, rotated and rounded within the plan's norms, WITHOUT noise: int32 [padded].

    vector: float32 [size]; rotation: 16 public bytes, the round's; bits: of the rounding, nobody else's.
    Raises VehicleError for another dtype or shape, NaN, Inf, or a norm above 1.8e19.
    """
    check_vector(vector, plan.size, "vector")
    norm = math.sqrt(float(np.dot(vector, vector)))
    scale = min(1.0, plan.clip_norm / norm if norm else 1.0) / plan.step / math.sqrt(plan.block)
    row, out = signs(rotation, plan.block, scale * _PARTS), np.empty(plan.padded, np.int32)
    # Each try with a rotation of its own: in practice there is one, and no second vector is held for others.
    for source in (*[bits] * TRIES, None):
        if _rounded(plan, vector, row, source, out) <= plan.l2_squared:
            return out
    raise VehicleError(f"a vector of norm {norm} could not be rounded within its bound; send no update")


def _rounded(plan: Plan, vector: Vector, row: Vector, bits: Bits | None, out: Steps) -> int:
    """Rotate and round into out, at random or (without bits) towards zero; the squared norm, exact."""
    piece, levels, square = max(plan.block, PIECE), plan.levels, 0
    room, wide = np.empty(piece, np.float32), np.empty(PIECE, np.float64)
    for start in range(0, plan.padded, piece):
        part, target = vector[start : start + piece], out[start : start + piece]
        values = room[: len(target)]
        values[len(part) :] = 0
        multiply_blocks(part, row, values[: len(part)])
        hadamard_blocks(values, plan.block)
        for first in range(0, len(values), PIECE):
            numbers, whole = values[first : first + PIECE], target[first : first + PIECE]
            if bits is not None:
                # To floor(x + uniform): the mean is kept within 2^-17 of a step. Privacy does not rest on
                # these draws but on the norm below.
                np.add(numbers, bits.words((len(numbers) + 1) // 2).view("<u2")[: len(numbers)], out=numbers)
            np.multiply(numbers, np.float32(1 / _PARTS), out=numbers)
            (np.trunc if bits is None else np.floor)(numbers, out=numbers)
            whole[:] = numbers
            np.minimum(whole, levels, out=whole)
            np.maximum(whole, -levels, out=whole)
            square += _squares(whole, wide[: len(whole)])
    return square


def _squares(part: Steps, wide: NDArray[np.float64]) -> int:
    """The sum of squares, exact: in float64 where that is exact, which it nearly always is."""
    wide[:] = part
    found = float(np.dot(wide, wide))
    # Terms are whole and not negative: if the sum is below 2^53, nothing was rounded on the way.
    return int(found) if found < 2**53 else sum(value * value for value in part.tolist())


def decode(plan: Plan, total: Ring, rotation: bytes) -> Vector:
    """The server's half: the sum of encoded vectors, uint32 [padded] mod 2^bits, as float32 [size].

    Raises ValueError for another dtype or shape.
    """
    if total.dtype != np.uint32 or total.shape != (plan.padded,):
        raise ValueError(f"a sum is uint32 of {plan.padded} numbers, not {total.dtype} {total.shape}")
    # To the top of the word and back as a signed number: centred, -2^(bits-1) to 2^(bits-1) - 1.
    gap = np.uint32(32 - plan.bits)
    values = ((total << gap).view(np.int32) >> gap.astype(np.int32)).astype(np.float32)
    hadamard_blocks(values, plan.block)
    multiply_blocks(values, signs(rotation, plan.block, plan.step / math.sqrt(plan.block)), values)
    return values[: plan.size].copy()
