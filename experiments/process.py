"""What this process is set to before it trains: one thread, and pages that are kept.

Fresh pages cost a tenth of a CNN's training. By default glibc gives freed blocks of 128 kB and more back to
the kernel, and training asks for the same blocks again at the next batch; the kernel must clear each page
anew: 1000 to 3000 page faults a vehicle.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

import torch

KEPT = 1 << 28
"""Bytes of free memory that are kept at most."""
LARGEST = 1 << 25
"""Largest block that is kept, bytes; glibc allows no more."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def set_process() -> None:
    """Both, at the first thing that a process does for training; again does no harm."""
    fit_threads()
    keep_pages()


def fit_threads() -> None:
    """One thread a process: two threads lose to two processes, and results do not depend on the cores."""
    torch.set_num_threads(1)


def keep_pages() -> None:
    """Tell this process's allocator to keep freed memory, up to `KEPT`; elsewhere than on glibc nothing."""
    if sys.platform != "linux":
        return
    with suppress(AttributeError, OSError):  # a C library without mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, LARGEST)
        mallopt(_M_TRIM_THRESHOLD, KEPT)
