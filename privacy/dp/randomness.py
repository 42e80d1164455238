"""Random words for noise: from the operating system, from a secret key, or from a seed that is not private.

All three are AES-128 in counter mode (as in carpool.privacy.secagg.masks) under a key made by HKDF-SHA-256
with one label a purpose, so that no two uses share a stream. The caller chooses; nothing here falls back to
less.

Not covered: a machine that is copied while it runs (a snapshot of a virtual machine repeats its stream until
    the next key), and whoever reads the process's memory."""

from __future__ import annotations

import hashlib
import itertools
import os
from typing import NoReturn, Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from carpool.privacy.secagg.masks import BLOCK, KEY, Ring, blocks

LABEL = b"carpool/dp/"
CALLS = 1 << 20
"""Requests under one key of the operating system's; the next has a new one."""
_TAG = 16
_ZEROS = bytes(BLOCK)
_WORDS = BLOCK // 4


class Bits(Protocol):
    """A stream of uniform random words."""

    @property
    def private(self) -> bool:
        """Whether nobody else can compute the stream; if not, what it makes is stamped NOT PRIVATE."""

    def words(self, n: int) -> Ring:
        """The next n words, a new uint32 [n] (little-endian); n >= 0."""


def derived(secret: bytes, purpose: str) -> bytes:
    """The 16-byte key for a purpose from 16 secret bytes; ValueError for another number or no purpose."""
    if len(secret) != KEY or not purpose:
        raise ValueError(
            f"a stream needs {KEY} secret bytes and a purpose, not {len(secret)} and {purpose!r}"
        )
    return HKDF(SHA256(), KEY, None, LABEL + purpose.encode()).derive(secret)


class SystemBits:
    """Words from the operating system's entropy: the one to make noise with.

    Never the same words twice: not in a forked child (it makes its own key), not from two threads (a request
    has a nonce of its own), not from a copy (it cannot be copied or pickled).
    """

    private = True

    def __init__(self, purpose: str) -> None:
        self._purpose = purpose
        self._renew()

    def words(self, n: int) -> Ring:
        """The next n words, a new uint32 [n]; raises ValueError for n < 0."""
        _check_count(n)
        # One reading of one attribute: another thread may renew it meanwhile, either is good.
        process, cipher, requests = self._stream
        request = next(requests)
        if process != _process() or request >= CALLS:
            self._renew()
            _, cipher, requests = self._stream
            request = next(requests)
        # Each block's tag is overwritten by the next block.
        room = bytearray(4 * n + _TAG)
        view, prefix = memoryview(room), request.to_bytes(8, "big")
        for number, start in enumerate(range(0, 4 * n, BLOCK)):
            size = min(BLOCK, 4 * n - start)
            zeros = _ZEROS if size == BLOCK else bytes(size)
            nonce = prefix + number.to_bytes(4, "big")
            cipher.encrypt_into(nonce, zeros, None, view[start : start + size + _TAG])
        return np.frombuffer(room, "<u4", n)

    def _renew(self) -> None:
        key = derived(os.urandom(KEY), self._purpose)
        self._stream = (_process(), AESGCM(key), itertools.count())

    def __repr__(self) -> str:
        return f"SystemBits({self._purpose!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a random stream is never copied or sent: the copy would repeat it; make a new one")


class KeyedBits:
    """The stream of a secret 16-byte key: whoever has the key makes the same words, in pieces of any size.

    For noise that is made a second time on purpose (taken off a sum, or resumed after a crash). A key is used
    for one vector; `seek` returns to a word of it.
    """

    private = True

    def __init__(self, key: bytes, purpose: str) -> None:
        self._purpose = purpose
        self._block = blocks(derived(key, purpose))
        self._place, self._held = 0, -1
        self._room: Ring = np.empty(0, np.uint32)

    def words(self, n: int) -> Ring:
        """The next n words, a new uint32 [n]; raises ValueError for n < 0."""
        _check_count(n)
        out = np.empty(n, "<u4")
        done = 0
        while done < n:
            number, inside = divmod(self._place, _WORDS)
            if number != self._held:
                self._room, self._held = self._block(number), number
            take = min(n - done, _WORDS - inside)
            out[done : done + take] = self._room[inside : inside + take]
            done += take
            self._place += take
        return out

    def seek(self, word: int) -> None:
        """Go to a word of the stream; the first is 0."""
        _check_count(word)
        self._place = word

    @property
    def place(self) -> int:
        """Which word comes next."""
        return self._place

    def __repr__(self) -> str:
        return f"KeyedBits({self._purpose!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a keyed stream is never copied or sent, since its key is secret; make it from the key"
        )


class SeededBits(KeyedBits):
    """The stream of a number: reproducible and so NOT private. For tests and for replaying an experiment."""

    private = False

    def __init__(self, seed: int) -> None:
        super().__init__(hashlib.sha256(f"carpool/dp/seeded/{seed}".encode()).digest()[:KEY], "seeded")


def bits_of(private: bool, seed: int, purpose: str) -> Bits:
    """A stream for noise: from the operating system, or, NOT PRIVATE, from a seed and the purpose."""
    if private:
        return SystemBits(purpose)
    mixed = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return SeededBits(int.from_bytes(mixed[:8], "little"))


_forks = 0


def _forked() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_forked)


def _process() -> tuple[int, int]:
    """Differs after every fork: the count where Python forked (a pid can come back), the pid where C did."""
    return os.getpid(), _forks


def _check_count(n: int) -> None:
    if n < 0:
        raise ValueError(f"a number of words is 0 or more, not {n}")
