"""Work in forked children, to see whether two processes make the same noise."""

from __future__ import annotations

import os
import select
import signal
import time
import warnings
from collections.abc import Callable

from carpool.privacy.errors import RunError

PATIENCE = 60.0
"""Seconds that a child may take."""


def can_fork() -> bool:
    """Whether this system has fork."""
    return hasattr(os, "fork")


def in_child(work: Callable[[], bytes], patience: float = PATIENCE) -> bytes:
    """What `work` gives in a forked child; RunError if it fails or takes longer than `patience` seconds."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of threads; a child that hangs for their locks is ended below.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _work(work, reading, writing)
    os.close(writing)
    try:
        found = _read(reading, time.monotonic() + patience)
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if found is None or not found or found[:1] != b"+":
        raise RunError(
            f"a child process of the audit gave nothing (status {status}); audit without processes"
        )
    return found[1:]


def _work(work: Callable[[], bytes], reading: int, writing: int) -> None:
    """The child: write and end, without any of the parent's cleaning up."""
    try:
        os.close(reading)
        data = b"+" + work()
        while data:
            data = data[os.write(writing, data) :]
    except BaseException:
        os._exit(1)
    os._exit(0)


def _read(reading: int, until: float) -> bytes | None:
    """All bytes up to the end; None when time is up."""
    parts: list[bytes] = []
    while True:
        ready, _, _ = select.select([reading], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            return None
        part = os.read(reading, 1 << 16)
        if not part:
            return b"".join(parts)
        parts.append(part)
