"""Who is who: an Ed25519 key for each member of the fleet, and short-lived certificates of the fleet's CA.

    CA key ── signs ──> Certificate {role, member, key, from, until, serial}
    member's key ── signs ──> every protocol message (see signing.py)

A certificate is 74 bytes and a signature; roles are told apart, so that a vehicle's certificate opens no
committee. Trust is one CA key, a list of revoked serials, and a clock.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from carpool.privacy.errors import VehicleError
from carpool.privacy.signing import PUBLIC, SIGNATURE, sign, verify

LABEL, VERSION = "carpool/certificate", 1
_FORM = struct.Struct("<BBQQQ16s32s")
SIZE = _FORM.size + SIGNATURE
MOST_DAYS = 400
"""Longest life of a certificate; vehicles should have weeks."""


class Role(IntEnum):
    """What a certificate allows."""

    VEHICLE = 1
    COMMITTEE = 2
    AGGREGATOR = 3


_ROLES = frozenset(Role)


@dataclass(frozen=True)
class Certificate:
    """The CA's word that `key` (Ed25519, 32 bytes) is that of `member` in `role`, for a time.

    begins, ends: Unix seconds, begins <= now < ends; serial: 16 random bytes, for revocation.
    """

    role: Role
    member: int
    begins: int
    ends: int
    serial: bytes
    key: bytes
    signature: bytes

    @property
    def body(self) -> bytes:
        """The signed bytes."""
        return _FORM.pack(VERSION, self.role, self.member, self.begins, self.ends, self.serial, self.key)

    def encode(self) -> bytes:
        """`SIZE` bytes."""
        return self.body + self.signature


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """The public half, 32 bytes."""
    return key.public_key().public_bytes_raw()


def issue(
    ca: Ed25519PrivateKey, role: Role, member: int, key: bytes, *, begins: int, days: float
) -> Certificate:
    """A certificate of the CA; raises ValueError for a member, key or lifetime out of range."""
    if not 0 <= member < 1 << 63 or len(key) != PUBLIC:
        raise ValueError(f"member {member} needs a number of 0 or more and a key of {PUBLIC} bytes")
    if not 0 < days <= MOST_DAYS or begins < 0:
        raise ValueError(
            f"a certificate of {days:g} days is refused; give it more than 0, at most {MOST_DAYS}"
        )
    ends = begins + int(days * 86400)
    blank = Certificate(role, member, begins, ends, secrets.token_bytes(16), key, b"")
    signature = sign(ca, LABEL, VERSION, [blank.body])
    return Certificate(role, member, begins, ends, blank.serial, key, signature)


@lru_cache(maxsize=1 << 12)
def decode(data: bytes) -> Certificate:
    """A certificate from bytes, unverified; raises VehicleError on anything that is not exactly one."""
    if len(data) != SIZE:
        raise VehicleError(f"a certificate has {SIZE} bytes, not {len(data)}")
    version, role, member, begins, ends, serial, key = _FORM.unpack_from(data)
    if version != VERSION or role not in _ROLES or member >= 1 << 63:
        raise VehicleError(f"certificate of version {version}, role {role}, member {member} is malformed")
    return Certificate(Role(role), member, begins, ends, serial, key, data[_FORM.size :])


@dataclass(frozen=True)
class Trust:
    """What everybody believes: the CA's key (32 bytes) and the serials that it took back."""

    ca: bytes
    revoked: Collection[bytes] = ()

    def check(self, certificate: Certificate, role: Role, now: float) -> bytes:
        """The member's key; raises VehicleError unless the certificate holds now for this role."""
        who = f"the certificate of member {certificate.member}"
        if certificate.role is not role:
            raise VehicleError(f"{who} is for {certificate.role.name.lower()}, not for {role.name.lower()}")
        if not certificate.begins <= now < certificate.ends:
            raise VehicleError(
                f"{who} holds from {certificate.begins} to {certificate.ends}, now is {now:.0f}"
            )
        if certificate.serial in self.revoked:
            raise VehicleError(f"{who} was revoked")
        verify(self.ca, certificate.signature, LABEL, VERSION, [certificate.body])
        return certificate.key
