"""What both halves of `secagg+` compute alike: hashes that are signed or seed the graph, and keys.

Everything has the round's context in it: the announcement's digest and the task's hash, so that nothing of
one round or task is of use in another, and masks of vehicles with other tasks do not cancel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from carpool.privacy import signing
from carpool.privacy.errors import VehicleError
from carpool.privacy.identity import Role, Trust, decode
from carpool.privacy.secagg import messages as m
from carpool.privacy.secagg.announcement import Announcement

VERSION = m.VERSION


def context(announced: Announcement) -> bytes:
    """What ties a key or a signature to this round and its one task, 64 bytes."""
    return announced.digest + announced.tasks[0]


def roster_commitment(announced: Announcement, vehicles: Sequence[int], digests: Sequence[bytes]) -> bytes:
    """What the server commits to before the beacon is known: the ids in order and the hashes of the keys."""
    parts = [context(announced), _ids(vehicles), b"".join(digests)]
    return signing.digest("carpool/secagg+/commitment", VERSION, parts)


def roster_hash(
    announced: Announcement, beacon: bytes, vehicles: Sequence[int], digests: Sequence[bytes]
) -> bytes:
    """The seed of the graph: it is fixed by the beacon and by everybody's keys together."""
    parts = [context(announced), beacon, _ids(vehicles), b"".join(digests)]
    return signing.digest("carpool/secagg+/roster", VERSION, parts)


def list_hash(announced: Announcement, vehicles: Sequence[int]) -> bytes:
    """What vehicles sign about who is in the sum."""
    return signing.digest("carpool/secagg+/list", VERSION, [context(announced), _ids(vehicles)])


def _ids(vehicles: Sequence[int]) -> bytes:
    return np.array(vehicles, "<u8").tobytes()


def check_keys(one: m.Advertisement, announced: Announcement, trust: Trust, now: float) -> None:
    """Raise VehicleError unless an advertisement is an enrolled vehicle's own, for this round and task."""
    certificate = decode(one.certificate)
    if certificate.member != one.vehicle:
        raise VehicleError(f"vehicle {one.vehicle} showed the certificate of {certificate.member}")
    public = trust.check(certificate, Role.VEHICLE, now)
    parts = [context(announced), one.sealing, one.agreement]
    signing.verify(public, one.signature, "carpool/secagg+/keys", VERSION, parts)


_LOW = tuple(
    bytes.fromhex(low)
    for low in (
        "00" * 32,
        "01" + "00" * 31,
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    )
)
"""The points of small order on Curve25519: with them as a public key every common secret is zero."""


def check_usable(one: m.Advertisement) -> None:
    """Raise VehicleError for a key that no neighbour could use, before it stops them all."""
    for key in (one.sealing, one.agreement):
        if key[:31] + bytes((key[31] & 0x7F,)) in _LOW:
            raise VehicleError(f"vehicle {one.vehicle} advertised a key of small order")


def sealing(
    announced: Announcement, private: X25519PrivateKey, public: bytes, sender: int, receiver: int
) -> tuple[AESGCM, bytes]:
    """The cipher of one direction between two vehicles in this round, used once, and its associated data."""
    parts = [context(announced), sender.to_bytes(8, "little"), receiver.to_bytes(8, "little")]
    about = signing.message("carpool/secagg+/share", VERSION, parts)
    return AESGCM(agree(private, public, about)), about


def agree(private: X25519PrivateKey, public: bytes, info: bytes) -> bytes:
    """16 bytes that two X25519 keys have in common for one purpose; raises VehicleError for a weak key."""
    try:
        secret = private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise VehicleError(f"a public key is unusable: {error}") from error
    return HKDF(hashes.SHA256(), 16, None, info).derive(secret)


def mask_key(private: X25519PrivateKey, public: bytes, about: bytes, one: int, two: int) -> bytes:
    """The key of the mask that two vehicles have in common: the same from either side. about: the context."""
    low, high = sorted((one, two))
    parts = [about, low.to_bytes(8, "little"), high.to_bytes(8, "little")]
    return agree(private, public, signing.message("carpool/secagg+/mask", VERSION, parts))
