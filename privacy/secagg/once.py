"""What `one-shot` and `helpers` say, as bytes: a vehicle speaks once, a committee certifies the list.

    Announcement   server -> all          what the round is; its SHA-256 is in every signature
    Contribution   vehicle -> server      header, a sealed part for each member, the masked vector
    Proposal       server -> member j     every header, j's sealed parts, and the proofs that they belong
    Complaint      member -> server       whose entries do not hold, maybe nobody's; commits to nothing
    List           server -> members      who is to be in the sum
    Approval       member -> server       a signature over the hash of the list's headers
    Certificate    server -> members      the signatures of a quorum over one list
    Release        member -> server       this member's part of the sum of the masks, signed

Version, kind, fixed fields; every decoder checks lengths before it allocates and raises VehicleError for what
is not exactly one message.
"""

from __future__ import annotations

import hashlib
import itertools
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from carpool.privacy import merkle, signing
from carpool.privacy.errors import VehicleError
from carpool.privacy.identity import SIZE as CERTIFICATE
from carpool.privacy.identity import Role, Trust, decode
from carpool.privacy.secagg.announcement import MOST_VEHICLES, VERSION, Announcement, Protocol
from carpool.privacy.signing import SIGNATURE

_CORE = struct.Struct(f"<BBBQ32s32s32s{CERTIFICATE}s")
_TAIL = 32 + SIGNATURE


PUBLIC = {Protocol.ONE_SHOT: 32, Protocol.HELPERS: 96}
"""Bytes of a header's public part: an X25519 key; the hashes of three seeds."""


@dataclass(frozen=True)
class Header:
    """Who sent what in which round. core: the signed fields, also the associated data of the sealed parts."""

    core: bytes
    tree: bytes
    signature: bytes

    def encode(self) -> bytes:
        """The bytes."""
        return self.core + self.tree + self.signature

    @property
    def vehicle(self) -> int:
        """The sender."""
        return int(_CORE.unpack_from(self.core)[3])

    @property
    def announced(self) -> bytes:
        """The digest of the announcement that it answers."""
        return bytes(_CORE.unpack_from(self.core)[4])

    @property
    def task(self) -> bytes:
        """The hash of what it trained on."""
        return bytes(_CORE.unpack_from(self.core)[5])

    @property
    def vector_hash(self) -> bytes:
        """SHA-256 of the masked vector's bytes."""
        return bytes(_CORE.unpack_from(self.core)[6])

    @property
    def public(self) -> bytes:
        """The protocol's own part."""
        return self.core[_CORE.size :]

    @property
    def hash(self) -> bytes:
        """SHA-256 of the bytes: what lists are made of."""
        return hashlib.sha256(self.encode()).digest()

    def check(self, announced: Announcement, trust: Trust, now: float) -> None:
        """Raise VehicleError unless an enrolled vehicle signed it for this round and one of its tasks."""
        _, _, _, vehicle, digest, task, _, certificate = _CORE.unpack_from(self.core)
        if digest != announced.digest:
            raise VehicleError(f"the header of vehicle {vehicle} is of another round")
        if task not in announced.tasks:
            raise VehicleError(f"vehicle {vehicle} trained on another task")
        shown = decode(certificate)
        if shown.member != vehicle:
            raise VehicleError(f"vehicle {vehicle} showed the certificate of {shown.member}")
        public = trust.check(shown, Role.VEHICLE, now)
        parts = [self.core, self.tree]
        signing.verify(public, self.signature, "carpool/once/contribution", VERSION, parts)


def core(
    announced: Announcement,
    vehicle: int,
    task: bytes,
    vector_hash: bytes,
    certificate: bytes,
    public: bytes,
) -> bytes:
    """The signed fields of a header."""
    form = (VERSION, 2, announced.protocol, vehicle, announced.digest, task, vector_hash, certificate)
    return _CORE.pack(*form) + public


def sign_header(fields: bytes, sealed: Sequence[bytes], key: Ed25519PrivateKey) -> Header:
    """The header that a vehicle signs over its fields and its sealed parts."""
    tree = merkle.root([merkle.leaf(one) for one in sealed])
    signature = signing.sign(key, "carpool/once/contribution", VERSION, [fields, tree])
    return Header(fields, tree, signature)


def header_size(protocol: Protocol) -> int:
    """Bytes of a header."""
    return _CORE.size + PUBLIC[protocol] + _TAIL


def decode_header(data: bytes, protocol: Protocol) -> Header:
    """A header, unchecked; raises VehicleError."""
    if len(data) != header_size(protocol) or tuple(data[:3]) != (VERSION, 2, protocol):
        raise VehicleError(f"{len(data)} bytes are no header of {protocol.name.lower()}")
    return Header(data[:-_TAIL], data[-_TAIL:-SIGNATURE], data[-SIGNATURE:])


@dataclass(frozen=True)
class Contribution:
    """All that a vehicle sends: header, sealed parts in the order of the members, bytes of its vector."""

    header: Header
    sealed: tuple[bytes, ...]
    vector: memoryview

    def encode(self) -> bytes:
        """The bytes."""
        head = b"".join((self.header.encode(), *self.sealed))
        return b"".join((head, bytes(-len(head) % 4), self.vector))


def decode_contribution(data: bytes, announced: Announcement, members: int, part: int) -> Contribution:
    """A contribution with `members` sealed parts of `part` bytes, the vector a view; raises VehicleError."""
    head = header_size(announced.protocol)
    end = head + members * part
    at = end + -end % 4  # zeros, so that the numbers lie on whole words of memory
    if len(data) != at + announced.size or any(data[end:at]):
        raise VehicleError(f"a contribution has {at + announced.size} bytes, not {len(data)}")
    header = decode_header(data[:head], announced.protocol)
    sealed = tuple(data[i : i + part] for i in range(head, end, part))
    return Contribution(header, sealed, memoryview(data)[at:])


@dataclass(frozen=True)
class Entry:
    """A vehicle in a proposal to one member: header, this member's sealed part, proof that it belongs."""

    header: Header
    sealed: bytes
    path: tuple[bytes, ...]


@lru_cache(maxsize=4096)
def depth(index: int, members: int) -> int:
    """Hashes in the proof for member `index` (from 0)."""
    return len(merkle.inclusion([bytes(32)] * members, index))


def encode_proposal(entries: Sequence[Entry]) -> bytes:
    """The bytes."""
    rows = [one.header.encode() + one.sealed + b"".join(one.path) for one in entries]
    return _head(3) + len(entries).to_bytes(4, "little") + b"".join(rows)


def decode_proposal(data: bytes, protocol: Protocol, part: int, path: int) -> tuple[Entry, ...]:
    """Entries with sealed parts of `part` bytes and proofs of `path` hashes; raises VehicleError."""
    body, head = _body(data, 3), header_size(protocol)
    row, count = head + part + 32 * path, int.from_bytes(body[:4], "little")
    if count > MOST_VEHICLES or len(body) != 4 + count * row:
        raise VehicleError(f"a proposal of {count} vehicles has not {len(body)} bytes")
    rows = [body[4 + row * i : 4 + row * (i + 1)] for i in range(count)]
    return tuple(
        Entry(
            decode_header(one[:head], protocol),
            one[head : head + part],
            tuple(one[i : i + 32] for i in range(head + part, row, 32)),
        )
        for one in rows
    )


def list_hash(announced: Announcement, headers: Sequence[bytes]) -> bytes:
    """H(U): what members sign about who is in the sum, from the headers' hashes in any order."""
    parts = [announced.digest, b"".join(sorted(headers))]
    return signing.digest("carpool/once/list", VERSION, parts)


@dataclass(frozen=True)
class Complaint:
    """Whose entries in a proposal do not hold for this member; none is fine."""

    vehicles: tuple[int, ...]
    signature: bytes

    def encode(self) -> bytes:
        """The bytes."""
        return _head(4) + np.array(self.vehicles, "<u8").tobytes() + self.signature


def decode_complaint(data: bytes) -> Complaint:
    """A complaint; raises VehicleError."""
    body = _body(data, 4)
    count = (len(body) - SIGNATURE) // 8
    if not 0 <= count <= MOST_VEHICLES or len(body) != 8 * count + SIGNATURE:
        raise VehicleError(f"a complaint of {len(body)} bytes is malformed")
    return Complaint(_increasing(np.frombuffer(body, "<u8", count).tolist()), body[8 * count :])


def encode_list(vehicles: Sequence[int]) -> bytes:
    """Who is to be in the sum, in increasing order."""
    return _head(5) + np.array(vehicles, "<u8").tobytes()


def decode_list(data: bytes) -> tuple[int, ...]:
    """A list of vehicles; raises VehicleError."""
    body = _body(data, 5)
    if len(body) % 8 or len(body) // 8 > MOST_VEHICLES:
        raise VehicleError(f"a list of vehicles of {len(body)} bytes is malformed")
    return _increasing(np.frombuffer(body, "<u8").tolist())


def encode_approval(hashed: bytes, signature: bytes) -> bytes:
    """H(U) and a member's signature over it."""
    return _head(6) + hashed + signature


def decode_approval(data: bytes) -> tuple[bytes, bytes]:
    """H(U) and the signature; raises VehicleError."""
    body = _body(data, 6)
    if len(body) != 32 + SIGNATURE:
        raise VehicleError(f"an approval of {len(body)} bytes is malformed")
    return body[:32], body[32:]


def encode_certificate(hashed: bytes, signatures: Mapping[int, bytes]) -> bytes:
    """H(U) and the signatures over it, by point of the member (1, 2, ...)."""
    rows = [struct.pack("<H", j) + signatures[j] for j in sorted(signatures)]
    return _head(7) + hashed + b"".join(rows)


def decode_certificate(data: bytes, members: int) -> tuple[bytes, dict[int, bytes]]:
    """What `encode_certificate` made, of at most `members` different ones; raises VehicleError."""
    body, row = _body(data, 7), 2 + SIGNATURE
    count = (len(body) - 32) // row
    if not 0 <= count <= members or len(body) != 32 + count * row:
        raise VehicleError(f"a certificate of {len(body)} bytes is malformed")
    rows = [body[32 + row * i : 32 + row * (i + 1)] for i in range(count)]
    found = {int.from_bytes(one[:2], "little"): one[2:] for one in rows}
    if len(found) != count or any(not 1 <= j <= members for j in found):
        raise VehicleError("a certificate names a member twice or one that there is not")
    return body[:32], found


def encode_request(slot: int, certificate: bytes) -> bytes:
    """A certificate, and which of several releases is asked for."""
    return _head(9) + bytes((slot,)) + certificate


def decode_request(data: bytes, slots: int) -> tuple[int, bytes]:
    """The slot, below `slots`, and the certificate's bytes; raises VehicleError."""
    body = _body(data, 9)
    if not body or body[0] >= slots:
        raise VehicleError(f"a request is for one of {slots} releases, not {body[:1].hex() or 'none'}")
    return body[0], body[1:]


def encode_release(payload: bytes | memoryview, signature: bytes) -> bytes:
    """A member's part of the sum of the masks."""
    return b"".join((_head(8), signature, payload))


def decode_release(data: bytes, size: int) -> tuple[memoryview, bytes]:
    """Payload of `size` bytes and signature; raises VehicleError."""
    if len(data) != 2 + SIGNATURE + size or data[:2] != _head(8):
        raise VehicleError(f"a release has {2 + SIGNATURE + size} bytes, not {len(data)}")
    return memoryview(data)[2 + SIGNATURE :], data[2 : 2 + SIGNATURE]


def _head(kind: int) -> bytes:
    return bytes((VERSION, kind))


def _body(data: bytes, kind: int) -> bytes:
    if data[:2] != _head(kind):
        raise VehicleError(f"this is no message of kind {kind} in version {VERSION}: {data[:2].hex()}")
    return data[2:]


def _increasing(vehicles: Sequence[int]) -> tuple[int, ...]:
    if any(a >= b for a, b in itertools.pairwise(vehicles)):
        raise VehicleError("a list of vehicles must be strictly increasing")
    return tuple(vehicles)
