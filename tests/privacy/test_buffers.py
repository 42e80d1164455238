"""One bytes object from parts: the same bytes with and without huge pages, written once."""

from __future__ import annotations

import mmap
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool.privacy import buffers
from carpool.privacy.buffers import BLOCK, HINT, ask_for_huge_pages, blocks, filled

linux = pytest.mark.skipif(
    not (sys.platform.startswith("linux") and hasattr(mmap, "MADV_HUGEPAGE")), reason="huge pages are Linux's"
)


@given(st.binary(max_size=200), st.integers(1, 200))
def test_what_is_written_comes_out_with_and_without_the_hint(data: bytes, hint: int) -> None:
    def fill(room: memoryview) -> None:
        assert not any(room), "fresh memory is zero"
        room[: len(data)] = data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buffers, "HINT", hint)
        out = filled(len(data) + 7, fill)
    assert type(out) is bytes
    assert out == data + bytes(7)


@pytest.mark.parametrize("supported", [True, False])
def test_a_large_object_is_allocated_once(supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not supported:
        monkeypatch.setattr(buffers, "_madvise", lambda: None)
    body = np.random.default_rng(1).integers(0, 256, 2 * HINT, np.uint8)

    def fill(room: memoryview) -> None:
        room[:] = memoryview(body)

    tracemalloc.start()
    try:
        data = filled(body.size, fill)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.array_equal(np.frombuffer(data, np.uint8), body)
    assert peak < 1.01 * body.size


def test_what_fill_raises_comes_out() -> None:
    def fill(room: memoryview) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        filled(10, fill)


@given(st.integers(0, 5 * BLOCK))
def test_blocks_cover_everything_once(size: int) -> None:
    parts = list(blocks(size))
    assert [i for part in parts for i in (part.start, part.stop)][1:-1:2] == [p.start for p in parts[1:]]
    assert sum(part.stop - part.start for part in parts) == size
    assert all(0 < part.stop - part.start <= BLOCK for part in parts)


@linux
def test_the_hint_changes_nothing() -> None:
    room = memoryview(bytearray(b"x" * (1 << 20)))
    ask_for_huge_pages(room)
    assert bytes(room) == b"x" * (1 << 20)


def test_memory_of_less_than_a_page_is_left_alone() -> None:
    assert ask_for_huge_pages(memoryview(bytearray(100))) is False
