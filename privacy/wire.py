"""The binary messages between server and vehicle. THIS FILE LISTS EVERYTHING THAT CAN LEAVE A VEHICLE.

    offset  size  what
    0       1     version (3)
    1       1     kind (1 task, 2 contribution)
    2       2     zero
    4       4     header length, little-endian, at most HEADER_CAP
    8       8     body length, little-endian, at most BODY_CAP
    16      8     XXH3-64 of all that follows (against accidents; authenticity is the channel's)
    24      -     header (msgpack), zeros up to a multiple of 64, then the vectors, each in its packing

The header's table of vectors has a row [name, length, packing, bytes] for each; those of a task are float32,
little-endian, those of a contribution may be packed (`packing.py`). Lengths are checked before anything is
allocated; float32 vectors are decoded as read-only views (no copy); an unknown or missing field, a wrong
type, a wrong length, a wrong checksum, NaN or Inf raise VehicleError. Never pickle. Where the channel is
sealed, a contribution travels in the envelope of `sealed_update.py`, with a certificate and a signature.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, NamedTuple

import msgpack
import numpy as np
import xxhash

from carpool.privacy.buffers import blocks, filled
from carpool.privacy.errors import VehicleError
from carpool.privacy.packing import MOST, PLAIN, pack, unpack
from carpool.privacy.vectors import Vector, check_form, check_vector

VERSION = 3
HEADER_CAP = 1 << 16
BODY_CAP = 1 << 33
VECTORS_CAP = 64
RECORD = "carpool"
"""Name of the one Flower record, and of its one entry, that holds the bytes of a message."""
TICKET = "carpool.ticket"
"""Name of the record beside a task that says to this vehicle alone: `ticket` (int), the number of this task,
and `counted` (int), the ticket of its last contribution that was counted, 0 for none."""
ANNOUNCED = "carpool.announced"
"""Name of the record beside a task of a masked round: `announcement` and `committee`, as bytes."""
TRIP = "carpool.trip"
"""Name of the record beside a later message of a masked round: its `trip`, from 2, and the `round`."""
FAILURES = {
    1001: "training ended in NaN or Inf",
    1002: "the vehicle has no samples to train on",
    1003: "the vehicle refused the task",
}
"""Codes with which a vehicle says that it cannot contribute; no free text leaves a vehicle."""
_PREFIX = struct.Struct("<BBHIQQ")
_ALIGN = 64
SURE = 1.7e38
"""Half of the largest float32: whatever the order of summation, a sum of squares below it is finite."""


@dataclass(frozen=True)
class TaskMessage:
    """Server to vehicle: what to do from which model.

    run: identity of the experiment; round, version, population, cohort, pass_number: the facts of the round;
    scalars: of the strategy; vectors: float32 by name.
    """

    kind: ClassVar[int] = 1
    run: str
    round: int
    version: int
    population: int
    cohort: int
    pass_number: int
    scalars: Mapping[str, float]
    vectors: Mapping[str, Vector]


@dataclass(frozen=True)
class ContributionMessage:
    """Vehicle to server: one trained update and four numbers about it, nothing else.

    upload: id of this upload, the same when it is sent again; vehicle: pseudonym; examples, steps: sizes of
    the local training; loss: mean training loss; vectors: float32 by channel; packings: of those channels
    that are packed.
    """

    kind: ClassVar[int] = 2
    run: str
    round: int
    version: int
    pass_number: int
    vehicle: int
    upload: str
    examples: int
    steps: int
    loss: float
    vectors: Mapping[str, Vector]
    packings: Mapping[str, str] = field(default_factory=dict)


def encode(message: TaskMessage | ContributionMessage) -> bytes:
    """The bytes of a message; raises VehicleError for whatever its decoder would refuse."""
    header: dict[str, Any] = {name: getattr(message, name) for name in _KINDS[type(message)]}
    parts = [_part(message, name, vector) for name, vector in message.vectors.items()]
    header["vectors"] = [[p.name, p.vector.size, p.packing, p.size] for p in parts]
    try:
        head = msgpack.packb(header)
    except (TypeError, ValueError, OverflowError) as error:
        raise VehicleError(f"a message carries plain numbers and text only: {error}") from error
    if len(head) > HEADER_CAP:
        raise VehicleError(f"message header has {len(head)} bytes; the cap is {HEADER_CAP}")
    _header(head, type(message))
    start = body_offset(len(head))
    body = sum(part.size for part in parts)

    def fill(room: memoryview) -> None:
        room[_PREFIX.size : _PREFIX.size + len(head)] = head
        checksum, at = xxhash.xxh3_64(room[_PREFIX.size : start]), start
        for part in parts:
            if part.packed is not None:
                room[at : at + part.size] = part.packed
                checksum.update(part.packed)
            elif not _scan(part.vector.astype("<f4", copy=False), checksum, room[at : at + part.size]):
                check_vector(part.vector, part.vector.size, part.name)
            at += part.size
        _PREFIX.pack_into(room, 0, VERSION, message.kind, 0, len(head), body, checksum.intdigest())

    return filled(start + body, fill)


class _Part(NamedTuple):
    """A vector, its packing, its bytes on the wire, and these bytes themselves where it is packed."""

    name: str
    vector: Vector
    packing: str
    size: int
    packed: bytes | None = None


def _part(message: TaskMessage | ContributionMessage, name: object, vector: Vector) -> _Part:
    if not isinstance(name, str) or np.size(vector) == 0:
        raise VehicleError(f"vector {name!r} must have a name and at least one number")
    check_form(vector, np.size(vector), name)
    packing = message.packings.get(name, PLAIN) if isinstance(message, ContributionMessage) else PLAIN
    if packing == PLAIN:
        return _Part(name, vector, PLAIN, vector.nbytes)
    packed = pack(vector, packing, message.round)
    return _Part(name, vector, packing, len(packed), packed)


def body_offset(head: int) -> int:
    """Where the body starts behind a header of so many bytes."""
    return _PREFIX.size + head + (-(_PREFIX.size + head) % _ALIGN)


def _scan(numbers: Vector, checksum: xxhash.xxh3_64, copy_to: memoryview | None = None) -> bool:
    """One pass over float32 [n]: into the checksum, and copied; whether check_vector would surely pass."""
    if not numbers.size:
        return True
    square, raw = 0.0, numbers.data.cast("B")
    with np.errstate(over="ignore", invalid="ignore"):
        for part in blocks(numbers.size):
            block, where = numbers[part], slice(4 * part.start, 4 * part.stop)
            square += float(np.dot(block, block))
            checksum.update(raw[where])
            if copy_to is not None:
                copy_to[where] = raw[where]
    return square < SURE


def _split(data: bytes, kind: int) -> tuple[bytes, int, bool]:
    """The header bytes, the offset of the body, and whether all its numbers are sound for sure.

    Every length is checked before anything is read, the checksum before anything is believed.
    """
    if len(data) < _PREFIX.size:
        raise VehicleError(f"message of {len(data)} bytes is shorter than its {_PREFIX.size}-byte prefix")
    version, got, zero, head, body, checksum = _PREFIX.unpack_from(data)
    if version != VERSION:
        raise VehicleError(f"message has wire version {version}; this side speaks {VERSION}")
    if got != kind or zero != 0:
        raise VehicleError(f"message is of kind {got}, not {kind}")
    if head > HEADER_CAP or body > BODY_CAP:
        raise VehicleError(f"message claims {head} + {body} bytes; the caps are {HEADER_CAP} + {BODY_CAP}")
    start = body_offset(head)
    if len(data) != start + body:
        raise VehicleError(
            f"message has {len(data)} bytes, its prefix says {start + body}: cut off or padded"
        )
    found = xxhash.xxh3_64(memoryview(data)[_PREFIX.size : start])
    sound = _scan(np.frombuffer(data, "<f4", body // 4, start) if body > 3 else np.zeros(0, "<f4"), found)
    found.update(data[len(data) - body % 4 :])
    if found.intdigest() != checksum:
        raise VehicleError("message does not match its checksum: damaged on the way")
    if any(data[_PREFIX.size + head : start]):
        raise VehicleError("message has something other than zeros between header and vectors")
    return data[_PREFIX.size : _PREFIX.size + head], start, sound


def _finite(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


_SOUND: Mapping[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str) and len(value) <= 64,
    "int": lambda value: type(value) is int and 0 <= value < 1 << 63,
    "float": _finite,
    "Mapping[str, float]": lambda value: (
        isinstance(value, dict) and all(isinstance(k, str) and _finite(v) for k, v in value.items())
    ),
}

_KINDS = {
    message: {f.name: str(f.type) for f in fields(message) if f.name != "packings"}
    for message in (TaskMessage, ContributionMessage)
}
"""The declared type of every field of the header, as text; packings are in its table of vectors."""


def _typed(header: dict[str, Any], message: type[TaskMessage | ContributionMessage]) -> dict[str, Any]:
    """The header's fields, each of the declared type and range."""
    wanted = _KINDS[message]
    if header.keys() != wanted.keys():
        odd = sorted(map(str, set(header) ^ set(wanted)))
        raise VehicleError(f"message header has missing or unknown fields: {', '.join(odd)[:200]}")
    for name, kind in wanted.items():
        value = header[name]
        if kind in _SOUND and not _SOUND[kind](value):
            # Never the text of a container: a thousand nested lists exhaust the stack of str().
            shown = repr(value)[:40] if isinstance(value, str | int | float) else type(value).__name__
            raise VehicleError(f"message field {name} is {shown}; it must be a valid {kind}")
    return header


def _once(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """A map in which every key stands once."""
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a map has a key twice")
    return values


def _header(head: bytes, message: type[TaskMessage | ContributionMessage]) -> dict[str, Any]:
    """The fields in the header's bytes, checked one by one."""
    try:
        header = msgpack.unpackb(
            head, strict_map_key=True, object_pairs_hook=_once, max_map_len=64, max_array_len=VECTORS_CAP
        )
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise VehicleError(f"message header is not msgpack: {str(error)[:80]}") from error
    if not isinstance(header, dict):
        raise VehicleError("message header is not a map")
    return _typed(header, message)


def _rows(table: object) -> Iterator[tuple[str, int, str, int]]:
    """The rows of the table of vectors, of the right types."""
    if not isinstance(table, list) or len(table) > VECTORS_CAP:
        raise VehicleError(f"a message carries a list of at most {VECTORS_CAP} vectors")
    for row in table:
        if not isinstance(row, list) or [type(value) for value in row] != [str, int, str, int]:
            raise VehicleError("the table of vectors must hold [name, length, packing, bytes] rows")
        yield row[0], row[1], row[2], row[3]


def _decode(data: bytes, message: type[Any], most: int) -> dict[str, Any]:
    head, start, sound = _split(data, message.kind)
    values = _header(head, message)
    vectors: dict[str, Vector] = {}
    packings: dict[str, str] = {}
    for name, length, packing, size in _rows(values["vectors"]):
        bound = size // 4 if packing == PLAIN else most
        if name in vectors or not 0 < length <= bound or not 0 < size <= len(data) - start:
            raise VehicleError(
                f"vector {name[:40]!r} is repeated, or its length {length} exceeds the message"
            )
        if packing != PLAIN:
            packings[name] = packing
            vectors[name] = unpack(memoryview(data)[start : start + size], length, packing, values["round"])
        elif size != 4 * length:
            raise VehicleError(f"vector {name[:40]!r} has {size} bytes for {length} numbers")
        else:
            vectors[name] = np.frombuffer(data, "<f4", length, start)
            if not sound:
                check_vector(vectors[name], length, name[:40])
        start += size
    if start != len(data):
        raise VehicleError(f"{len(data) - start} bytes of the message belong to no vector")
    return {**values, "vectors": vectors, **({"packings": packings} if packings else {})}


def decode_task(data: bytes) -> TaskMessage:
    """A task from bytes; raises VehicleError on anything that is not exactly one."""
    return TaskMessage(**_decode(data, TaskMessage, 0))


def decode_contribution(data: bytes, most: int = MOST) -> ContributionMessage:
    """A contribution from bytes; raises VehicleError on anything that is not exactly one.

    most: numbers that its longest vector may have, so that a few packed bytes do not become gigabytes.
    """
    return ContributionMessage(**_decode(data, ContributionMessage, most))
