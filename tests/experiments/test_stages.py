"""The stages of a vehicle's round: a departure at every moment, by hand and as laws."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool.experiments.stages import Stage, Timeline, leaving_at, leaving_in, timeline

# asked 100, start 110, trained 130, upload_start 131, uploaded 141, acked 146
LINE = timeline(100.0, 10.0, 20.0, 10.0, 1.0, 5.0)
durations = st.floats(0.0, 1e4)


def test_the_moments_add_up() -> None:
    assert Timeline(100.0, 110.0, 130.0, 131.0, 141.0, 146.0) == LINE


@pytest.mark.parametrize(
    ("leaves", "stage", "arrives", "fraction"),
    [
        (100.0, Stage.BEFORE_TRAINING, None, 0.0),
        (109.9, Stage.BEFORE_TRAINING, None, 0.0),
        (110.0, Stage.DURING_TRAINING, None, 0.0),
        (125.0, Stage.DURING_TRAINING, None, 0.75),
        (130.0, Stage.BEFORE_UPLOAD, None, 1.0),
        (131.0, Stage.DURING_UPLOAD, None, 0.0),
        (136.0, Stage.DURING_UPLOAD, None, 0.5),
        (141.0, Stage.AFTER_UPLOAD, 141.0, 1.0),
        (145.9, Stage.AFTER_UPLOAD, 141.0, 1.0),
    ],
)
def test_a_departure_falls_into_its_stage(
    leaves: float, stage: Stage, arrives: float | None, fraction: float
) -> None:
    outcome = leaving_at(LINE, leaves)
    assert (outcome.left, outcome.arrives, outcome.fraction) == (stage, arrives, fraction)
    assert outcome.leaves == pytest.approx(leaves)


@pytest.mark.parametrize("leaves", [146.0, 1e9, math.inf])
def test_who_waits_for_the_ack_has_not_left(leaves: float) -> None:
    outcome = leaving_at(LINE, leaves)
    assert (outcome.left, outcome.arrives, outcome.fraction, outcome.leaves) == (None, 141.0, 1.0, None)


@given(durations, durations, durations, durations, durations, durations, st.floats(0.0, 1e5))
def test_a_reply_arrives_exactly_if_the_whole_upload_is_done(
    now: float, download: float, train: float, upload: float, prepare: float, ack: float, later: float
) -> None:
    line = timeline(now, download, train, upload, prepare, ack)
    outcome = leaving_at(line, now + later)
    assert (outcome.arrives is not None) == (now + later >= line.uploaded)
    assert outcome.arrives in (None, line.uploaded)
    assert 0.0 <= outcome.fraction <= 1.0


@given(st.sampled_from(Stage), st.floats(0.0, 1.0, exclude_max=True))
def test_leaving_in_a_stage_lies_in_that_stage(stage: Stage, share: float) -> None:
    outcome = leaving_in(LINE, stage, share)
    begin, end = LINE.span(stage)
    assert outcome.left is stage
    assert outcome.leaves is not None
    assert begin <= outcome.leaves <= end


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_a_duration_that_cannot_be_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="durations must be finite"):
        timeline(0.0, 1.0, bad, 1.0)


def test_a_vehicle_that_left_before_it_was_asked_is_refused() -> None:
    with pytest.raises(ValueError, match="before it was asked"):
        leaving_at(LINE, 99.0)
