"""The real clock goes forward and waits in slices."""

from __future__ import annotations

import time

import pytest

from carpool.server.clock import RealClock


def test_it_is_the_monotonic_clock():
    clock = RealClock()
    before, now, after = time.monotonic(), clock.now(), time.monotonic()
    assert before <= now <= after


@pytest.mark.parametrize(
    ("ahead", "slept"), [(-5.0, 0.0), (0.0, 0.0), (0.1, 0.1), (60.0, 0.25), (1e12, 0.25)]
)
def test_it_waits_until_then_at_most_one_slice_and_never_backwards(monkeypatch, ahead, slept):
    naps = []
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    monkeypatch.setattr(time, "sleep", naps.append)
    RealClock(poll=0.25).wait(1000.0 + ahead)
    assert naps == [pytest.approx(slept)]
