"""An append-only log as a Merkle tree. RFC 6962, Section 2.1: SHA-256, 0x00 before leaves, 0x01 before nodes.

Roots, inclusion proofs and consistency proofs; pure functions over leaf hashes. Who keeps the entries and who
signs the roots is another file's business.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

Hash = bytes
"""32 bytes."""


def leaf(entry: bytes) -> Hash:
    """The hash of an entry."""
    return hashlib.sha256(b"\0" + entry).digest()


def node(left: Hash, right: Hash) -> Hash:
    """The hash of two subtrees."""
    return hashlib.sha256(b"\1" + left + right).digest()


def root(leaves: Sequence[Hash]) -> Hash:
    """The tree's hash; of no leaves, that of nothing."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    cut = split(len(leaves))
    return node(root(leaves[:cut]), root(leaves[cut:]))


def split(size: int) -> int:
    """The largest power of two below size >= 2."""
    return 1 << ((size - 1).bit_length() - 1)


def inclusion(leaves: Sequence[Hash], index: int) -> list[Hash]:
    """The proof that leaf `index` is in the tree; raises ValueError for an index outside of it."""
    if not 0 <= index < len(leaves):
        raise ValueError(f"there is no entry {index} in a log of {len(leaves)}")
    if len(leaves) == 1:
        return []
    cut = split(len(leaves))
    if index < cut:
        return [*inclusion(leaves[:cut], index), root(leaves[cut:])]
    return [*inclusion(leaves[cut:], index - cut), root(leaves[:cut])]


def paths(leaves: Sequence[Hash]) -> list[list[Hash]]:
    """The inclusion proofs of all leaves, computed together."""
    return _tree(leaves)[1] if leaves else []


def _tree(leaves: Sequence[Hash]) -> tuple[Hash, list[list[Hash]]]:
    if len(leaves) == 1:
        return leaves[0], [[]]
    cut = split(len(leaves))
    (one, left), (two, right) = _tree(leaves[:cut]), _tree(leaves[cut:])
    return node(one, two), [[*path, two] for path in left] + [[*path, one] for path in right]


def included(entry: Hash, index: int, size: int, proof: Sequence[Hash], tree: Hash) -> bool:
    """Whether the proof shows that a leaf hash is entry `index` of the tree with this root and size."""
    if not 0 <= index < size:
        return False
    path = _sides(index, size)
    if len(path) != len(proof):
        return False
    found = entry
    for right, other in zip(path, proof, strict=True):
        found = node(other, found) if right else node(found, other)
    return found == tree


@lru_cache(maxsize=1 << 12)
def _sides(index: int, size: int) -> tuple[bool, ...]:
    """From the leaf up: whether the way comes from a right subtree."""
    if size == 1:
        return ()
    cut = split(size)
    return (*_sides(index, cut), False) if index < cut else (*_sides(index - cut, size - cut), True)


def consistency(leaves: Sequence[Hash], old: int) -> list[Hash]:
    """The proof that the first `old` leaves are those of the old tree; ValueError out of 1..size."""
    if not 1 <= old <= len(leaves):
        raise ValueError(f"a log of {len(leaves)} entries was never one of {old}")
    return _subproof(leaves, old, whole=True)


def _subproof(leaves: Sequence[Hash], old: int, *, whole: bool) -> list[Hash]:
    if old == len(leaves):
        return [] if whole else [root(leaves)]
    cut = split(len(leaves))
    if old <= cut:
        return [*_subproof(leaves[:cut], old, whole=whole), root(leaves[cut:])]
    return [*_subproof(leaves[cut:], old - cut, whole=False), root(leaves[:cut])]


def consistent(old: int, old_root: Hash, size: int, tree: Hash, proof: Sequence[Hash]) -> bool:
    """Whether the tree of `size` entries is shown to begin with that of `old` (RFC 9162, Section 2.1.4.2)."""
    if not 1 <= old <= size:
        return False
    if old == size:
        return not proof and old_root == tree
    path = list(proof) if old & (old - 1) else [old_root, *proof]
    if not path:
        return False
    first, last = old - 1, size - 1
    while first & 1:
        first, last = first >> 1, last >> 1
    one = two = path[0]
    for other in path[1:]:
        if last == 0:
            return False
        if first & 1 or first == last:
            one, two = node(other, one), node(other, two)
            while first and not first & 1:
                first, last = first >> 1, last >> 1
        else:
            two = node(two, other)
        first, last = first >> 1, last >> 1
    return last == 0 and one == old_root and two == tree
