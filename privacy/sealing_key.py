"""The aggregator's key to which vehicles seal, bound to its certificate: the CA's word, one link on.

    offset  size  what
    0       1     version (1)
    1       138   the aggregator's certificate (identity.py)
    139     8     epoch, little-endian: 1, 2, ... as the key is replaced
    147     32    X25519 public key
    179     64    Ed25519 signature of the certificate's key over all before it, as "carpool/sealing-key"

    CA key ── signs ──> certificate {aggregator} ── signs ──> SealingKey {epoch, X25519}

A vehicle that took any key it is offered would seal to whoever stands in between. It knows the epoch from its
operator, as it knows the CA: a key that was replaced is still signed, and only its epoch tells.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from carpool.privacy import identity
from carpool.privacy.errors import VehicleError
from carpool.privacy.identity import Certificate, Role, Trust
from carpool.privacy.signing import SIGNATURE, sign, verify

LABEL, VERSION = "carpool/sealing-key", 1
_FORM = struct.Struct(f"<B{identity.SIZE}sQ32s")
SIZE = _FORM.size + SIGNATURE


@dataclass(frozen=True)
class SealingKey:
    """An aggregator says: `public` (X25519, 32 bytes) is my key to seal to in `epoch` (1 or more)."""

    certificate: Certificate
    epoch: int
    public: bytes
    signature: bytes

    @property
    def body(self) -> bytes:
        """The signed bytes."""
        return _FORM.pack(VERSION, self.certificate.encode(), self.epoch, self.public)

    def encode(self) -> bytes:
        """`SIZE` bytes."""
        return self.body + self.signature

    def check(self, trust: Trust, now: float, epoch: int) -> X25519PublicKey:
        """The key to seal to; raises VehicleError unless an aggregator of this CA signed it for this epoch.

        now: Unix seconds, at which the certificate must hold; epoch: the one that the vehicle knows of.
        """
        signer = trust.check(self.certificate, Role.AGGREGATOR, now)
        if self.epoch != epoch:
            raise VehicleError(f"the sealing key is of epoch {self.epoch}, the fleet is in epoch {epoch}")
        verify(signer, self.signature, LABEL, VERSION, [self.body])
        return X25519PublicKey.from_public_bytes(self.public)


def announce_key(
    key: Ed25519PrivateKey, certificate: Certificate, public: X25519PublicKey, epoch: int
) -> SealingKey:
    """The signed announcement of an aggregator; raises ValueError for an epoch or certificate not its own."""
    if not 0 < epoch < 1 << 63:
        raise ValueError(f"an epoch is 1 or more, not {epoch}")
    if certificate.key != identity.public_bytes(key) or certificate.role is not Role.AGGREGATOR:
        raise ValueError("a sealing key is signed by the key of an aggregator's certificate")
    blank = SealingKey(certificate, epoch, public.public_bytes_raw(), b"")
    return SealingKey(certificate, epoch, blank.public, sign(key, LABEL, VERSION, [blank.body]))


def decode(data: bytes) -> SealingKey:
    """A sealing key from bytes, unverified; raises VehicleError on anything that is not exactly one."""
    if len(data) != SIZE:
        raise VehicleError(f"a sealing key has {SIZE} bytes, not {len(data)}")
    version, certificate, epoch, public = _FORM.unpack_from(data)
    if version != VERSION or not 0 < epoch < 1 << 63:
        raise VehicleError(f"a sealing key of version {version}, epoch {epoch} is malformed")
    return SealingKey(identity.decode(certificate), epoch, public, data[_FORM.size :])
