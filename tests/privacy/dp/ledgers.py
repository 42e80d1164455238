"""What the tests of ledger, budget and odometer share."""

from __future__ import annotations

from carpool.privacy.dp.events import Event
from carpool.privacy.dp.ledger import Ledger
from carpool.privacy.dp.ledgerlines import Header, Release

NOW = 1_800_000_000
DELTA = 1e-5
HEADER = Header("run", "first", "vehicle", "zero-out", DELTA)
FLEET = Header("fleet", "north", "vehicle", "zero-out", DELTA)
MATRIX = Event("matrix", 5.0, sensitivity=2.5)


def gaussian(noise=1.0, **more):
    return Event("gaussian", noise, **more)


def release(number=0, event=None, **more):
    plain = {
        "run": "first",
        "round": number,
        "what": "model sum",
        "mechanism": "central",
        "event": event or gaussian(),
        "unit": "vehicle",
        "relation": "zero-out",
        "delta": DELTA,
        "clip_norm": 0.5,
        "cohort": 20,
    }
    return Release(**{**plain, **more})


def opened(path, header=HEADER, now=lambda: NOW):
    return Ledger.open(path, header, now=now)


def digest(letter):
    return letter * 64
