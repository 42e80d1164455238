"""What server and vehicles of a masked round in Flower both go by: the terms, the task's bytes, the arrays.

terms     JSON in one fixed form, beside the announcement in the record `carpool.announced`
task      all that the server sent but the announcement: its hash is in every key of the round
arrays    float arrays of the sent model; what is summed is trained - sent, as one float32 vector
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from carpool.privacy import signing
from carpool.privacy.errors import VehicleError
from carpool.privacy.secagg.quantise import Bits
from carpool.privacy.secagg.sumform import Part, SumForm
from carpool.privacy.vectors import Vector

VERSION = 1
ARRAYS, METRIC = "arrays", "metric "
"""Names of the channels: the model's, and before the name of a metric."""
ANNOUNCEMENT, TERMS = "announcement", "terms"
MOST_TERMS, MOST_METRICS = 1 << 15, 64
Sent = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Terms:
    """What the numbers of a round mean.

    round: of the server's count; arrays: whether the model is summed, or metrics alone; clip: L2 norm of
    trained - sent above which a vehicle scales it down, weight units; weight: name of the metric by which
    vehicles count; most_weight: a larger one counts as this; metrics: name to the largest absolute value.
    Raises ValueError.
    """

    round: int
    arrays: bool
    clip: float
    weight: str
    most_weight: float
    metrics: Mapping[str, float]
    bits: Bits
    rotate: bool

    def __post_init__(self) -> None:
        scales = (self.clip, self.most_weight, *self.metrics.values())
        if not all(type(one) is float and 0 < one < math.inf for one in scales):
            raise ValueError(f"clip, largest weight and bounds of metrics are {scales}; use numbers above 0")
        if not (self.arrays or self.metrics) or len(self.metrics) > MOST_METRICS or self.round < 0:
            raise ValueError(
                f"round {self.round} sums up {len(self.metrics)} metrics and {'a' if self.arrays else 'no'} "
                f"model; a round has one of the two, and at most {MOST_METRICS} metrics"
            )
        if self.weight in self.metrics:
            raise ValueError(f"the weight {self.weight!r} is summed anyway; take it out of the metrics")

    def encode(self) -> bytes:
        """The bytes."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    def form(self, size: int, most: int) -> SumForm:
        """The form of vectors for a model of `size` numbers and at most `most` vehicles; ValueError."""
        parts = [Part(ARRAYS, size, self.clip, True)] if self.arrays else []
        parts += [Part(METRIC + name, 1, self.metrics[name], True) for name in sorted(self.metrics)]
        seed = hashlib.sha256(b"carpool/secagg/rotation/flower/%d" % self.round).digest()[:16]
        return SumForm(tuple(parts), most, self.most_weight, self.bits, seed if self.rotate else None)


def decode_terms(data: bytes) -> Terms:
    """The terms in these bytes; raises VehicleError for anything that `encode` does not write."""
    try:
        if len(data) > MOST_TERMS:
            raise ValueError(f"it has {len(data)} bytes")
        held = json.loads(data, parse_constant=_no_constant)
        kinds = {name: type(value) for name, value in held.items()}
        if kinds != KINDS or not all(type(one) is str for one in held["metrics"]):
            raise ValueError(f"it has {sorted(kinds)[:9]}")
        terms = Terms(**held)
        if terms.encode() != data:
            raise ValueError("it is not in its one form")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise VehicleError(f"the terms of the masked round are malformed: {error}") from error
    return terms


KINDS = {
    "round": int,
    "arrays": bool,
    "clip": float,
    "weight": str,
    "most_weight": float,
    "metrics": dict,
    "bits": int,
    "rotate": bool,
}


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def task_bytes(content: RecordDict, message_type: str, terms: Terms) -> bytes:
    """32 bytes over all that a vehicle is sent in the first trip, apart from the announcement."""
    rows = [_record(name, content[name]) for name in sorted(content)]
    return signing.digest("carpool/flower/task", VERSION, [message_type.encode(), terms.encode(), *rows])


def _record(name: str, record: ArrayRecord | MetricRecord | ConfigRecord) -> bytes:
    """A record's name, kind and entries as 32 bytes; the order of arrays counts, of settings not."""
    parts = [name.encode(), type(record).__name__.encode()]
    if isinstance(record, ArrayRecord):
        for key, array in record.items():
            facts = json.dumps([key, array.dtype, list(array.shape), array.stype])
            parts += [facts.encode(), hashlib.sha256(array.data).digest()]
    else:
        for key in sorted(record):
            parts += [key.encode(), _value(record[key])]
    return signing.digest("carpool/flower/record", VERSION, parts)


def _value(value: object) -> bytes:
    """A setting with its type, so that 1, 1.0, True and "1" are four."""
    values = value if isinstance(value, list) else [value]
    rows = [repr((type(one).__name__, one)).encode() for one in values]
    return signing.message("carpool/flower/value", VERSION, [type(value).__name__.encode(), *rows])


def the_arrays(content: RecordDict) -> ArrayRecord:
    """The one ArrayRecord of a message; raises VehicleError."""
    found = list(content.array_records.values())
    if len(found) != 1:
        raise VehicleError(f"a masked round needs one ArrayRecord in a message, not {len(found)}")
    return found[0]


def opened(record: ArrayRecord) -> dict[str, NDArray[Any]]:
    """The arrays, all of floats; raises VehicleError for another dtype, or where there is no number."""
    found: dict[str, NDArray[Any]] = {}
    for name, array in record.items():
        try:
            found[name] = _numpy(array)
        except (ValueError, TypeError) as error:
            raise VehicleError(f"array {name} cannot be read: {error}") from error
        if found[name].dtype.kind != "f" or found[name].dtype.itemsize > 8:
            raise VehicleError(
                f"array {name} is {found[name].dtype}, and only float arrays can be averaged under masks; "
                "leave it out of the ArrayRecord, such as a BatchNorm's counter"
            )
    if size_of(found) < 1:
        raise VehicleError("the arrays have no number in them; send the model's parameters")
    return found


def _numpy(array: Array) -> NDArray[Any]:
    """The array as a read-only view, if its header says as many bytes as there are; raises ValueError."""
    if array.stype != "numpy.ndarray":
        raise ValueError(f"it is a {array.stype}, not a numpy.ndarray")
    file = io.BytesIO(array.data)
    head = READ_HEADER.get(np.lib.format.read_magic(file))
    if head is None:
        raise ValueError("its NPY format is unknown")
    shape, fortran, dtype = head(file)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(array.data) - file.tell():
        raise ValueError(f"{len(array.data)} bytes are no {dtype} of shape {shape}")
    flat = np.frombuffer(array.data, dtype, offset=file.tell())
    return flat.reshape(shape, order="F" if fortran else "C")


READ_HEADER = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def size_of(arrays: Sent) -> int:
    """Numbers in all arrays together."""
    return sum(array.size for array in arrays.values())


def difference(sent: Sent, trained: Sent, clip: float) -> Vector:
    """trained - sent as one float32 [d] of L2 norm at most `clip`, in the order of `sent`. VehicleError."""
    if set(trained) != set(sent):
        odd = sorted(set(trained) ^ set(sent))[:3]
        raise VehicleError(f"the app answered with other arrays than it was sent, such as {odd}")
    out, start = np.empty(size_of(sent), np.float32), 0
    with np.errstate(over="ignore", invalid="ignore"):
        for name, before in sent.items():
            after = trained[name]
            if after.shape != before.shape:
                raise VehicleError(f"array {name} was sent as {before.shape} and came back as {after.shape}")
            stop = start + before.size
            out[start:stop] = (after.astype(np.float64) - before).reshape(-1)
            start = stop
        norm = math.sqrt(float(np.dot(out, out))) if np.isfinite(out).all() else math.nan
    if not math.isfinite(norm):
        raise VehicleError("training ended in NaN or Inf, or in numbers too large to add up")
    return out * np.float32(clip / norm) if norm > clip else out


def moved(sent: Sent, mean: Vector) -> ArrayRecord:
    """The sent arrays plus the mean of the differences, float32 [d], each of its own dtype."""
    found, start = {}, 0
    for name, before in sent.items():
        stop = start + before.size
        step = mean[start:stop].astype(np.float64).reshape(before.shape)
        found[name] = Array(np.asarray(before + step, before.dtype))
        start = stop
    return ArrayRecord(found)


def number(metrics: MetricRecord, name: str) -> float:
    """A metric that is one finite number; raises VehicleError."""
    value = metrics.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        said = "is missing" if value is None else f"is {value!r}"
        raise VehicleError(f"the metric {name!r} {said}; the app must answer with a finite number")
    return float(value)
