"""The stages of a vehicle's round, and what becomes of a vehicle that leaves at some moment of it.

asked -download-> start -train-> trained -seal-> upload_start -upload-> uploaded -ack-> acked
[ before_training ][during_training][before_upload][ during_upload     ][ after_upload      ]
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from enum import StrEnum

PREPARE_S = 1.0
ACK_S = 5.0


class Stage(StrEnum):
    """Where in a round a vehicle left."""

    BEFORE_TRAINING = "before_training"
    DURING_TRAINING = "during_training"
    BEFORE_UPLOAD = "before_upload"
    DURING_UPLOAD = "during_upload"
    AFTER_UPLOAD = "after_upload"


STAGES = tuple(Stage)


@dataclass(frozen=True)
class Timeline:
    """The moments of one vehicle's round if it stays, in virtual seconds, none before the one above it."""

    asked: float
    start: float
    trained: float
    upload_start: float
    uploaded: float
    acked: float

    def span(self, stage: Stage) -> tuple[float, float]:
        """Begin and end of a stage: it holds a departure at `begin` but none at `end`."""
        moments = astuple(self)
        index = STAGES.index(stage)
        return moments[index], moments[index + 1]


def timeline(
    now: float,
    download_s: float,
    train_s: float,
    upload_s: float,
    prepare_s: float = PREPARE_S,
    ack_s: float = ACK_S,
) -> Timeline:
    """The moments of a round asked at `now`.

    prepare_s: from trained to the first byte sent (clip, mask, seal); ack_s: from the last byte to the ack.
    All in virtual seconds, finite, durations >= 0; raises ValueError.
    """
    moments = [now]
    for seconds in (download_s, train_s, prepare_s, upload_s, ack_s):
        if not 0 <= seconds < math.inf:
            raise ValueError(f"a stage of {seconds} seconds; durations must be finite and at least 0")
        moments.append(moments[-1] + seconds)
    return Timeline(*moments)


@dataclass(frozen=True)
class Outcome:
    """What became of an asked vehicle.

    left: the stage at which it left, or None.
    arrives: virtual seconds when the whole reply is at the server, or None. The reply of a vehicle that
    leaves after its upload does arrive, but the vehicle never learns whether it was counted.
    fraction: share of training (up to before_upload) or of upload (later stages) done when it left, 0..1.
    leaves: virtual seconds of leaving, or None.
    """

    left: Stage | None
    arrives: float | None
    fraction: float
    leaves: float | None = None


def leaving_in(line: Timeline, stage: Stage, share: float) -> Outcome:
    """Outcome of a vehicle that leaves when `share` (0 <= share < 1) of a stage has passed."""
    begin, end = line.span(stage)
    arrives = line.uploaded if stage is Stage.AFTER_UPLOAD else None
    done = {Stage.BEFORE_TRAINING: 0.0, Stage.BEFORE_UPLOAD: 1.0, Stage.AFTER_UPLOAD: 1.0}
    return Outcome(stage, arrives, done.get(stage, share), begin + share * (end - begin))


def leaving_at(line: Timeline, leaves: float) -> Outcome:
    """Outcome of a vehicle that drives away at `leaves`, seconds >= line.asked (infinity: it stays)."""
    if leaves < line.asked:
        raise ValueError(f"the vehicle left at {leaves}, before it was asked at {line.asked}; do not ask it")
    if leaves >= line.acked:
        return Outcome(None, line.uploaded, 1.0)
    for stage in STAGES:
        begin, end = line.span(stage)
        if leaves < end:
            return leaving_in(line, stage, (leaves - begin) / (end - begin))
    raise AssertionError("the stages cover every moment before the ack")
