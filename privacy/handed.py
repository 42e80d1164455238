"""What contributions would come to on the wire, where vehicle and server share a process and hand them over.

Handing over must not let through what the wire refuses, and must count the same bytes. Where that is plain
from a look at a message, its length is added up; wherever there is a doubt, `encode` itself decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from carpool.privacy.buffers import blocks
from carpool.privacy.errors import VehicleError
from carpool.privacy.packing import PLAIN
from carpool.privacy.vectors import Vector
from carpool.privacy.wire import SURE, ContributionMessage, body_offset, encode

_NAMES = [field.name for field in fields(ContributionMessage) if field.name != "packings"]
_FLOAT = 9
_FLOAT32 = np.dtype(np.float32)
# A map of up to 15 fields, a list of up to 15 vectors and every name have one byte in front.
_FIXED = 1 + sum(1 + len(name) for name in _NAMES) + _FLOAT + 1
_FEW = 15
_TOO_MUCH = 1 << 63


def encoded_sizes(messages: Sequence[ContributionMessage]) -> list[int | VehicleError]:
    """For each message `len(encode(message))`, or the VehicleError that `encode` raises; in their order."""
    sure: dict[int, bool] = {}
    found: list[int | VehicleError] = []
    like: tuple[ContributionMessage, int] | None = None
    for message in messages:
        common = like[1] if like is not None and _alike(message, like[0]) else _common_size(message)
        like = None if common is None else (message, common)
        size = None if common is None else _plain_size(message, common, sure)
        if size is None:
            try:
                size = len(encode(message))
            except VehicleError as error:
                found.append(error)
                continue
        found.append(size)
    return found


def _alike(one: ContributionMessage, other: ContributionMessage) -> bool:
    """Whether what contributions to one task mostly have in common is in these two the very same."""
    return (
        one.run is other.run
        and one.round is other.round
        and one.version is other.version
        and one.pass_number is other.pass_number
        and one.examples is other.examples
        and one.steps is other.steps
        and one.packings is other.packings
    )


def _common_size(m: ContributionMessage) -> int | None:
    """The bytes in the header of what `_alike` looks at, and of what never changes; None where in doubt."""
    head = _FIXED
    if m.packings:  # only packing says how long they are, and whether they can be
        return None
    for number in (m.round, m.version, m.pass_number, m.examples, m.steps):
        if type(number) is not int or not 0 <= number < _TOO_MUCH:
            return None
        head += _integer(number)
    if type(m.run) is not str or not m.run.isascii() or len(m.run) > 64:
        return None
    return head + _text(m.run)


def _plain_size(m: ContributionMessage, common: int, sure: dict[int, bool]) -> int | None:
    """The length where every field is for sure one that `encode` takes; None where it is not."""
    head, body = common, 0
    if type(m.vehicle) is not int or not 0 <= m.vehicle < _TOO_MUCH:
        return None
    if type(m.upload) is not str or not m.upload.isascii() or len(m.upload) > 64:
        return None
    head += _integer(m.vehicle) + _text(m.upload)
    if type(m.loss) is not float or not math.isfinite(m.loss) or not 0 < len(m.vectors) <= _FEW:
        return None
    for name, vector in m.vectors.items():
        if type(name) is not str or not name.isascii() or len(name) > 64 or not _sound(vector, sure):
            return None
        head += 1 + _text(name) + _integer(vector.size) + _text(PLAIN) + _integer(vector.nbytes)
        body += vector.nbytes
    return body_offset(head) + body


def _sound(vector: Vector, sure: dict[int, bool]) -> bool:
    """Whether a vector is surely a finite one; rows of one stack are looked at together, once."""
    if type(vector) is not np.ndarray or vector.dtype != _FLOAT32 or vector.ndim != 1 or not vector.size:
        return False
    if not vector.flags.c_contiguous:
        return False
    whole = vector.base
    if whole is not None and sure.get(id(whole)):
        return True
    if isinstance(whole, np.ndarray) and whole.dtype == _FLOAT32 and whole.flags.c_contiguous:
        if id(whole) not in sure:
            sure[id(whole)] = _finite(whole.reshape(-1))
        if sure[id(whole)]:
            return True
    return _finite(vector)


def _finite(numbers: Vector) -> bool:
    """Whether the sum of squares stays so small that `check_vector` passes in whatever order it adds up."""
    with np.errstate(over="ignore", invalid="ignore"):
        return sum(float(np.dot(numbers[part], numbers[part])) for part in blocks(numbers.size)) < SURE


def _integer(value: int) -> int:
    """Bytes of an integer of at least 0 in msgpack."""
    if value < 1 << 7:
        return 1
    if value < 1 << 8:
        return 2
    if value < 1 << 16:
        return 3
    return 5 if value < 1 << 32 else 9


def _text(value: str) -> int:
    """Bytes of ASCII text of less than 256 characters in msgpack."""
    return len(value) + (1 if len(value) < 32 else 2)
