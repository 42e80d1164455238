"""The fast transform against its definition, and signs that are public, fixed and undone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import hadamard

from carpool.privacy.dp import rotation
from carpool.privacy.dp.rotation import hadamard_blocks, multiply_blocks, signs
from carpool.privacy.secagg.masks import stream

KEY = bytes(range(16))


@pytest.mark.slow
@given(st.integers(0, 10), st.integers(1, 40), st.integers(0, 9))
def test_each_block_is_transformed_as_the_matrix_says(power, count, seed):
    block = 1 << power
    vector = np.random.default_rng(seed).standard_normal(count * block).astype(np.float32)
    wanted = (vector.reshape(count, block).astype(np.float64) @ hadamard(block)).reshape(-1)
    hadamard_blocks(vector, block)
    np.testing.assert_allclose(vector, wanted, atol=2e-6 * block)


@pytest.mark.parametrize("block", [1 << 13, 1 << 15, 1 << 16, 1 << 19])
def test_large_blocks_are_their_own_inverse_and_keep_inner_products(block):
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal(1 << 19).astype(np.float32) for _ in range(2))
    x, y = a.copy(), b.copy()
    hadamard_blocks(x, block)
    hadamard_blocks(y, block)
    for at in range(0, len(a), block):
        part = slice(at, at + block)
        # One number of a block by its definition: row 5 has the signs (-1)^popcount(5 & i).
        row = 1 - 2 * (np.bitwise_count(np.arange(block) & 5) % 2).astype(np.float64)
        assert x[at + 5] == pytest.approx(row @ a[part].astype(np.float64), abs=0.01)
        assert np.dot(x[part], y[part]) / block == pytest.approx(
            np.dot(a[part], b[part]), abs=0.05 * block**0.5
        )
    hadamard_blocks(x, block)
    np.testing.assert_allclose(x / block, a, atol=1e-5)


def test_a_small_cache_gives_the_same(monkeypatch):
    vector = np.random.default_rng(2).standard_normal(1 << 14).astype(np.float32)
    one, other = vector.copy(), vector.copy()
    hadamard_blocks(one, 1 << 13)
    monkeypatch.setattr(rotation, "PIECE", 1 << 9)
    hadamard_blocks(other, 1 << 13)
    np.testing.assert_allclose(one, other, atol=1e-3)


@pytest.mark.parametrize(("n", "block"), [(10, 3), (10, 4), (8, 0), (4, 8)])
def test_what_is_no_row_of_blocks_is_refused(n, block):
    with pytest.raises(ValueError, match="a power of two"):
        hadamard_blocks(np.zeros(n, np.float32), block)


def test_signs_are_the_top_bits_of_the_public_stream():
    row = signs(KEY, 4096, 2.5)
    np.testing.assert_array_equal(row, np.where(stream(KEY, 4096) >= 1 << 31, -2.5, 2.5))
    assert abs(row.sum()) < 4.9 * 2.5 * 64  # false positives 1e-6
    assert not np.array_equal(row, signs(KEY[::-1], 4096, 2.5))


@pytest.mark.slow
@given(st.integers(0, 100), st.sampled_from([1, 8, 32]))
def test_blocks_are_multiplied_to_the_last_number(n, block):
    vector, row = np.arange(n, dtype=np.float32), np.arange(1, block + 1, dtype=np.float32)
    out = np.empty(n, np.float32)
    multiply_blocks(vector, row, out)
    np.testing.assert_array_equal(out, vector * np.resize(row, n) if n else vector)
