"""What the report shows beside the figures: accuracy by vehicle, and frames with what the model said."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from carpool.client.camera.ondemand import OnDemandFleet
from carpool.client.camera.samples import Frames, Rows, Shard
from carpool.client.camera.settings import VIEWS
from carpool.client.predict import predict, truths
from carpool.experiments.ledgerfacts import ledger_head
from carpool.experiments.load import data_settings
from carpool.experiments.logfacts import log_head
from carpool.experiments.personal import Served
from carpool.experiments.report import Evidence, SampleFrame
from carpool.experiments.runfolder import CONFIG, ENVIRONMENT, read_json
from carpool.experiments.session import Session
from carpool.experiments.workshop import Workshop
from carpool.privacy.vectors import Vector

FRAMES = 6
"""Sample frames in a report."""


def gather_evidence(session: Session, result: dict[str, Any], served: Served) -> Evidence:
    """Everything that the report of a finished run is made of."""
    workshop, folder = session.workshop, session.folder
    notes = []
    if all(record["void"] for record in session.records):
        notes.append("Every round was void: the model is the one that training began with.")
    if session.stopped:
        notes.append(f"Stopped after {len(session.records)} rounds: {session.stopped}.")
    if isinstance(workshop.data, OnDemandFleet):
        notes.append(workshop.data.note)
    notes += served.remarks
    return Evidence(
        result=result,
        records=list(session.records),
        config_toml=(folder / CONFIG).read_text(),
        environment=read_json(folder / ENVIRONMENT),
        vehicle_accuracy=served.fleet,
        vehicle_accuracy_note=served.note,
        frames=sample_frames(workshop, session.model),
        notes=notes,
        personal_accuracy=served.own,
        log=log_head(folder),
        ledger=ledger_head(folder),
    )


def sample_frames(workshop: Workshop, model: Vector) -> list[SampleFrame]:
    """A few validation samples, right and wrong ones, spread over vehicles."""
    shard = workshop.data.validation()
    correct = workshop.evaluate(model).correct
    schema = shard.pool.schema
    rows = pick(shard, correct)
    frames, columns = shard.batch(rows)
    predictions = predict(workshop.model, frames, schema.targets, schema.views)
    found = []
    for place, row in enumerate(rows):
        pictures, views, where = all_views(workshop, shard, int(row), frames[place])
        found.append(
            SampleFrame(
                views=[(view, pictures[i]) for i, view in enumerate(views)],
                truth=truths(columns, schema.targets, schema.views, place),
                prediction={name: p.text for name, p in predictions[place].items()},
                correct=None if correct is None else bool(correct[row] >= 1),
                caption=where,
            )
        )
    return found


def pick(shard: Shard, correct: np.ndarray[Any, np.dtype[np.float32]] | None) -> Rows:
    """Positions in the shard, evenly over it: two thirds of them right and a third wrong.

    Samples that show something are preferred: for a "class" target whose first class is "none", another one.
    """
    everything = np.arange(len(shard))
    first = shard.pool.schema.targets[0]
    if first.kind == "class" and first.classes[0] == "none":
        shown = everything[shard.pool.targets[first.name][shard.rows] != 0]
        everything = shown if len(shown) else everything
    if correct is None:
        return spread(everything, FRAMES)
    right, wrong = everything[correct[everything] >= 1], everything[correct[everything] < 1]
    few = min(len(wrong), max(FRAMES // 3, FRAMES - len(right)))
    return np.sort(np.concatenate([spread(right, FRAMES - few), spread(wrong, few)]))


def spread(rows: Rows, count: int) -> Rows:
    """At most `count` of `rows`, evenly spaced."""
    if len(rows) <= count:
        return rows
    return rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)]


def all_views(
    workshop: Workshop, shard: Shard, row: int, frame: Frames
) -> tuple[Frames, tuple[str, ...], str]:
    """Pictures [views, h, w, 3], the views' names, and where they are from.

    The procedural fleet has eight cameras however few train: the report shows all of them.
    """
    pool, at = shard.pool, int(shard.rows[row])
    vehicle = None if pool.vehicle is None else int(pool.vehicle[at])
    where = "" if vehicle is None else f"vehicle {vehicle}"
    if vehicle is not None and pool.domain.get(vehicle):
        where += f": {pool.domain[vehicle]}"
    if workshop.experiment.data.source != "procedural" or vehicle is None:
        return frame, pool.schema.views, where
    from carpool.client.camera.procedural import render_moment

    settings = dataclasses.replace(data_settings(workshop.experiment), views=VIEWS)
    drive = int(pool.group[at]) - vehicle * settings.drives
    return render_moment(settings, vehicle, drive, int(pool.order[at])), VIEWS, where
