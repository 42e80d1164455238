"""The types of the experiment file's values, and what all of its tables have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

MAX_SEED = 2**63 - 1


def _three(values: tuple[float, ...]) -> tuple[float, ...]:
    if len(values) != 3:
        raise ValueError("it must have three numbers, one a channel")
    return values


def above_zero(values: tuple[float, ...]) -> tuple[float, ...]:
    """The same, if all are above 0; raises ValueError."""
    if min(values) <= 0:
        raise ValueError("all three must be above 0")
    return values


def _options(value: object) -> object:
    if not isinstance(value, Mapping):
        raise ValueError("it must be a table, such as { server_lr = 1.0 }")
    for name, option in value.items():
        if not isinstance(option, bool | int | float | str) or (
            isinstance(option, float) and not math.isfinite(option)
        ):
            raise ValueError(f"{name} must be a number, a text in quotes, true or false")
    return value


def _ranges(value: object) -> object:
    if not isinstance(value, Mapping):
        raise ValueError("it must be a table, such as { control = 50.0 }")
    for name, norm in value.items():
        if isinstance(norm, bool) or not isinstance(norm, int | float) or not 0 < norm < math.inf:
            raise ValueError(f"{name} must be a number above 0")
    return {name: float(norm) for name, norm in value.items()}


Probability = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegativeInt = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
# A TOML array is a list; strict mode would want a tuple. The names inside stay strict.
Names = Annotated[tuple[str, ...], Field(strict=False)]
Triple = Annotated[tuple[float, ...], Field(strict=False), AfterValidator(_three)]
Scalar = bool | int | float | str
Options = Annotated[dict[str, Scalar], BeforeValidator(_options)]
Ranges = Annotated[dict[str, float], BeforeValidator(_ranges)]


class Section(BaseModel):
    """A table of the file: unknown keys are errors, nothing is converted, nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
