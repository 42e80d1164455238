"""Large messages are limited by memory, not by arithmetic: one allocation, one pass, huge pages.

The C library maps fresh memory for a large object, and the kernel hands it out page by page as it is first
touched; asking for huge pages makes that 2-3 times faster. It is a hint: where the system has none, or is not
Linux, the same bytes come out, more slowly.
"""

from __future__ import annotations

import ctypes
import io
import mmap
import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np

HINT = 1 << 21
"""Bytes from which huge pages are asked for; one is 2 MiB on x86 and ARM."""
BLOCK = 1 << 17
"""Numbers a block, 512 KiB: whatever is done to it after its first use finds it in the cache."""


def filled(size: int, fill: Callable[[memoryview], None]) -> bytes:
    """A bytes object of `size` bytes that `fill` has written into once; it may not keep the view it is given.

    >>> filled(3, lambda room: room.__setitem__(slice(0, 2), b"ab"))
    b'ab\\x00'
    """
    # BytesIO hands out its own bytes object without a copy when nobody else holds it, and a large bytes(size)
    # is zero pages that are not there yet: every page is touched once, by `fill`.
    stream = io.BytesIO(bytes(size))
    with stream.getbuffer() as room:
        if size >= HINT:
            ask_for_huge_pages(room)
        fill(room)
    return stream.getvalue()


def blocks(size: int) -> Iterator[slice]:
    """Slices of at most BLOCK elements that cover 0..size-1 in order."""
    return (slice(start, min(start + BLOCK, size)) for start in range(0, size, BLOCK))


def ask_for_huge_pages(room: memoryview) -> bool:
    """Hint that this memory is about to be written as a whole; false where the system does not take it."""
    madvise = _madvise()
    address = np.frombuffer(room, np.uint8).ctypes.data
    first = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    whole = (address + room.nbytes - first) // mmap.PAGESIZE * mmap.PAGESIZE
    if madvise is None or whole <= 0:
        return False
    advice = ctypes.c_int(mmap.MADV_HUGEPAGE)
    return bool(madvise(ctypes.c_void_p(first), ctypes.c_size_t(whole), advice) == 0)


@cache
def _madvise() -> Any:
    """The C library's madvise, or None where there is none."""
    if not sys.platform.startswith("linux") or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    try:
        return ctypes.CDLL(None).madvise
    except (AttributeError, OSError):
        return None
