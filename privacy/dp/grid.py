"""Clipped vectors as whole numbers of grid steps: sums are exact in any order, and so is their bound.

    float32 by channel, clipped together -> times STEPS (1 - 2^-19) / C, towards 0 -> int32 [d], norm <= STEPS

STEPS is the sensitivity of a sum, in exact integers. Noise is discrete Gaussian with variance
(z STEPS)^2 + SMOOTH^2, and is charged as continuous Gaussian noise of standard deviation z clip norms:

Adding continuous noise of (z STEPS)^2 to a whole number and then rounding the result x at random, to y with
probability proportional to exp(-(y - x)^2 / 2 SMOOTH^2), gives y the discrete Gaussian's probabilities, times
a factor that comes from sum_y exp(-(y - x)^2 / 2 SMOOTH^2) alone. By Poisson summation that sum varies with x
by a share of at most 2.1 exp(-2 pi^2 SMOOTH^2) < 2^-454 (Peikert 2010, eprint 2010/088, Theorem 3.1). Noise
here is thus post-processed Gaussian noise, but for 2^-452 d in epsilon (and the samplers' 2^-110 d in delta),
and every theorem on the Gaussian mechanism holds for it: composition, sampling, adaptively chosen rounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carpool.privacy.dp.joint import PIECE, check_clip, squared, squared_norm
from carpool.privacy.dp.randomness import Bits
from carpool.privacy.dp.samplers import LARGEST_GAUSSIAN, discrete_gaussian
from carpool.privacy.dp.wide import wide_gaussian
from carpool.privacy.errors import RoundError, VehicleError
from carpool.privacy.secagg.masks import Ring
from carpool.privacy.vectors import Vector, check_form

Steps = NDArray[np.int32]
"""Whole numbers of grid steps of one contribution, int32 [d]."""
Total = NDArray[np.int64]
"""Whole numbers of grid steps of a sum, with or without noise: int64 [d]."""
STEPS = 1 << 20
"""Grid steps in one clip norm."""
SMOOTH = 4
"""Standard deviation of the rounding that makes continuous noise discrete, in steps."""
MOST = 1 << 31
"""Contributions in a sum: with noise, it stays far below 2^63."""
SMALLEST_NOISE, LARGEST_NOISE = 1e-4, 1e6
"""Noise multipliers: below, rounding would no longer be nothing beside the noise."""
_MARGIN = 1 - 2.0**-19
"""Clipping elsewhere may end this little above the bound; no vector exceeds it on the grid."""
_SLACK = 1 + 1e-6


@dataclass(frozen=True)
class Grid:
    """What one contribution is: how many numbers by channel, one after the other by name, and their norm.

    sizes: numbers by channel, 1 or more each; clip_norm: the largest joint L2 norm, weight units. Raises
    ValueError.
    """

    sizes: Mapping[str, int]
    clip_norm: float

    def __post_init__(self) -> None:
        check_clip(self.clip_norm)
        if not self.sizes or not all(type(size) is int and size >= 1 for size in self.sizes.values()):
            raise ValueError(f"channels of {dict(self.sizes)} numbers; use one or more, of 1 number or more")
        object.__setattr__(self, "sizes", {name: self.sizes[name] for name in sorted(self.sizes)})

    @cached_property
    def slices(self) -> Mapping[str, slice]:
        """Where each channel lies."""
        ends = np.cumsum(list(self.sizes.values())).tolist()
        return {
            name: slice(end - size, end) for (name, size), end in zip(self.sizes.items(), ends, strict=True)
        }

    @property
    def size(self) -> int:
        """Numbers of all channels together, d."""
        return sum(self.sizes.values())

    def whole(self, vectors: Mapping[str, Vector], out: Steps | None = None) -> Steps:
        """A clipped contribution in grid steps, int32 [d], of L2 norm at most STEPS exactly.

        vectors: float32 by channel; out: to write to, int32 [d]. Raises VehicleError for missing or unknown
        channels, another dtype or shape, NaN, Inf, or a joint norm above the clip norm.
        """
        if vectors.keys() != self.sizes.keys():
            raise VehicleError(f"a contribution carries {list(self.sizes)}, not {sorted(map(str, vectors))}")
        for name, size in self.sizes.items():
            check_form(vectors[name], size, name)
        _check_norm(squared_norm(vectors), self.clip_norm)
        out = np.empty(self.size, np.int32) if out is None else out
        square = sum(_fill(vectors[name], self.clip_norm, out[place]) for name, place in self.slices.items())
        _check_square(square)
        return out

    def floats(self, total: Total, divisor: float = 1.0) -> dict[str, Vector]:
        """A noised sum, int64 [d], in weight units over the divisor: new float32 by channel."""
        scale = self.clip_norm / (STEPS * _MARGIN) / divisor
        return {name: (total[place] * scale).astype(np.float32) for name, place in self.slices.items()}


class GridSum:
    """The sum of one round's contributions, exact and the same in any order. Memory: 12 d bytes.

    It is given out once: noise put on the same sum twice would be half the noise. Which vehicle was added
    before is for the caller to know.
    """

    def __init__(self, sizes: Mapping[str, int], clip_norm: float) -> None:
        self.grid = Grid(sizes, clip_norm)
        self._room = np.empty(self.grid.size, np.int32)
        self._total: Total | None = np.zeros(self.grid.size, np.int64)
        self._count = 0

    def add(self, vectors: Mapping[str, Vector]) -> None:
        """Add one contribution, all of it or (VehicleError, see `Grid.whole`) nothing.

        Raises RoundError when the sum was taken, or has MOST contributions.
        """
        if self._total is None or self._count >= MOST:
            raise RoundError(
                f"a sum of {self._count} contributions takes no more; begin a new one each round"
            )
        self._total += self.grid.whole(vectors, self._room)
        self._count += 1

    def take(self) -> Total:
        """The sum in grid steps WITHOUT noise, int64 [d]; once, then RoundError."""
        if self._total is None:
            raise RoundError("the sum was taken before; one sum is released once, under one charge")
        total, self._total = self._total, None
        return total

    def __repr__(self) -> str:
        return f"GridSum({self.grid})"


def gaussian(bits: Bits, noise_multiplier: float, n: int) -> Total:
    """Whole noise that is charged as Gaussian noise of `noise_multiplier` clip norms: int64 [n] steps.

    noise_multiplier: SMALLEST_NOISE to LARGEST_NOISE; raises ValueError for another.
    """
    check_noise(noise_multiplier)
    sigma = math.hypot(noise_multiplier * STEPS, SMOOTH)
    draw = discrete_gaussian if sigma <= LARGEST_GAUSSIAN else wide_gaussian
    return draw(bits, sigma, n)


def check_noise(noise_multiplier: float) -> None:
    """Raise ValueError for a noise multiplier that cannot be meant, NaN and 0 included."""
    if not SMALLEST_NOISE <= noise_multiplier <= LARGEST_NOISE:
        raise ValueError(
            f"noise multiplier {noise_multiplier}; use {SMALLEST_NOISE:g} to {LARGEST_NOISE:g}, or no "
            "mechanism at all"
        )


def most_in_ring(noise_multiplier: float, width: int = 32) -> int:
    """How many contributions a sum mod 2^width may have, noise of up to 10 standard deviations with it.

    >>> most_in_ring(1.0), most_in_ring(0.5, 24), most_in_ring(1.0, 16)
    (2037, 2, 0)
    """
    return max(0, math.floor((1 << (width - 1)) / STEPS - 1e-6 - 10 * noise_multiplier))


def noised_ring(total: Ring, noise: Total, width: int) -> Total:
    """A masked sum mod 2^width with noise, as whole numbers about 0: a new int64 [d].

    The noise goes on mod 2^width, BEFORE numbers are read as signed ones: in this order it is the exact sum
    and its noise that are post-processed. In the other, vehicles that send what they like could bring the
    sum to where it wraps around, and one step of an honest vehicle's would show as 2^width.
    total: uint32 [d]; noise: int64 [d]. Raises RoundError for another dtype or shape, ValueError for a width.
    """
    if not 1 < width <= 32:
        raise ValueError(f"a ring of {width} bits; use 2 to 32")
    if total.dtype != np.uint32 or total.shape != noise.shape:
        raise RoundError(f"a masked sum is uint32 {noise.shape}, not {total.dtype} {total.shape}; void round")
    half, whole = 1 << (width - 1), noise + total
    whole += half
    whole &= (1 << width) - 1
    whole -= half
    return whole


def to_grid(update: NDArray[Any], clip_norm: float) -> Total:
    """A clipped update, one row [d] of any numbers, in grid steps: int64 [d], L2 norm at most STEPS exactly.

    Rounds towards 0, which never lengthens. Raises VehicleError for NaN, infinity or a norm above clip_norm.
    """
    _check_norm(squared(update), clip_norm)
    out = np.empty(len(update), np.int64)
    _check_square(_fill(update, clip_norm, out))
    return out


def from_grid(total: Total, clip_norm: float) -> NDArray[np.float64]:
    """A noised sum in weight units, float64 [d]."""
    return total.astype(np.float64) * (clip_norm / (STEPS * _MARGIN))


def _check_norm(square: float, clip_norm: float) -> None:
    norm = math.sqrt(square)
    if not norm <= clip_norm * _SLACK:  # NaN, too
        raise VehicleError(f"an update of norm {norm:g} is above the clip norm {clip_norm:g}; clip it first")


def _check_square(square: int) -> None:
    # The norm is at most STEPS (1 - 2^-19) (1 + 10^-6) (1 + 2^-38) before truncation: this never raises, and
    # privacy rests on it rather than on that.
    if square > STEPS * STEPS:
        raise VehicleError(f"an update is {square / STEPS**2:.9f} of the squared clip norm; clip it first")


def _fill(vector: NDArray[Any], clip_norm: float, out: NDArray[Any]) -> int:
    """Scale and round towards 0 into whole numbers; their sum of squares, exact."""
    scale, square = STEPS * _MARGIN / clip_norm, 0
    room = np.empty(min(PIECE, len(vector)), np.float64)
    for at in range(0, len(vector), PIECE):
        part = vector[at : at + PIECE]
        values = room[: len(part)]
        np.multiply(part, scale, out=values, dtype=np.float64)
        np.trunc(values, out=values)
        out[at : at + PIECE] = values
        # Whole numbers whose squares add up to at most about 2^40: exact in float64.
        square += int(np.dot(values, values))
    return square
