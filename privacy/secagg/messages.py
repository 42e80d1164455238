"""The messages of `secagg+` as bytes: version, kind, the fields in fixed order, nothing else.

Every decoder checks lengths before it allocates and refuses what is not exactly one message. Vehicles are
unsigned 64-bit numbers; lists of them are strictly increasing.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from carpool.privacy.errors import VehicleError
from carpool.privacy.identity import SIZE as CERTIFICATE
from carpool.privacy.secagg.noise_levels import MOST_EXTRAS
from carpool.privacy.signing import SIGNATURE

VERSION = 2
MOST_VEHICLES = 1 << 17
MOST_NUMBERS = 1 << 31
SEED, KEY = 32, 64
"""Bytes of a share of a 16-byte seed, and of a 32-byte key."""
SEALED = 8 + SEED + KEY + 16
"""Bytes of sealed shares: the receiver's point, of the seed, of the agreement key, and the tag; between these
two last, SEED bytes for each extra seed."""
KEYS = 32
_PAD = bytes(2)
"""Before a masked vector, so that its numbers lie on whole words of memory."""


@dataclass(frozen=True)
class Advertisement:
    """Trip 1, up: who, with which fresh X25519 keys (sealing, agreement), signed for this round and task."""

    vehicle: int
    certificate: bytes
    sealing: bytes
    agreement: bytes
    signature: bytes

    def encode(self) -> bytes:
        """The bytes."""
        return (
            _head(1)
            + self.vehicle.to_bytes(8, "little")
            + self.certificate
            + self.sealing
            + self.agreement
            + (self.signature)
        )


def decode_advertisement(data: bytes) -> Advertisement:
    """An advertisement; raises VehicleError."""
    body = _body(data, 1)
    if len(body) != 8 + CERTIFICATE + 2 * KEYS + SIGNATURE:
        raise VehicleError(f"an advertisement of {len(body)} bytes is malformed")
    cuts = np.cumsum([8, CERTIFICATE, KEYS, KEYS]).tolist()
    parts = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    return Advertisement(int.from_bytes(parts[0], "little"), *parts[1:])


@dataclass(frozen=True)
class Roster:
    """Trip 1, down: the beacon (32 bytes), everybody who advertised, the SHA-256 of each advertisement, and
    the neighbours' own."""

    beacon: bytes
    vehicles: tuple[int, ...]
    hashes: tuple[bytes, ...]
    neighbours: tuple[Advertisement, ...]

    def encode(self) -> bytes:
        """The bytes."""
        head = roster_head(self.beacon, self.vehicles, self.hashes, len(self.neighbours))
        return head + b"".join(one.encode() for one in self.neighbours)


def roster_head(beacon: bytes, vehicles: Sequence[int], hashes: Sequence[bytes], near: int) -> bytes:
    """What rosters with `near` neighbours have in common: all before these."""
    listed = np.array(vehicles, "<u8").tobytes() + b"".join(hashes)
    return _head(2) + struct.pack("<II", len(vehicles), near) + beacon + listed


def decode_roster(data: bytes) -> Roster:
    """A roster; raises VehicleError."""
    body, one, start = _body(data, 2), 2 + 8 + CERTIFICATE + 2 * KEYS + SIGNATURE, 8 + 32
    if len(body) < start:
        raise VehicleError("a roster is cut off")
    count, near = struct.unpack_from("<II", body)
    if count > MOST_VEHICLES or near >= max(1, count) or len(body) != start + 40 * count + one * near:
        raise VehicleError(f"a roster of {count} vehicles and {near} neighbours has not {len(body)} bytes")
    vehicles = _increasing(np.frombuffer(body, "<u8", count, start).tolist())
    at = start + 8 * count
    hashes = tuple(body[at + 32 * i : at + 32 * (i + 1)] for i in range(count))
    at += 32 * count
    return Roster(
        body[8:start],
        vehicles,
        hashes,
        tuple(decode_advertisement(body[at + one * i : at + one * (i + 1)]) for i in range(near)),
    )


def encode_sealed(sealed: Mapping[int, bytes], extras: int = 0) -> bytes:
    """Trip 2, both ways: sealed shares by vehicle (up: by receiver, down: by sender).

    extras: extra seeds that each vehicle shared.
    """
    rows = (v.to_bytes(8, "little") + sealed[v] for v in sorted(sealed))
    return _head(3) + bytes((extras,)) + b"".join(rows)


def decode_sealed(data: bytes, extras: int = 0) -> dict[int, bytes]:
    """Sealed shares with exactly `extras` extra seeds; raises VehicleError."""
    body, one = _body(data, 3), 8 + SEALED + SEED * extras
    if not 0 <= extras <= MOST_EXTRAS or body[:1] != bytes((extras,)):
        raise VehicleError(f"shares of {extras} extra seeds are expected, not of {body[:1].hex() or 'none'}")
    if (len(body) - 1) % one or len(body) // one > MOST_VEHICLES:
        raise VehicleError(f"sealed shares of {len(body)} bytes are malformed")
    parts = [body[i : i + one] for i in range(1, len(body), one)]
    vehicles = _increasing([int.from_bytes(part[:8], "little") for part in parts])
    return {v: part[8:] for v, part in zip(vehicles, parts, strict=True)}


@dataclass(frozen=True)
class Masked:
    """Trip 3, up: the packed masked vector (masks.pack), and a signature over its SHA-256."""

    packed: memoryview
    signature: bytes

    def encode(self) -> bytes:
        """The bytes."""
        return b"".join((_head(4), _PAD, self.signature, self.packed))


def decode_masked(data: bytes, size: int, bits: int = 32) -> Masked:
    """A masked vector of exactly `size` numbers of `bits` bits, a view; raises VehicleError."""
    start, right = 4 + SIGNATURE, 0 < size <= MOST_NUMBERS and bits in (16, 24, 32)
    if not right or len(data) != start + size * bits // 8 or data[2:4] != _PAD:
        raise VehicleError(f"a masked vector of {size} numbers of {bits} bits has not {len(data)} bytes")
    _body(data[:2], 4)
    return Masked(memoryview(data)[start:], bytes(data[4:start]))


def encode_list(vehicles: Sequence[int]) -> bytes:
    """Trip 3, down: whose masked vectors came (U3)."""
    return _head(5) + np.array(vehicles, "<u8").tobytes()


def decode_list(data: bytes) -> tuple[int, ...]:
    """A list of vehicles; raises VehicleError."""
    body = _body(data, 5)
    if len(body) % 8 or len(body) // 8 > MOST_VEHICLES:
        raise VehicleError(f"a list of vehicles of {len(body)} bytes is malformed")
    return _increasing(np.frombuffer(body, "<u8").tolist())


def encode_signatures(signatures: Mapping[int, bytes]) -> bytes:
    """Trip 4: signatures over the list of trip 3, by signer (up: one's own)."""
    return _head(6) + b"".join(v.to_bytes(8, "little") + signatures[v] for v in sorted(signatures))


def decode_signatures(data: bytes) -> dict[int, bytes]:
    """Signatures by signer; raises VehicleError."""
    body, one = _body(data, 6), 8 + SIGNATURE
    if len(body) % one or len(body) // one > MOST_VEHICLES:
        raise VehicleError(f"signatures of {len(body)} bytes are malformed")
    parts = [body[i : i + one] for i in range(0, len(body), one)]
    vehicles = _increasing([int.from_bytes(part[:8], "little") for part in parts])
    return {v: part[8:] for v, part in zip(vehicles, parts, strict=True)}


@dataclass(frozen=True)
class Shares:
    """Trip 5, up: for each neighbour one share: of its seed (it is in the sum) or of its key (it left).

    seeds: SEED bytes, and as many again for each extra seed that is revealed, in order; keys: KEY bytes.
    Secret: both; not printed.
    """

    seeds: Mapping[int, bytes] = field(repr=False)
    keys: Mapping[int, bytes] = field(repr=False)
    revealed: int = 0

    def encode(self) -> bytes:
        """The bytes."""
        seeds = b"".join(v.to_bytes(8, "little") + self.seeds[v] for v in sorted(self.seeds))
        keys = b"".join(v.to_bytes(8, "little") + self.keys[v] for v in sorted(self.keys))
        return _head(7) + struct.pack("<IIB", len(self.seeds), len(self.keys), self.revealed) + seeds + keys


def decode_shares(data: bytes, revealed: int = 0) -> Shares:
    """Shares with exactly `revealed` extra seeds; raises VehicleError."""
    body, start = _body(data, 7), 9
    if len(body) < start:
        raise VehicleError("shares are cut off")
    seeds, keys, extra = struct.unpack_from("<IIB", body)
    if extra != revealed or not 0 <= revealed <= MOST_EXTRAS:
        raise VehicleError(f"shares of {revealed} revealed seeds are expected, not of {extra}")
    widths = (8 + SEED * (1 + extra), 8 + KEY)
    if max(seeds, keys) > MOST_VEHICLES or len(body) != start + widths[0] * seeds + widths[1] * keys:
        raise VehicleError(f"{seeds} + {keys} shares have not {len(body)} bytes")
    found, at = [], start
    for count, width in zip((seeds, keys), widths, strict=True):
        rows = [body[at + width * i : at + width * (i + 1)] for i in range(count)]
        vehicles = _increasing([int.from_bytes(row[:8], "little") for row in rows])
        found.append({v: row[8:] for v, row in zip(vehicles, rows, strict=True)})
        at += width * count
    return Shares(found[0], found[1], revealed)


def _head(kind: int) -> bytes:
    return bytes((VERSION, kind))


def _body(data: bytes, kind: int) -> bytes:
    if len(data) < 2 or data[0] != VERSION or data[1] != kind:
        raise VehicleError(f"this is no message of kind {kind} in version {VERSION}: {data[:2].hex()}")
    return data[2:]


def _increasing(vehicles: Sequence[int]) -> tuple[int, ...]:
    if any(a >= b for a, b in itertools.pairwise(vehicles)):
        raise VehicleError("a list of vehicles must be strictly increasing")
    return tuple(vehicles)
