"""Mask streams against AES-CTR, the NIST vectors, and the entropy test that folded seeds fail."""

from __future__ import annotations

import base64
import secrets

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from carpool.privacy.secagg.masks import BLOCK, add_masks, pack, stream, unpack

KEY = bytes(range(16))


def by_ctr(key: bytes, n: int) -> np.ndarray:
    """The same stream by another road: AES-CTR, a block of 64 KiB after another."""
    out = b""
    for number in range(-(-4 * n // BLOCK)):
        counter = number.to_bytes(12, "big") + (2).to_bytes(4, "big")
        out += Cipher(algorithms.AES128(key), modes.CTR(counter)).encryptor().update(bytes(BLOCK))
    return np.frombuffer(out[: 4 * n], "<u4")


@pytest.mark.parametrize("n", [1, 3, 4, BLOCK // 4 - 1, BLOCK // 4, BLOCK // 4 + 1, 3 * BLOCK // 4 + 7])
def test_the_stream_is_aes_in_counter_mode(n):
    np.testing.assert_array_equal(stream(KEY, n), by_ctr(KEY, n))


def test_nist_sp_800_38a_counter_mode_underlies_it():
    """F.5.1 CTR-AES128: the cipher that the stream is compared with is the standard's."""
    key = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
    counter = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    plain = bytes.fromhex("6bc1bee22e409f96e93d7e117393172a")
    found = Cipher(algorithms.AES128(key), modes.CTR(counter)).encryptor().update(plain)
    assert found.hex() == "874d6191b620e3261bef6864990db6ce"


@given(st.integers(1, 40_000), st.integers(0, 3), st.integers(0, 3))
def test_what_is_added_and_taken_away_again_leaves_the_vector(n, plus, minus):
    before = np.random.default_rng(n).integers(0, 1 << 32, n, np.uint32)
    keys = [bytes([k]) * 16 for k in range(plus + minus)]
    vector = before.copy()
    add_masks(vector, keys[:plus], keys[plus:])
    add_masks(vector, keys[plus:], keys[:plus])
    np.testing.assert_array_equal(vector, before)


@pytest.mark.parametrize("bits", [16, 24, 32])
def test_numbers_travel_in_as_many_bytes_as_they_have(bits):
    vector = np.random.default_rng(bits).integers(0, 1 << 32, 1001, np.uint32)
    packed = pack(vector, bits)
    assert len(packed) == 1001 * bits // 8
    assert bytes(packed[: bits // 8]) == int(vector[0]).to_bytes(4, "little")[: bits // 8]
    np.testing.assert_array_equal(unpack(packed, bits), vector & np.uint32(2**bits - 1))


def test_other_widths_are_refused():
    for call in (lambda: pack(np.zeros(2, np.uint32), 20), lambda: unpack(memoryview(bytes(5)), 20)):
        with pytest.raises(ValueError, match="16, 24 or 32"):
            call()


def test_every_bit_of_a_mask_varies_over_keys():
    """OR and AND over the first words of many masks: folded or short seeds leave bits that never move."""
    rows = np.stack([stream(secrets.token_bytes(16), 8) for _ in range(256)])
    assert (np.bitwise_or.reduce(rows, 0) == 0xFFFFFFFF).all()
    assert (np.bitwise_and.reduce(rows, 0) == 0).all()  # a fair bit fails with probability 2^-256


def test_flowers_generator_fails_the_same_test(monkeypatch):
    """Its seeds are base64 text folded to 32 bits: some never move. If this fails, Flower has mended it."""
    from flwr.common.secure_aggregation import secaggplus_utils

    seeds = []

    class Recorder:
        def __init__(self, seed):
            seeds.append(seed)

        def randint(self, low, high, shape, dtype):
            return np.zeros(shape, dtype)

    monkeypatch.setattr(np.random, "RandomState", Recorder)
    for _ in range(256):
        key = base64.urlsafe_b64encode(secrets.token_bytes(32))
        secaggplus_utils.pseudo_rand_gen(key, 1 << 32, [(8,)])
    rows = np.array(seeds, np.uint32)
    stuck = ~(np.bitwise_or.reduce(rows) & ~np.bitwise_and.reduce(rows))
    assert int(stuck).bit_count() >= 4  # 28 bits move, 2^28 tries find any mask


def test_what_cannot_be_masked_is_refused():
    for vector in (np.zeros(4, np.int64), np.zeros((2, 2), np.uint32), np.zeros(8, np.uint32)[::2]):
        with pytest.raises(ValueError, match="contiguous uint32"):
            add_masks(vector, [KEY])
    with pytest.raises(ValueError, match="16 bytes"):
        add_masks(np.zeros(4, np.uint32), [KEY[:15]])
