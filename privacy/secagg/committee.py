"""Who holds the shares in `one-shot`, how many of them, and how many must agree.

Of m members, drawn by public randomness from a committed pool of stationary nodes, at most `corrupt` lie with
the server but with probability 2^-bits, and at least `quorum` = floor((m + corrupt) / 2) + 1 stay but with
probability 2^-ETA, both by the binomial law. Two quorums have more than `corrupt` members in common, so that
no two lists of one round are certified. `corrupt` shares say nothing; `needed` = corrupt + columns <= quorum
open a sum, and what a quorum has beyond shows, and corrects, wrong ones.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from carpool.privacy import signing
from carpool.privacy.errors import VehicleError
from carpool.privacy.identity import SIZE as CERTIFICATE
from carpool.privacy.identity import Role, Trust, decode
from carpool.privacy.secagg.parameters import ETA, SIGMA

MOST_MEMBERS = 1024
MOST_POOL = 1 << 17
MOST_COLUMNS = 64
VERSION = 1
_LABEL = b"carpool/one-shot/committee/1"
_FORM = struct.Struct("<BBQHHHHI32s")
_MEMBER = CERTIFICATE + 32 + 64


@dataclass(frozen=True)
class Sizes:
    """m members, of whom `corrupt` may lie and `quorum` must agree; `columns` numbers are shared at once.

    Raises ValueError where the three do not fit together.
    """

    members: int
    corrupt: int
    quorum: int
    columns: int

    def __post_init__(self) -> None:
        if not 1 <= self.members <= MOST_MEMBERS or not 0 <= self.corrupt < self.quorum <= self.members:
            raise ValueError(f"a committee of {self} cannot agree")
        if 2 * self.quorum <= self.members + self.corrupt:
            raise ValueError(f"of {self.members} members, {self.quorum} can agree on two lists at once")
        if not 1 <= self.columns <= self.quorum - self.corrupt or self.columns & (self.columns - 1):
            raise ValueError(f"{self.columns} columns are no power of two up to quorum - corrupt")

    @property
    def needed(self) -> int:
        """Shares that open a sum."""
        return self.corrupt + self.columns


def designated(members: int, corrupt: int) -> Sizes:
    """The committee of named organisations of which at most `corrupt` lie; ValueError if none will do.

    >>> designated(7, 2)
    Sizes(members=7, corrupt=2, quorum=5, columns=2)
    """
    quorum = (members + corrupt) // 2 + 1
    if not 0 <= corrupt < members or quorum > members:
        raise ValueError(f"{members} members of whom {corrupt} lie cannot agree; name more")
    columns = min(MOST_COLUMNS, 1 << ((quorum - corrupt).bit_length() - 1))
    return Sizes(members, corrupt, quorum, columns)


@lru_cache(maxsize=64)
def find(gamma: float, delta: float, bits: int = SIGMA) -> Sizes:
    """The smallest even random committee for shares gamma of corrupt, delta of leaving nodes; or ValueError.

    >>> find(0.05, 0.1)
    Sizes(members=60, corrupt=20, quorum=41, columns=16)
    """
    if not (0 <= gamma < 1 and 0 <= delta < 1) or not 1 <= bits <= 128:
        raise ValueError(f"corrupt share {gamma}, leaving share {delta}, {bits} bits: out of range")
    hopeless = gamma + 2 * delta >= 1  # a quorum is more than those who stay, however many there are
    for members in () if hopeless else range(2, MOST_MEMBERS + 1, 2):
        corrupt = int(np.count_nonzero(_tails(members, gamma) > 2.0**-bits))  # least x: P[more than x] is low
        quorum = (members + corrupt) // 2 + 1
        if quorum <= members and _tails(members, delta)[members - quorum] <= 2.0**-ETA:
            return designated(members, corrupt)
    raise ValueError(
        f"no committee of up to {MOST_MEMBERS} stands {gamma:g} corrupt and {delta:g} leaving; choose nodes "
        "that stay, or name organisations"
    )


def _tails(n: int, p: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """P[Binomial(n, p) > x] for x = 0..n, float64 [n + 1]."""
    if p == 0:
        return np.zeros(n + 1)
    chance = [
        math.exp(
            math.lgamma(n + 1)
            - math.lgamma(x + 1)
            - math.lgamma(n - x + 1)
            + x * math.log(p)
            + (n - x) * math.log1p(-p)
        )
        for x in range(n + 1)
    ]
    return np.append(np.cumsum(chance[:0:-1])[::-1], 0.0)


def sample(pool: Sequence[int], beacon: bytes, members: int) -> tuple[int, ...]:
    """The committee that 32 bytes of public randomness draw from a pool, in the order of its points."""
    if len(set(pool)) != len(pool) or len(pool) < members:
        raise ValueError(f"{members} members cannot be drawn from a pool of {len(set(pool))} different nodes")
    if len(beacon) != 32:
        raise ValueError(f"the public randomness of an epoch has 32 bytes, not {len(beacon)}")
    return _sample(tuple(pool), beacon, members)


@lru_cache(maxsize=4)
def _sample(pool: tuple[int, ...], beacon: bytes, members: int) -> tuple[int, ...]:
    key = lambda node: hmac.digest(beacon, _LABEL + node.to_bytes(8, "big"), hashlib.sha256)  # noqa: E731
    return tuple(sorted(pool, key=key)[:members])


@dataclass(frozen=True)
class Member:
    """A member's certificate and its X25519 key of this epoch, signed by the certificate's key."""

    certificate: bytes
    sealing: bytes
    signature: bytes

    @property
    def node(self) -> int:
        """The node's number in its certificate."""
        return decode(self.certificate).member

    @property
    def key(self) -> bytes:
        """The key with which it signs."""
        return decode(self.certificate).key


def join(epoch: int, certificate: bytes, key: Ed25519PrivateKey, sealing: bytes) -> Member:
    """A node's entry: its public X25519 key for an epoch; the private half is deleted when the epoch ends."""
    signature = signing.sign(key, "carpool/committee/key", VERSION, [epoch.to_bytes(8, "little"), sealing])
    return Member(certificate, sealing, signature)


@dataclass(frozen=True)
class Committee:
    """The members of an epoch in the order of their points, the pool and the randomness that drew them.

    The pool is committed to (in the log) before the beacon is known. Designated: the pool is the members.
    """

    epoch: int
    sizes: Sizes
    pool: tuple[int, ...]
    beacon: bytes
    members: tuple[Member, ...]

    def encode(self) -> bytes:
        """The bytes; their SHA-256 is what announcements name."""
        s = self.sizes
        head = _FORM.pack(
            VERSION, 1, self.epoch, s.members, s.corrupt, s.quorum, s.columns, len(self.pool), self.beacon
        )
        rows = b"".join(one.certificate + one.sealing + one.signature for one in self.members)
        return head + np.array(self.pool, "<u8").tobytes() + rows

    @cached_property
    def hash(self) -> bytes:
        """SHA-256 of the bytes."""
        return hashlib.sha256(self.encode()).digest()

    def check(self, expected: Sizes, trust: Trust, now: float) -> None:
        """Raise VehicleError unless these are the drawn, enrolled nodes, in the expected numbers."""
        if self.sizes != expected or len(self.members) != expected.members:
            raise VehicleError(f"the committee is one of {self.sizes}, expected is {expected}")
        try:
            drawn = sample(self.pool, self.beacon, expected.members)
        except ValueError as error:
            raise VehicleError(f"the committee is unsound: {error}") from error
        if tuple(one.node for one in self.members) != drawn:
            raise VehicleError("the committee is not the one that the public randomness draws")
        for one in self.members:
            public = trust.check(decode(one.certificate), Role.COMMITTEE, now)
            parts = [self.epoch.to_bytes(8, "little"), one.sealing]
            signing.verify(public, one.signature, "carpool/committee/key", VERSION, parts)


Drawn = Callable[[Committee], None]
"""A committee -> nothing; VehicleError unless the public log has its pool, and gives its randomness."""


def decode_committee(data: bytes) -> Committee:
    """A committee from bytes, unchecked; raises VehicleError."""
    if len(data) < _FORM.size:
        raise VehicleError("a committee is cut off")
    version, kind, epoch, members, corrupt, quorum, columns, pool, beacon = _FORM.unpack_from(data)
    fits = len(data) == _FORM.size + 8 * pool + _MEMBER * members
    if version != VERSION or kind != 1 or members > MOST_MEMBERS or pool > MOST_POOL or not fits:
        raise VehicleError(f"a committee of {members} from {pool} has not {len(data)} bytes")
    try:
        sizes = Sizes(members, corrupt, quorum, columns)
    except ValueError as error:
        raise VehicleError(f"the committee is unsound: {error}") from error
    nodes = tuple(np.frombuffer(data, "<u8", pool, _FORM.size).tolist())
    at = _FORM.size + 8 * pool
    rows = [data[at + _MEMBER * i : at + _MEMBER * (i + 1)] for i in range(members)]
    cut = CERTIFICATE + 32
    return Committee(
        epoch,
        sizes,
        nodes,
        beacon,
        tuple(Member(row[:CERTIFICATE], row[CERTIFICATE:cut], row[cut:]) for row in rows),
    )
