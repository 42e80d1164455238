"""What a round of secure aggregation is, signed by the aggregator before anybody answers it.

    version, kind, protocol | round id | committee's hash | numbers, bits | Q, most, n_min, per task, noise,
    deadline | count, hashes of the tasks | certificate | signature over all before it

Its SHA-256 is in every header, key and signature of the round, so that nothing of it can be shown to one
vehicle in another form than to the committee or to another vehicle. `secagg+` has no committee: its hash is
32 zero bytes there, and its task is one.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from carpool.privacy import signing
from carpool.privacy.errors import VehicleError
from carpool.privacy.identity import SIZE as CERTIFICATE
from carpool.privacy.identity import Role, Trust, decode
from carpool.privacy.secagg.quantise import ROUNDING
from carpool.privacy.signing import SIGNATURE

VERSION = 1
MOST_TASKS = 256
MOST_VEHICLES = 1 << 17
MOST_NUMBERS = 1 << 31
_ROUND = struct.Struct("<BBB16s32sQBIIIIQQH")


class Protocol(IntEnum):
    """Which of the three."""

    ONE_SHOT = 1
    HELPERS = 2
    SECAGG_PLUS = 3


NO_COMMITTEE = bytes(32)
"""What stands for the committee's hash in `secagg+`."""
BITS = {Protocol.ONE_SHOT: (24, 32), Protocol.HELPERS: (24, 32), Protocol.SECAGG_PLUS: (16, 24, 32)}
"""Widths of a number on the wire."""


@dataclass(frozen=True)
class Announcement:
    """A round, signed by the aggregator; it goes into the log before vehicles answer it.

    round_id: 16 bytes, never used twice; committee: SHA-256 of its bytes; numbers: d; bits: of `BITS`;
    levels: Q, a number of one vehicle lies in -Q..Q; most, n_min: vehicles in the sum; per_task: fewest of
    each of `tasks` that occurs (32-byte hashes; several for buffered rounds); noise: variance that each
    vehicle adds, squared steps; deadline: Unix seconds.
    """

    protocol: Protocol
    round_id: bytes
    committee: bytes
    numbers: int
    bits: int
    levels: int
    most: int
    n_min: int
    per_task: int
    noise: int
    deadline: int
    tasks: tuple[bytes, ...]
    certificate: bytes = b""
    signature: bytes = b""

    @cached_property
    def body(self) -> bytes:
        """The signed bytes."""
        return _ROUND.pack(
            VERSION,
            1,
            self.protocol,
            self.round_id,
            self.committee,
            self.numbers,
            self.bits,
            self.levels,
            self.most,
            self.n_min,
            self.per_task,
            self.noise,
            self.deadline,
            len(self.tasks),
        ) + b"".join(self.tasks)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the body."""
        return hashlib.sha256(self.body).digest()

    @property
    def size(self) -> int:
        """Bytes of a masked vector."""
        return self.numbers * self.bits // 8

    @property
    def limit(self) -> int:
        """The largest |number| of one vehicle, in steps: Q and its noise, which is above it once in 10^20."""
        return self.levels + (math.ceil(10 * math.sqrt(self.noise)) + 30 if self.noise else 0)

    def encode(self) -> bytes:
        """The bytes."""
        return self.body + self.certificate + self.signature

    def spread(self, variance: float) -> float:
        """8 standard deviations of what a sum of `most` vehicles holds beyond their vectors, in steps."""
        return 8 * math.sqrt(self.most * (variance + ROUNDING + self.noise))

    def check(self, trust: Trust, now: float, variance: float) -> None:
        """Raise VehicleError unless the aggregator signed it, it is open, and its sums cannot wrap.

        variance: that of the protocol's own error in one vehicle's number, squared steps.
        """
        public = trust.check(decode(self.certificate), Role.AGGREGATOR, now)
        signing.verify(public, self.signature, "carpool/once/round", VERSION, [self.body])
        if self.bits not in BITS[self.protocol] or not 0 < self.numbers <= MOST_NUMBERS:
            raise VehicleError(f"a round of {self.numbers} numbers of {self.bits} bits is refused")
        if not 2 <= self.n_min <= self.most <= MOST_VEHICLES or not 1 <= self.per_task <= self.n_min:
            raise VehicleError(f"a sum of {self.n_min} to {self.most} vehicles is refused")
        if self.levels < 1 or self.most * self.levels + self.spread(variance) >= 1 << (self.bits - 1):
            raise VehicleError(f"sums of {self.most} numbers up to {self.levels} wrap in {self.bits} bits")
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise VehicleError("a round has one task or several different ones")
        if self.protocol is Protocol.SECAGG_PLUS and (self.committee != NO_COMMITTEE or len(self.tasks) != 1):
            raise VehicleError(f"a round of secagg+ has no committee and one task, not {len(self.tasks)}")
        if now > self.deadline:
            raise VehicleError(f"the round was over at {self.deadline}, now is {now:.0f}")


Logged = Callable[[Announcement], None]
"""A round -> nothing; VehicleError unless the public log announces this very one."""


def announce(plain: Announcement, certificate: bytes, key: Ed25519PrivateKey) -> Announcement:
    """The announcement with the aggregator's certificate and signature."""
    signature = signing.sign(key, "carpool/once/round", VERSION, [plain.body])
    return replace(plain, certificate=certificate, signature=signature)


def decode_announcement(data: bytes) -> Announcement:
    """An announcement, unchecked; raises VehicleError."""
    if len(data) < _ROUND.size:
        raise VehicleError("an announcement is cut off")
    version, kind, protocol, *fields, count = _ROUND.unpack_from(data)
    at = _ROUND.size + 32 * count
    known = version == VERSION and kind == 1 and protocol in list(Protocol) and count <= MOST_TASKS
    if not known or len(data) != at + CERTIFICATE + SIGNATURE:
        raise VehicleError(f"an announcement of {count} tasks has not {len(data)} bytes")
    tasks = tuple(data[i : i + 32] for i in range(_ROUND.size, at, 32))
    cut = at + CERTIFICATE
    return Announcement(
        Protocol(protocol),
        *(*fields, tasks, data[at:cut], data[cut:]),
    )
