"""Public random rotation: signs, then the orthonormal Walsh-Hadamard transform of each block; and back.

Suresh et al. 2017, arXiv:1611.00429. It spreads a vector over its block, so that a number of bits holds the
largest coordinate; privacy does not rest on it. The transform of 2^m numbers is the Kronecker product of
those of 2^5, one matrix product a factor, piece by piece in the second-level cache.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from carpool.privacy.secagg.masks import stream
from carpool.privacy.vectors import Vector

PIECE = 1 << 15
"""Numbers that stay in the second-level cache."""
_FACTOR = 32


def hadamard_blocks(vector: Vector, block: int) -> None:
    """Transform each block of `block` = 2^m numbers of a contiguous float32 [k * block] in place, WITHOUT the
    factor 1 / sqrt(block) that makes it orthonormal and its own inverse (callers have a scale to fold it
    into).

    Raises ValueError for a block that is no power of two or does not divide the length.
    """
    if block < 1 or block & (block - 1) or len(vector) % block:
        raise ValueError(f"{len(vector)} numbers are not blocks of {block}, a power of two")
    inner = min(block, PIECE)
    _stages(vector, 1, inner, PIECE)
    if block > inner:
        _stages(vector, inner, block, block)


def signs(key: bytes, block: int, scale: float) -> Vector:
    """scale times the signs of a public 16-byte key, float32 [block]: the same for each block.

    Sign i is the top bit of word i of the key's mask stream. One row of signs is enough: that no coordinate
    is large is shown for each coordinate alone (Hoeffding), and a union over coordinates asks for no
    independence.
    """
    words = stream(key, block)
    words &= np.uint32(1 << 31)
    words ^= np.float32(scale).view(np.uint32)
    return words.view(np.float32)


def multiply_blocks(vector: Vector, row: Vector, out: Vector) -> None:
    """Multiply float32 [n] block by block with a row [block] into out [n], which may be the vector."""
    whole = len(vector) // len(row) * len(row)
    np.multiply(vector[:whole].reshape(-1, len(row)), row, out=out[:whole].reshape(-1, len(row)))
    np.multiply(vector[whole:], row[: len(vector) - whole], out=out[whole:])


def _stages(vector: Vector, stride: int, until: int, piece: int) -> None:
    """The factors between neighbours `stride` apart and those `until` apart, within pieces of the vector."""
    room = np.empty(min(piece, len(vector)), np.float32)
    for start in range(0, len(vector), piece):
        here = vector[start : start + piece]
        there, step = room[: len(here)], stride
        while step < until:
            factor = min(_FACTOR, until // step)
            _stage(here, there, step, factor)
            here, there = there, here
            step *= factor
        if not np.may_share_memory(here, vector):
            there[:] = here


def _stage(here: Vector, there: Vector, step: int, factor: int) -> None:
    matrix = _matrix(factor)
    if step == 1:
        # Squares where they fit: BLAS is fastest on many small ones.
        rows = _FACTOR if len(here) % (_FACTOR * factor) == 0 else 1
        np.matmul(here.reshape(-1, rows, factor), matrix, out=there.reshape(-1, rows, factor))
    else:
        np.matmul(matrix, here.reshape(-1, factor, step), out=there.reshape(-1, factor, step))


@lru_cache(maxsize=8)
def _matrix(size: int) -> Vector:
    """The Walsh-Hadamard matrix, entries 1 and -1: float32 [size, size]."""
    matrix = np.ones((1, 1), np.float32)
    for _ in range(round(math.log2(size))):
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    matrix = np.ascontiguousarray(matrix)
    matrix.flags.writeable = False
    return matrix
