"""Clip all channels of one contribution together: one norm over everything that a vehicle says.

Clipped each by itself to C, L channels would move a sum by sqrt(L) C. Here the bound is exact: let s be the
sum of squares as computed (squares of float32 are exact in float64, and PIECE terms are added with an error
below 2^-38 of them), then
  - unchanged, a contribution has s <= C^2 (1 - 2^-36), thus a true norm below C;
  - clipped, its norm is at most C (1 - 2^-22) (1 + 2^-24)^2 (1 + 2^-38) < C: the factor and each product are
    rounded once, to float32, and what is rounded among the denormals adds less than 2^-130 in all.
A clipped contribution is not clipped again. Which numbers were refused or clipped depends on the data: that
a vehicle sent nothing is seen, and whether it was clipped is told only inside a mechanism (adaptive.py).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carpool.privacy.errors import VehicleError
from carpool.privacy.vectors import Vector, check_form

PIECE = 1 << 15
"""Numbers that are added up at a time."""
SMALLEST_CLIP, LARGEST_CLIP = 1e-12, 1e12
"""Between these, in weight units, nothing under- or overflows in float32."""
MOST_NORM = 2.0**64
"""A contribution this long is refused, like one with Inf in it: its training has diverged."""
_BELOW = 1 - 2.0**-36
_FACTOR = 1 - 2.0**-22


def clip_jointly(vectors: Mapping[str, Vector], clip_norm: float) -> tuple[dict[str, Vector], bool]:
    """The channels scaled by one factor to a joint L2 norm of at most clip_norm, and whether that was needed.

    vectors: float32 [n] by channel, weight units; clip_norm: SMALLEST_CLIP to LARGEST_CLIP. The same arrays
    come back where nothing is clipped (zeros too), new ones otherwise. Raises VehicleError for no channel,
    another dtype or form, NaN, Inf, or a norm of MOST_NORM; ValueError for another clip norm.
    """
    check_clip(clip_norm)
    square = squared_norm(vectors)
    if square <= clip_norm * clip_norm * _BELOW:
        return dict(vectors), False
    factor = np.float32(clip_norm * _FACTOR / math.sqrt(square))
    return {name: vector * factor for name, vector in vectors.items()}, True


def weigh(
    vectors: Mapping[str, Vector], weight: float, most: float, weighted: Collection[str]
) -> dict[str, Vector]:
    """The channels named in `weighted` times min(weight, most) / most, BEFORE they are clipped.

    So a weight, however large, moves a sum by no more than the clip norm does. Equal weights need no call.
    Raises VehicleError for a weight that is not above 0 and finite, ValueError for such a `most`.
    """
    if not 0 < most < math.inf:
        raise ValueError(f"the largest weight that counts is {most}; use a number above 0")
    if not 0 < weight < math.inf:  # NaN, too
        raise VehicleError(f"a weight of {weight} cannot be counted; send a finite one above 0")
    share = np.float32(min(weight, most) / most)
    return {name: vector * share if name in weighted else vector for name, vector in vectors.items()}


def squared_norm(vectors: Mapping[str, Vector]) -> float:
    """The squared joint L2 norm, off by less than 2^-38 of it; raises VehicleError as `clip_jointly` does."""
    if not vectors:
        raise VehicleError("a contribution has at least one channel; send no update instead of an empty one")
    square = math.fsum(
        squared(check_form(vector, getattr(vector, "size", 0), name)) for name, vector in vectors.items()
    )
    if not square < MOST_NORM**2:  # NaN, too
        raise VehicleError(
            f"an update of norm {math.sqrt(square):g} has NaN or Inf in it, or diverged; send no update"
        )
    return square


def squared(vector: NDArray[Any]) -> float:
    """The sum of squares of a row of floats, within 2^-38 of it; NaN or inf where a number is."""
    parts = (vector[at : at + PIECE].astype(np.float64) for at in range(0, len(vector), PIECE))
    with np.errstate(over="ignore", invalid="ignore"):
        sums = [float(np.dot(part, part)) for part in parts]
    # fsum would raise on inf - inf, which squares never are, and on a finite sum that overflows.
    return math.fsum(sums) if all(map(math.isfinite, sums)) else sum(sums)


def check_clip(clip_norm: float) -> None:
    """Raise ValueError for a clip norm outside SMALLEST_CLIP to LARGEST_CLIP, NaN included."""
    if not SMALLEST_CLIP <= clip_norm <= LARGEST_CLIP:
        raise ValueError(f"clip norm {clip_norm}; use {SMALLEST_CLIP:g} to {LARGEST_CLIP:g}, in weight units")
