"""Streams: never twice the same from the system, always the same from a key, and no key in sight."""

from __future__ import annotations

import copy
import os
import threading
import warnings

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from carpool.privacy.dp import randomness
from carpool.privacy.dp.randomness import KeyedBits, SeededBits, SystemBits, derived
from carpool.privacy.secagg.masks import stream

KEY = bytes(range(16))


def in_a_child(bits, n=8):
    """Words that a forked child draws from `bits`."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns where threads run
        child = os.fork()
    if child == 0:
        try:
            os.write(write, bits.words(n).tobytes())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        words = np.frombuffer(pipe.read(), "<u4")
    os.waitpid(child, 0)
    return words


def test_a_forked_child_and_its_parent_draw_different_words(monkeypatch):
    bits = SystemBits("test")
    bits.words(1)
    child, other, parent = in_a_child(bits), in_a_child(bits), bits.words(8)
    assert len(child) == len(other) == 8
    assert not set(child.tolist()) & set(parent.tolist())
    assert not set(child.tolist()) & set(other.tolist())
    # Without the check both draw the same: this test can fail.
    monkeypatch.setattr(randomness, "_process", lambda: (0, 0))
    blind = SystemBits("test")
    np.testing.assert_array_equal(in_a_child(blind), blind.words(8))


def test_system_words_never_repeat_over_calls_blocks_objects_and_threads():
    """Of 140,000 words of 32 bits, pairs of neighbours (64 bits) are all different but with 6e-10."""
    bits, found = SystemBits("test"), []
    pieces = [bits.words(40_000), bits.words(40_000), SystemBits("test").words(40_000)]

    def draw():
        found.extend(bits.words(10) for _ in range(500))

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pairs = np.concatenate([*pieces, *found]).view("<u8")
    assert len(pairs) == 70_000 == len(np.unique(pairs))


def test_system_words_are_balanced_bit_by_bit():
    """Each of 32 bits over 10^5 words within 5.6 deviations (false positives 7e-7); 1 % more fails."""
    words, n = SystemBits("test").words(100_000), 100_000
    ones = np.array([np.count_nonzero(words & np.uint32(1 << k)) for k in range(32)])
    assert np.all(np.abs(ones - n / 2) < 5.6 * np.sqrt(n / 4))
    assert 0.01 * n > 5.6 * np.sqrt(n / 4)


def test_a_request_is_aes_under_a_nonce_of_its_own(monkeypatch):
    monkeypatch.setattr(os, "urandom", lambda n: KEY[:n])
    bits = SystemBits("test")
    bits.words(3)
    words = bits.words(16_384 + 5)
    cipher = AESGCM(derived(KEY, "test"))
    parts = [
        cipher.encrypt((1 << 32 | k).to_bytes(12, "big"), bytes(n), None)[:n]
        for k, n in ((0, 65536), (1, 20))
    ]
    np.testing.assert_array_equal(words, np.frombuffer(b"".join(parts), "<u4"))


def test_a_key_of_the_system_is_renewed_after_its_calls(monkeypatch):
    monkeypatch.setattr(randomness, "CALLS", 3)
    keys = iter([KEY, KEY[::-1]])
    monkeypatch.setattr(os, "urandom", lambda n: next(keys))
    bits = SystemBits("test")
    drawn = [bits.words(2).tolist() for _ in range(4)]
    assert (
        drawn[3]
        == np.frombuffer(
            AESGCM(derived(KEY[::-1], "test")).encrypt(bytes(12), bytes(8), None)[:8], "<u4"
        ).tolist()
    )


@pytest.mark.slow
@given(st.lists(st.integers(0, 20_000), max_size=5), st.integers(0, 40_000))
def test_a_key_gives_the_same_words_in_pieces_of_any_size(pieces, start):
    bits, whole = KeyedBits(KEY, "test"), stream(derived(KEY, "test"), start + sum(pieces))
    bits.seek(start)
    drawn = [bits.words(n) for n in pieces]
    np.testing.assert_array_equal(np.concatenate([*drawn, whole[:0]]), whole[start:])
    assert bits.place == start + sum(pieces)


def test_words_stay_when_more_are_drawn():
    bits = KeyedBits(KEY, "test")
    first = bits.words(16_384)
    kept = first.copy()
    bits.words(16_384)
    np.testing.assert_array_equal(first, kept)


def test_purposes_do_not_share_a_stream():
    assert derived(KEY, "noise") != derived(KEY, "rounding") != KEY
    assert derived(KEY, "noise").hex() == "c2fe6bd2af5d03052abfdefe5bbbd62e"


def test_a_seed_is_reproducible_and_says_that_it_is_not_private():
    assert SystemBits("x").private
    assert KeyedBits(KEY, "x").private
    assert not SeededBits(7).private
    np.testing.assert_array_equal(SeededBits(7).words(9), SeededBits(7).words(9))
    assert SeededBits(7).words(2).tolist() != SeededBits(8).words(2).tolist()
    assert SeededBits(7).words(2).tolist() == [4131950685, 1788420823]


@pytest.mark.parametrize("bits", [SystemBits("x"), KeyedBits(KEY, "x"), SeededBits(1)])
def test_a_stream_shows_no_key_and_is_not_copied(bits):
    assert KEY.hex() not in repr(bits)
    assert "b'" not in repr(bits)
    for way in (copy.copy, copy.deepcopy, lambda stream: stream.__reduce_ex__(2)):
        with pytest.raises(TypeError, match="never copied"):
            way(bits)
    with pytest.raises(ValueError, match="0 or more, not -1"):
        bits.words(-1)
    assert len(bits.words(0)) == 0


def test_a_short_key_or_no_purpose_is_refused():
    with pytest.raises(ValueError, match="16 secret bytes"):
        KeyedBits(b"short", "x")
    with pytest.raises(ValueError, match="purpose"):
        SystemBits("")
