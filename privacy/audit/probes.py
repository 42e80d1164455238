"""Contributions that a hostile or broken vehicle might hand in, each with what must become of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from carpool.privacy.audit.rounds import Claim, Contribution

Array = NDArray[Any]
Tensors = dict[str, Array]
Fate = Literal["counted", "refused", "either"]
"""counted: it is sound and in the sum; refused: dropped, and counted as such; either: one of both."""
FAR = 1e6
"""Huge values are this many clip norms."""


@dataclass(frozen=True)
class Probe:
    """make: the contributions of a vehicle of a claim (two where it sends twice)."""

    name: str
    fate: Fate
    make: Callable[[Claim, str], tuple[Contribution, ...]]


def filled(claim: Claim, value: float, dtype: Any = np.float32) -> Tensors:
    """Every number the same: tensors of the claim's shapes."""
    return {name: np.full(shape, value, dtype) for name, shape in claim.tensors.items()}


def silent(claim: Claim, vehicle: str) -> Contribution:
    """The neighbour under zero-out."""
    return Contribution(vehicle, filled(claim, 0.0), silent=True)


def honest(claim: Claim, vehicle: str, rng: np.random.Generator) -> Contribution:
    """Random numbers of 0.3 to 3 clip norms: some are clipped, some are not."""
    numbers = rng.standard_normal(claim.size)
    numbers *= claim.clip_norm * rng.uniform(0.3, 3.0) / math.sqrt(float(numbers @ numbers))
    tensors, start = {}, 0
    for name, shape in claim.tensors.items():
        size = math.prod(shape)
        tensors[name] = numbers[start : start + size].astype(np.float32).reshape(shape)
        start += size
    return Contribution(vehicle, tensors)


def opposite(claim: Claim, vehicle: str) -> Contribution:
    """As far as can be from `huge`."""
    return Contribution(vehicle, filled(claim, -FAR * claim.clip_norm))


def huge(claim: Claim, vehicle: str) -> Contribution:
    """Every number FAR clip norms."""
    return Contribution(vehicle, filled(claim, FAR * claim.clip_norm))


def _all(value: float, dtype: Any = np.float32) -> Callable[[Claim, str], tuple[Contribution, ...]]:
    return lambda claim, vehicle: (Contribution(vehicle, filled(claim, value, dtype)),)


def _one(value: float) -> Callable[[Claim, str], tuple[Contribution, ...]]:
    """Sound but for one number, in the last tensor."""

    def make(claim: Claim, vehicle: str) -> tuple[Contribution, ...]:
        tensors = filled(claim, 0.5 * claim.clip_norm / math.sqrt(claim.size))
        tensors[list(tensors)[-1]].flat[-1] = value
        return (Contribution(vehicle, tensors),)

    return make


def _coordinate(claim: Claim, vehicle: str) -> tuple[Contribution, ...]:
    tensors = filled(claim, 0.0)
    tensors[list(tensors)[-1]].flat[0] = FAR * claim.clip_norm
    return (Contribution(vehicle, tensors),)


def _weight(weight: float) -> Callable[[Claim, str], tuple[Contribution, ...]]:
    return lambda claim, vehicle: (Contribution(vehicle, filled(claim, 10 * claim.clip_norm), weight),)


def _changed(
    change: Callable[[Claim, Tensors, str], Mapping[str, Array]],
) -> Callable[[Claim, str], tuple[Contribution, ...]]:
    """Sound tensors of which one is changed: the last."""

    def make(claim: Claim, vehicle: str) -> tuple[Contribution, ...]:
        tensors = filled(claim, claim.clip_norm / math.sqrt(claim.size))
        return (Contribution(vehicle, change(claim, tensors, list(tensors)[-1])),)

    return make


def _without(_: Claim, tensors: Tensors, last: str) -> Mapping[str, Array]:
    del tensors[last]
    return tensors


PROBES: tuple[Probe, ...] = (
    Probe("huge dense", "counted", lambda claim, vehicle: (huge(claim, vehicle),)),
    Probe("one coordinate", "counted", _coordinate),
    Probe("opposite", "counted", lambda claim, vehicle: (opposite(claim, vehicle),)),
    Probe("zero", "counted", _all(0.0)),
    Probe("denormal", "counted", _all(1e-41)),
    Probe("NaN", "refused", _one(math.nan)),
    Probe("all NaN", "refused", _all(math.nan)),
    Probe("+inf", "refused", _one(math.inf)),
    Probe("-inf", "refused", _one(-math.inf)),
    Probe("1e200", "either", _all(1e200, np.float64)),
    Probe("weight 1e9", "either", _weight(1e9)),
    Probe("weight 0", "either", _weight(0.0)),
    Probe("weight negative", "refused", _weight(-1.0)),
    Probe("weight NaN", "refused", _weight(math.nan)),
    Probe(
        "extra tensor",
        "refused",
        _changed(lambda claim, tensors, _: {**tensors, "extra": np.full(3, claim.clip_norm, np.float32)}),
    ),
    Probe("missing tensor", "refused", _changed(_without)),
    Probe(
        "integer buffer",
        "either",
        _changed(lambda _, tensors, last: {**tensors, last: np.full_like(tensors[last], 1 << 40, np.int64)}),
    ),
    Probe(
        "wrong shape",
        "refused",
        _changed(lambda _, tensors, last: {**tensors, last: np.zeros(tensors[last].size + 1, np.float32)}),
    ),
    Probe("duplicate vehicle", "either", lambda claim, vehicle: (huge(claim, vehicle),) * 2),
)
"""Of the design's audit A, and NaN in every number."""
