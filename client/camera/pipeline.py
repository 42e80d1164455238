"""From a camera's picture to a model's numbers: crop, resize, colour, normalise; the [data.pipeline] table.

    source:  picture ─ crop ─ resize ─> uint8 frames, held once          (pictures.prepared)
    batch:   uint8 frames ─ augment ─ colour ─ normalise ─> float32      (losses.scaled, the only place)

The pipeline is part of the schema and so of the model's file: whoever uses the model sees the same numbers.
Nothing here looks at a validation or test row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from carpool.privacy.errors import DataError

Triple = tuple[float, float, float]

COLOURS: dict[str, tuple[tuple[Triple, Triple, Triple], Triple]] = {
    "gray": (((0.299, 0.587, 0.114),) * 3, (0.0, 0.0, 0.0)),
    "yuv": (
        ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312)),
        (0.0, 0.5, 0.5),
    ),
}
"""Matrix and offset on RGB of 0..1: luma three times; full-range Y'CbCr. ITU-R BT.601 and JFIF 1.02."""
CROPS = ("crop_top", "crop_bottom", "crop_left", "crop_right")
FLOOR = 1 / 255
"""Least deviation of a channel: below it all pictures have one grey there, and noise would be blown up."""
STEP = 64
"""Samples whose moments are taken at once."""


@dataclass(frozen=True)
class Pipeline:
    """What happens to a picture; the defaults leave it as it is, in about -2..2.

    crop_*: fraction 0..1 of the picture cut off at that side, before it is resized.
    colour: "rgb", "gray" (luma, in all three channels) or "yuv" (full range).
    normalise: "constants": (x - mean) / std a channel, x of 0..1 after `colour`; "picture": every view of
    every sample to mean 0 and deviation 1; "federated": as constants, with mean and std measured on the
    vehicles' training frames (`federated`), which then stand in the model's file.
    Raises DataError for values out of range.
    """

    crop_top: float = 0.0
    crop_bottom: float = 0.0
    crop_left: float = 0.0
    crop_right: float = 0.0
    colour: Literal["rgb", "gray", "yuv"] = "rgb"
    normalise: Literal["constants", "picture", "federated"] = "constants"
    mean: Triple = (0.5, 0.5, 0.5)
    std: Triple = (0.25, 0.25, 0.25)

    def __post_init__(self) -> None:
        for one, other in (("top", "bottom"), ("left", "right")):
            low, high = getattr(self, f"crop_{one}"), getattr(self, f"crop_{other}")
            if not (low >= 0 and high >= 0 and low + high < 1):  # which NaN is not either
                raise DataError(
                    f"data.pipeline.crop_{one} is {low} and crop_{other} is {high}; "
                    "each must be at least 0, and both together below 1"
                )
        if self.colour not in ("rgb", *COLOURS):
            raise DataError(f"data.pipeline.colour is {self.colour!r}; use rgb, {', '.join(COLOURS)}")
        if self.normalise not in ("constants", "picture", "federated"):
            raise DataError(
                f"data.pipeline.normalise is {self.normalise!r}; use constants, picture or federated"
            )
        if len(self.mean) != 3 or not all(math.isfinite(one) for one in self.mean):
            raise DataError(f"data.pipeline.mean is {list(self.mean)}; give three finite numbers")
        if len(self.std) != 3 or not all(math.isfinite(one) and one > 0 for one in self.std):
            raise DataError(f"data.pipeline.std is {list(self.std)}; give three finite numbers above 0")

    @property
    def crops(self) -> bool:
        """Is anything cut off."""
        return any(getattr(self, side) for side in CROPS)


DEFAULT = Pipeline()


def window(pipeline: Pipeline, width: int, height: int, where: str) -> tuple[int, int, int, int]:
    """What is left of a picture: (left, top, right, bottom), in pixels; raises DataError where nothing is."""
    left, top = round(width * pipeline.crop_left), round(height * pipeline.crop_top)
    right = width - round(width * pipeline.crop_right)
    bottom = height - round(height * pipeline.crop_bottom)
    if right <= left or bottom <= top:
        raise DataError(
            f"{where} is {width}x{height}, and data.pipeline.crop_* leaves nothing of it; crop less"
        )
    return left, top, right, bottom


def cropped(frames: NDArray[np.uint8], pipeline: Pipeline, where: str) -> NDArray[np.uint8]:
    """uint8 [..., height, width, 3] without what the pipeline cuts off; itself where it cuts nothing."""
    if not pipeline.crops:
        return frames
    left, top, right, bottom = window(pipeline, frames.shape[-2], frames.shape[-3], where)
    return np.ascontiguousarray(frames[..., top:bottom, left:right, :])


@dataclass(frozen=True)
class Moments:
    """What a vehicle tells for "federated": 10 whole numbers about all its pixels, none about one picture.

    count: pixels; sums: sum of each channel, int64 [3]; products: sum of the products of each two channels,
    int64 [3, 3]; over RGB of 0..255, from which every linear colour follows. Only the sum over vehicles is
    used; it is exact below 2**63 / 255**2 = 1.4e14 pixels, so it does not depend on the order.
    """

    count: int
    sums: NDArray[np.int64]
    products: NDArray[np.int64]

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.sums + other.sums, self.products + other.products)


def moments(frames: NDArray[np.uint8], rows: NDArray[np.int64]) -> Moments:
    """Moments of the samples `rows` of uint8 [n, views, h, w, 3]."""
    total = Moments(0, np.zeros(3, np.int64), np.zeros((3, 3), np.int64))
    for start in range(0, len(rows), STEP):
        pixels = frames[rows[start : start + STEP]].reshape(-1, 3)
        # A row a channel: dot products of long rows are four times as quick as one of thin columns. float64
        # holds these whole numbers exactly up to 2**53, that is 1.4e11 pixels a step.
        one = np.ascontiguousarray(pixels.T, dtype=np.float64)
        products = np.array([[first @ second for second in one] for first in one])
        total += Moments(len(pixels), one.sum(1).astype(np.int64), products.astype(np.int64))
    return total


def federated(pipeline: Pipeline, parts: Iterable[Moments]) -> Pipeline:
    """The pipeline with mean and std of the sum of the vehicles' moments; raises DataError without pixels."""
    total = reduce(add, parts)
    if total.count == 0:
        raise DataError("data.pipeline.normalise is federated, but no vehicle holds a frame; use constants")
    mean = total.sums / total.count / 255
    square = total.products / total.count / 255**2
    if pipeline.colour in COLOURS:
        matrix, offset = (np.array(part) for part in COLOURS[pipeline.colour])
        square = matrix @ (square - np.outer(mean, mean)) @ matrix.T
        mean = matrix @ mean + offset
        spread = np.diag(square)
    else:
        spread = np.diag(square) - mean**2
    std = np.maximum(np.sqrt(np.maximum(spread, 0.0)), FLOOR)
    first, second, third = (float(one) for one in mean)
    red, green, blue = (float(one) for one in std)
    return replace(pipeline, mean=(first, second, third), std=(red, green, blue))
