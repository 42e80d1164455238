"""Masks from 16-byte keys: AES-128 in counter mode as uint32, added to vectors block by block.

Block i of a key's stream is 64 KiB of AES-GCM ciphertext of zeros under the nonce i (12 bytes, big-endian),
without the tag: that is AES-CTR from the counter block nonce || 00000002 (NIST SP 800-38D). Read as
little-endian uint32. A key is used for one stream, once; several channels continue one stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

Ring = NDArray[np.uint32]
"""Numbers modulo 2^32, uint32 [n]."""
KEY = 16
BLOCK = 1 << 16
"""Bytes a block: it stays in the second-level cache between being made and being added."""
_WORDS = BLOCK // 4
_TAG = 16
_ZEROS = bytes(BLOCK)
Blocks = Callable[[int], Ring]
"""Block i of a stream: uint32 [BLOCK / 4], a view that the next call overwrites."""


def add_masks(vector: Ring, keys: Iterable[bytes], negative: Iterable[bytes] = ()) -> None:
    """Add the streams of `keys` to vector uint32 [n] in place, and subtract those of `negative`, mod 2^32.

    Raises ValueError for a key that is not 16 bytes or a vector that is not contiguous uint32.
    """
    if vector.dtype != np.uint32 or vector.ndim != 1 or not vector.flags.c_contiguous:
        raise ValueError(f"masks are added to contiguous uint32 vectors, not {vector.dtype} {vector.shape}")
    plus, minus = _ciphers(keys), _ciphers(negative)
    room = bytearray(BLOCK + _TAG)
    mask = np.frombuffer(room, "<u4", _WORDS)
    for number, start in enumerate(range(0, len(vector), _WORDS)):
        part = vector[start : start + _WORDS]
        nonce = number.to_bytes(12, "big")
        zeros, out = (_ZEROS, memoryview(room)) if len(part) == _WORDS else _short(len(part), room)
        for cipher in plus:
            cipher.encrypt_into(nonce, zeros, None, out)
            np.add(part, mask[: len(part)], out=part)
        for cipher in minus:
            cipher.encrypt_into(nonce, zeros, None, out)
            np.subtract(part, mask[: len(part)], out=part)


def _short(words: int, room: bytearray) -> tuple[bytes, memoryview]:
    return bytes(4 * words), memoryview(room)[: 4 * words + _TAG]


def _ciphers(keys: Iterable[bytes]) -> Sequence[AESGCM]:
    found = []
    for key in keys:
        if len(key) != KEY:
            raise ValueError(f"a mask's key has {KEY} bytes, not {len(key)}")
        found.append(AESGCM(key))
    return found


def blocks(key: bytes) -> Blocks:
    """A key's stream, block by block."""
    (cipher,) = _ciphers([key])
    room = bytearray(BLOCK + _TAG)
    mask = np.frombuffer(room, "<u4", _WORDS)

    def block(number: int) -> Ring:
        cipher.encrypt_into(number.to_bytes(12, "big"), _ZEROS, None, room)
        return mask

    return block


def shorten(vector: Ring, bits: int) -> None:
    """Take a vector uint32 [d] mod 2^bits in place; 2 <= bits <= 32."""
    if not 2 <= bits <= 32:
        raise ValueError(f"the ring has 2 to 32 bits, not {bits}")
    if bits < 32:
        np.bitwise_and(vector, np.uint32((1 << bits) - 1), out=vector)


def farthest(vector: Ring, limit: int, bits: int) -> int:
    """The largest of a vector's numbers mod 2^bits, read from -limit up: above `limit`, one lies outside."""
    moved = vector + np.uint32(limit)
    shorten(moved, bits)
    return int(moved.max(initial=0)) - limit


def pack(vector: Ring, bits: int) -> memoryview:
    """Numbers mod 2^bits as little-endian bytes, 2, 3 or 4 a number; ValueError for other bits."""
    _check_bits(bits)
    words = np.ascontiguousarray(vector, "<u4")
    if bits == 32:
        return words.data.cast("B")
    if bits == 16:
        return words.astype("<u2").data.cast("B")
    return np.ascontiguousarray(words.view(np.uint8).reshape(-1, 4)[:, :3]).data.cast("B")


def unpack(data: memoryview, bits: int) -> Ring:
    """What `pack` made; a view where it can be."""
    _check_bits(bits)
    if bits == 32:
        return np.frombuffer(data, "<u4")
    if bits == 16:
        return np.frombuffer(data, "<u2").astype(np.uint32)
    wide = np.zeros((len(data) // 3, 4), np.uint8)
    wide[:, :3] = np.frombuffer(data, np.uint8).reshape(-1, 3)
    return wide.view("<u4").reshape(-1)


def _check_bits(bits: int) -> None:
    if bits not in (16, 24, 32):
        raise ValueError(f"numbers travel in 16, 24 or 32 bits, not {bits}")


def stream(key: bytes, n: int) -> Ring:
    """The first n numbers of a key's stream, uint32 [n]."""
    vector = np.zeros(n, np.uint32)
    add_masks(vector, [key])
    return vector
