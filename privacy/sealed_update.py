"""A contribution under `privacy.channel = "sealed"`: sealed to the aggregator, signed by its vehicle.

    offset  size  what
    0       1     version (1)
    1       8     epoch of the aggregator's sealing key, little-endian
    9       138   the vehicle's certificate (identity.py)
    147     64    Ed25519 signature of the vehicle over the purpose and SHA-256 of what follows
    211     -     the bytes of `wire.encode`, sealed by HPKE (sealed.py)

Hides: the update, from everybody between vehicle and aggregator. Proves: which vehicle sent it, and for what.
Rests on: HPKE base mode (RFC 9180, Section 5.1.1), Ed25519, and certificates; it is sealed first and signed
then, so the seal names the sender and the signature names the recipient (An, Dodis, Rabin 2002,
doi:10.1007/3-540-46035-7_6, on many users). Purpose: run, round, version, pass and vehicle are in both, so
that nothing opens a second time elsewhere. Not covered: the aggregator sees every update; who sends what
length when; whoever steals the aggregator's key opens what was recorded in its epoch.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from carpool.privacy import identity
from carpool.privacy.errors import VehicleError
from carpool.privacy.identity import Role, Trust
from carpool.privacy.sealed import OVERHEAD as HPKE
from carpool.privacy.sealed import context, seal, unseal
from carpool.privacy.signing import SIGNATURE, message, sign, verify

SEALED, SIGNED, VERSION = "carpool/sealed-update", "carpool/signed-update", 1
_FORM = struct.Struct(f"<BQ{identity.SIZE}s{SIGNATURE}s")
OVERHEAD = _FORM.size + HPKE
"""Bytes by which a contribution is longer than in the clear."""


class Purpose(NamedTuple):
    """What a contribution answers; vehicle: its number on the wire and in its certificate."""

    run: str
    round: int
    version: int
    pass_number: int
    vehicle: int


Unseal = Callable[[bytes, Purpose], bytes]
"""The aggregator's half: what was sealed for a purpose; raises VehicleError for anything else."""


def seal_update(
    data: bytes,
    purpose: Purpose,
    *,
    key: Ed25519PrivateKey,
    certificate: bytes,
    to: X25519PublicKey,
    epoch: int,
) -> bytes:
    """The vehicle's half: `data` for the aggregator alone, `OVERHEAD` bytes longer.

    key, certificate: the vehicle's; to, epoch: of a `SealingKey` that was checked. Raises VehicleError where
    that key is none to which anything can be sealed.
    """
    about = _about(purpose, to, epoch, certificate)
    try:
        sealed = seal(data, to, about)
    except ValueError as error:
        raise VehicleError("the aggregator's sealing key is of small order; it needs a new one") from error
    signature = sign(key, SIGNED, VERSION, [about, hashlib.sha256(sealed).digest()])
    return b"".join((_FORM.pack(VERSION, epoch, certificate, signature), sealed))


def open_update(
    data: bytes, purpose: Purpose, *, sealing: X25519PrivateKey, epoch: int, trust: Trust, now: float
) -> bytes:
    """The aggregator's half: what this vehicle sealed for this purpose; raises VehicleError otherwise.

    sealing, epoch: the aggregator's key and its number; now: Unix seconds, at which certificates must hold.
    The signature is checked before anything is opened.
    """
    if len(data) < OVERHEAD:
        raise VehicleError(f"a sealed contribution has at least {OVERHEAD} bytes, not {len(data)}: cut off")
    version, number, certificate, signature = _FORM.unpack_from(data)
    if version != VERSION:
        raise VehicleError(f"a sealed contribution of version {version}; this side speaks {VERSION}")
    if number != epoch:
        raise VehicleError(f"the contribution is sealed to the key of epoch {number}; this is epoch {epoch}")
    vehicle = identity.decode(certificate)
    if vehicle.member != purpose.vehicle:
        raise VehicleError(
            f"the contribution of vehicle {purpose.vehicle} carries the certificate of {vehicle.member}"
        )
    public = trust.check(vehicle, Role.VEHICLE, now)
    about, sealed = _about(purpose, sealing.public_key(), epoch, certificate), data[_FORM.size :]
    verify(public, signature, SIGNED, VERSION, [about, hashlib.sha256(sealed).digest()])
    return unseal(sealed, sealing, about)


def _about(purpose: Purpose, to: X25519PublicKey, epoch: int, certificate: bytes) -> bytes:
    """Everything that seal and signature are for; certificate: of the sender."""
    numbers = [number.to_bytes(8, "little") for number in (purpose.pass_number, epoch)]
    for_ = context(purpose.run, purpose.round, purpose.version, purpose.vehicle)
    return message(SEALED, VERSION, [for_, *numbers, to.public_bytes_raw(), certificate])
