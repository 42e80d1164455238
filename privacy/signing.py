"""Signatures over domain-separated, versioned bytes: no signature of one purpose is ever one of another.

What is signed is label || 0 || version || length-prefixed parts. Ed25519, RFC 8032.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from carpool.privacy.errors import VehicleError

SIGNATURE = 64
PUBLIC = 32


def message(label: str, version: int, parts: Sequence[bytes]) -> bytes:
    """The bytes of a purpose ("carpool/..."), injective in label, version and parts.

    >>> message("carpool/x", 1, [b"ab", b""]).hex(" ")
    '63 61 72 70 6f 6f 6c 2f 78 00 01 02 00 00 00 61 62 00 00 00 00'
    """
    return b"".join((_head(label, version), *(len(part).to_bytes(4, "little") + part for part in parts)))


@lru_cache(maxsize=256)
def _head(label: str, version: int) -> bytes:
    if not label.isascii() or "\0" in label or not label.startswith("carpool/") or not 0 < version < 256:
        raise ValueError(f"a signed purpose is 'carpool/...' in version 1 to 255, not {label!r} {version}")
    return label.encode() + bytes((0, version))


def digest(label: str, version: int, parts: Sequence[bytes]) -> bytes:
    """SHA-256 of `message`, 32 bytes."""
    return hashlib.sha256(message(label, version, parts)).digest()


def sign(key: Ed25519PrivateKey, label: str, version: int, parts: Sequence[bytes]) -> bytes:
    """The signature, 64 bytes."""
    return key.sign(message(label, version, parts))


def verify(public: bytes, signature: bytes, label: str, version: int, parts: Sequence[bytes]) -> None:
    """Raise VehicleError unless `signature` is that of the key `public` (32 bytes) for this purpose."""
    if len(public) != PUBLIC or len(signature) != SIGNATURE:
        raise VehicleError(f"a signature of {len(signature)} bytes by a key of {len(public)} is malformed")
    try:
        _verified(public, signature, message(label, version, parts))
    except (InvalidSignature, ValueError) as error:
        raise VehicleError(f"the signature for {label} does not hold") from error


@lru_cache(maxsize=1 << 14)
def _verified(public: bytes, signature: bytes, data: bytes) -> None:
    """Returns for a signature that holds, and remembers it: certificates come back round after round."""
    Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
