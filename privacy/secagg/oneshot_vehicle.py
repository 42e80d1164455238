"""The vehicle's one message in `one-shot`: masked by ring-LWE, the key shared to a committee. See rlwe.py.

    s, e -> centred binomial;  y = x + a s + e;  packed shares of s, each sealed to its member

The sealing key of a share comes from an X25519 key made for this message and from the header's fields, among
which is SHA-256(y): a share is of no use with another vector, round, task or vehicle. Nothing is kept.
EXPERIMENTAL: of a published family, this instance is unproven and unreviewed.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from carpool.privacy import signing
from carpool.privacy.secagg import packed, rlwe
from carpool.privacy.secagg.announcement import VERSION, Announcement
from carpool.privacy.secagg.committee import Committee, Sizes
from carpool.privacy.secagg.masks import Ring, pack
from carpool.privacy.secagg.once_vehicle import Speaker, enter, fields_of, finish
from carpool.privacy.secagg.plus_keys import agree

TAG = 16


def share_size(sizes: Sizes) -> int:
    """Bytes of a share of a key."""
    return 4 * rlwe.N // sizes.columns


def contribute(
    speaker: Speaker,
    announced: Announcement,
    committee: Committee,
    *,
    task: bytes,
    vector: Ring,
    now: float,
) -> bytes:
    """The message; the vehicle may drive away when it is sent. Raises VehicleError, and then says nothing.

    task: SHA-256 over all that the vehicle was sent and trained on; vector: uint32 [d] mod 2^bits, from the
    quantiser; it stays as it is.
    """
    enter(speaker, announced, committee, task, vector, rlwe.VARIANCE, now)
    masked, secret = vector.copy(), rlwe.fresh_key()
    rlwe.mask(masked, secret, rlwe.ring_seed(announced.round_id, announced.bits), announced.bits)
    shares = packed.split(secret, committee.sizes)
    secret.fill(0)
    bytes_ = pack(masked, announced.bits)
    own = X25519PrivateKey.generate()
    fields = fields_of(speaker, announced, task, bytes_, own.public_key().public_bytes_raw())
    sealed = [
        seal_cipher(own, member.sealing, fields, j + 1).encrypt(bytes(12), shares[j].tobytes(), fields)
        for j, member in enumerate(committee.members)
    ]
    shares.fill(0)
    return finish(speaker, announced, fields, sealed, bytes_)


def seal_cipher(private: X25519PrivateKey, public: bytes, fields: bytes, point: int) -> AESGCM:
    """The cipher between one message and one member: the same from either side, used for one share."""
    parts = [fields, point.to_bytes(2, "little")]
    return AESGCM(agree(private, public, signing.message("carpool/one-shot/share", VERSION, parts)))
