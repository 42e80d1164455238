"""What a data source needs to know; the experiment file's [data] section, without its validation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from carpool.client.camera.pipeline import DEFAULT, Pipeline
from carpool.client.camera.samples import Pool

VIEWS = (
    "front",
    "front_left",
    "left",
    "rear_left",
    "rear",
    "rear_right",
    "right",
    "front_right",
)
"""The eight surround cameras, counter-clockwise from the front."""


@dataclass(frozen=True)
class DataSettings:
    """The [data] section; every field has the experiment file's name and default.

    width, height: pixels of one view, after cropping; 0 is the source's own size: 64x48 for procedural, 32x32
    for gtsrb folders, and for the others what is left of the pictures when they are cropped.
    """

    source: str = "procedural"
    path: Path | None = None
    split: Literal["natural", "dirichlet", "shards", "iid"] = "natural"
    alpha: float = 0.3
    shards: int = 2
    quantity_skew: float = 0.0
    holdout: float = 0.2
    stride: int = 1
    views: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    width: int = 0
    height: int = 0
    drives: int = 4
    frames: int = 16
    seed: int = 0
    cache: Path | None = None
    pipeline: Pipeline = DEFAULT
    on_demand: Literal["auto", "always", "never"] = "auto"


@dataclass(frozen=True)
class Source:
    """What a source gives: the recorded samples and, where the data set has one, its official test set."""

    train: Pool
    test: Pool | None = None
