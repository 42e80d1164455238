"""Work in children: what they give comes back, and what they do wrong is an error, never a hang."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from carpool.privacy.audit.processes import can_fork, in_child
from carpool.privacy.errors import RunError

pytestmark = pytest.mark.skipif(not can_fork(), reason="no fork here")


def test_what_a_child_gives_comes_back_whole():
    data = os.urandom(1 << 18)
    assert in_child(lambda: data) == data
    assert in_child(lambda: b"") == b""
    assert int(in_child(lambda: str(os.getpid()).encode())) != os.getpid()


def test_a_child_that_fails_is_an_error():
    def fail() -> bytes:
        raise KeyError("no")

    for work in (fail, lambda: os._exit(3), lambda: None):
        with pytest.raises(RunError, match="gave nothing"):
            in_child(work)


def test_a_child_that_hangs_is_ended():
    before = time.monotonic()
    with pytest.raises(RunError, match="gave nothing"):
        in_child(lambda: time.sleep(30) or b"", patience=0.05)
    assert time.monotonic() - before < 10


def test_no_child_and_no_pipe_is_left_behind():
    place = Path("/proc/self/fd")
    files = len(list(place.iterdir())) if place.is_dir() else None
    for _ in range(5):
        child = int(in_child(lambda: str(os.getpid()).encode()))
        with pytest.raises(ChildProcessError):
            os.waitpid(child, os.WNOHANG)
    if files is not None:
        assert len(list(place.iterdir())) == files
