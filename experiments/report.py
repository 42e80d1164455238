"""report.html: one self-contained page about a run, for people who did not watch it.

No network, no script, no font or picture from outside: style, SVG and frames are in the page, and its content
security policy forbids everything else. Names come from experiment files and data sets: every one of them is
escaped. What only the simulator can know is labelled so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carpool.experiments import pictures, plots, plots_secagg, report_promise, report_seen, whosaw
from carpool.experiments.attack_report import attack_words
from carpool.experiments.fairness import distribution, gain
from carpool.experiments.results import (
    clean,
    count,
    decimal,
    duration,
    losses,
    number,
    percent,
    points,
    size,
)
from carpool.experiments.whosaw import PLAIN_WARNING
from carpool.privacy.storage import write_text

FRAME_BUDGET = 2_000_000
"""Characters of camera frames in a page; what comes beyond is left out, and the page says so."""
MOST_ROWS = 500


@dataclass(frozen=True)
class SampleFrame:
    """One sample with what the model said: each view is uint8 [h, w, 3] RGB under its camera's name."""

    views: list[tuple[str, NDArray[np.uint8]]]
    truth: dict[str, str]
    prediction: dict[str, str]
    correct: bool | None
    caption: str


@dataclass(frozen=True)
class Evidence:
    """All that a report is made of.

    result: the content of result.json. records: the lines of rounds.jsonl. vehicle_accuracy: 0..1 a vehicle
    (NaN where a vehicle has nothing to measure on), None where nobody measured it; the note says on what.
    personal_accuracy: the same of the models that vehicles keep for themselves, None where they keep none.
    log, ledger: what `logfacts.log_head` and `ledgerfacts.ledger_head` say of them.
    """

    result: dict[str, Any]
    records: list[dict[str, Any]]
    config_toml: str
    environment: dict[str, Any]
    vehicle_accuracy: list[float] | None
    vehicle_accuracy_note: str
    frames: list[SampleFrame]
    notes: list[str]
    personal_accuracy: list[float] | None = None
    log: dict[str, Any] | None = None
    ledger: dict[str, Any] | None = None


def write_report(folder: Path, evidence: Evidence) -> None:
    """Write `folder`/report.html, whole or not at all; raises RunError."""
    write_text(folder / "report.html", render(evidence))


def render(evidence: Evidence) -> str:
    """The page as text, under about 3 MB; raises ValueError where a frame is not uint8 [h, w, 3]."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["clean"] = clean
    # Only what plots.py drew is trusted as markup; it draws no name of the experiment's.
    figures = {name: Markup(svg or "") for name, svg in _figures(evidence).items()}  # noqa: S704
    page = environment.get_template("report.html.j2").render(
        figures=figures, colors=plots.COLORS, **_context(evidence)
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate in a name must not stop a run


def _figures(evidence: Evidence) -> dict[str, str | None]:
    records, own = evidence.records, measured(evidence.personal_accuracy)
    accuracy = measured(evidence.vehicle_accuracy)
    return {
        "accuracy": plots.curve_svg(records, "accuracy", "accuracy", percent=True),
        "loss": plots.curve_svg(records, "loss", "loss (no unit)"),
        **report_promise.pictures(records, evidence.config_toml),
        "attendance": plots.attendance_svg(records),
        "sums": plots_secagg.sums_svg(whosaw.read_rounds(records)),
        "histogram": plots.histogram_svg(accuracy, own) if accuracy.size else None,
    }


def _context(evidence: Evidence) -> dict[str, Any]:
    """What the template shows, all of it text or numbers that are formatted already."""
    result, records = evidence.result, evidence.records
    frames, left_out = _frames(evidence.frames)
    notes = list(evidence.notes)
    if left_out:
        notes.append(f"{left_out} more sample frames are left out to keep this page small.")
    privacy = dict(result.get("privacy") or {})
    channel, mechanism = str(privacy.get("channel")), privacy.get("mechanism")
    return {
        "title": str(result.get("experiment", "run")),
        "facts": [(key, str(result.get(key))) for key in ("strategy", "engine", "seed", "vehicles")]
        + attack_words(result),
        "summary": summary(result, records),
        "tiles": _tiles(result, records),
        "has_stages": any(record.get("left") for record in records),
        "void": losses(records)["void"],
        "targets": _targets(records),
        "rows": _rows(records[-MOST_ROWS:]),
        "rows_left_out": max(0, len(records) - MOST_ROWS),
        "accuracy": spread(evidence.vehicle_accuracy),
        "personal": spread(evidence.personal_accuracy),
        "gain": gain(evidence.vehicle_accuracy, evidence.personal_accuracy),
        "accuracy_note": evidence.vehicle_accuracy_note,
        "frames": frames,
        "warning": PLAIN_WARNING if channel == "plain" and mechanism in (None, "", "none") else None,
        "channel": whosaw.CHANNELS.get(channel, f"The channel was {clean(channel)}."),
        "seen": report_seen.section(channel, records, evidence.log, MOST_ROWS, str(result.get("engine"))),
        "promise": report_promise.section(privacy, records, evidence.ledger, MOST_ROWS),
        "privacy": [
            (key.replace("_", " "), "–" if value is None else str(value)) for key, value in privacy.items()
        ],
        "totals": _totals(result, records),
        "config": evidence.config_toml,
        "environment": [(key, _plain(value)) for key, value in evidence.environment.items()],
        "notes": notes,
    }


def summary(result: dict[str, Any], records: Sequence[dict[str, Any]]) -> str:
    """One paragraph in plain words: who trained, who was lost, how good the model is."""
    vehicles, sums = count(result.get("vehicles")), losses(records)
    rounds = len(records)
    text = (
        f"{vehicles:,} vehicles trained one model together in {rounds:,} round{'s' * (rounds != 1)}, each on "
        "what its own cameras saw. "
    )
    if rounds and sums["asked"]:
        asked, replied = sums["asked"] / rounds, (sums["asked"] - sums["lost"]) / rounds
        text += f"A round asked {asked:.3g} of them on average and {replied:.3g} replied; "
        text += f"{percent(sums['lost'] / sums['asked'], 0)} of those asked drove away, or came too late. "
    if sums["void"]:
        text += f"In {sums['void']:,} of the rounds too few replied, and the model stayed as it was. "
    final = result.get("final") or {}
    accuracy, loss = number(final.get("accuracy")), number(final.get("loss"))
    if not math.isnan(accuracy):
        text += f"The final model is right on {percent(accuracy)} of the validation data."
    elif not math.isnan(loss):
        text += f"The final model has a loss of {decimal(loss)} on the validation data."
    else:
        text += "The final model was not measured."
    return text


def _tiles(result: dict[str, Any], records: Sequence[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """(what, how much, remark) of the figures that matter first."""
    final, totals, sums = result.get("final") or {}, result.get("totals") or {}, losses(records)
    best = max(points(records, "accuracy")[1], default=math.nan)
    share = sums["lost"] / sums["asked"] if sums["asked"] else math.nan
    fleet = math.fsum(points(records, "fleet_seconds")[1])
    of_fleet = f"{duration(fleet)} of fleet time" if fleet else ""
    return [
        (
            "Final accuracy",
            percent(number(final.get("accuracy"))),
            "" if math.isnan(best) else f"best {percent(best)}",
        ),
        ("Final loss", decimal(number(final.get("loss"))), "on the validation data"),
        ("Rounds", f"{len(records):,}", f"strategy {clean(result.get('strategy'))}"),
        ("Void rounds", f"{sums['void']:,}", "too few replied; model kept"),
        ("Vehicles lost", percent(share), f"{sums['lost']:,} of {sums['asked']:,} asked"),
        ("Sent by vehicles", size(number(totals.get("bytes_up"))), "updates, never frames"),
        ("Sent to vehicles", size(number(totals.get("bytes_down"))), "the model, each round"),
        ("Time", duration(number(totals.get("seconds"))), of_fleet),
    ]


def _totals(result: dict[str, Any], records: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    totals, sums = result.get("totals") or {}, losses(records)
    asked, lost = sums["asked"], sums["lost"]
    up, down = number(totals.get("bytes_up")), number(totals.get("bytes_down"))
    rounds = len(records) or math.nan
    fleet = math.fsum(points(records, "fleet_seconds")[1])
    energy = number(totals.get("energy_wh"))
    return [
        ("Computing time", duration(number(totals.get("seconds")))),
        ("Fleet time (virtual clock)", duration(fleet) if fleet else "–"),
        ("Sent by vehicles", f"{size(up)} ({size(up / rounds)} a round)"),
        ("Sent to vehicles", f"{size(down)} ({size(down / rounds)} a round)"),
        ("Asked / replied / lost", f"{asked:,} / {asked - lost:,} / {lost:,}"),
        ("Energy", "not measured" if math.isnan(energy) else f"{energy:.3g} Wh"),
    ]


def _rows(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "void": bool(record.get("void")),
            "cells": [
                str(record.get("round")),
                *(str(count(record.get(key))) for key in ("asked", "replied", "dropped")),
                percent(number(record.get("accuracy"))),
                decimal(number(record.get("loss"))),
                size(number(record.get("bytes_up"))),
                duration(number(record.get("fleet_seconds", record.get("seconds")))),
            ],
        }
        for record in records
    ]


def _targets(records: Sequence[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    """(target, metric, first measured, last measured)."""
    with_targets = [record["targets"] for record in records if record.get("targets")]
    if not with_targets:
        return []
    first, last = with_targets[0], with_targets[-1]
    return [
        (str(name), str(metric), decimal(number((first.get(name) or {}).get(metric))), decimal(number(value)))
        for name, metrics in last.items()
        for metric, value in metrics.items()
    ]


def measured(accuracy: Sequence[float] | None) -> NDArray[np.float64]:
    """The finite values: float64 [n]."""
    values = np.array([number(value) for value in accuracy or ()], np.float64)
    return values[np.isfinite(values)]


def spread(accuracy: Sequence[float] | None) -> dict[str, str] | None:
    """How evenly the model serves the fleet; None where no vehicle was measured.

    The worst 10 % is the mean over the lowest tenth of the vehicles (at least one); the variance is that of
    the population.
    """
    values = measured(accuracy)
    if not values.size:
        return None
    found = distribution(values.tolist()) or {}
    return {
        "Worst 10 % (mean)": percent(found["worst_decile"]),
        "Median": percent(float(np.median(values))),
        "Mean": percent(found["mean"]),
        "Variance": decimal(found["variance"]),
        "Vehicles measured": f"{values.size:,} of {len(accuracy or ()):,}",
    }


def _frames(frames: Sequence[SampleFrame]) -> tuple[list[dict[str, Any]], int]:
    """The samples ready for the template, as many as the budget allows, and how many were left out."""
    shown: list[dict[str, Any]] = []
    spent = 0
    for frame in frames:
        views = [(name, pictures.frame_uri(pixels)) for name, pixels in frame.views]
        spent += sum(len(uri) for _, uri in views)
        if spent > FRAME_BUDGET and shown:
            break
        names = list(dict.fromkeys([*frame.truth, *frame.prediction]))
        answers = [(name, frame.truth.get(name, "–"), frame.prediction.get(name, "–")) for name in names]
        rows = pictures.surround(views)
        around = len(rows) == 3 and not rows[1][1]
        shown.append(
            {"rows": rows, "around": around, "single": len(views) == 1, "answers": answers}
            | {"correct": frame.correct, "caption": frame.caption}
        )
    return shown, len(frames) - len(shown)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
