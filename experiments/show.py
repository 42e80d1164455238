"""`carpool show RUN`: what a run came to, or how far it got, on one screen; the same as a JSON document."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from carpool.experiments import logfacts, profiles, promise, whosaw
from carpool.experiments.ledgerfacts import ledger_head
from carpool.experiments.results import (
    STAGES,
    Record,
    Run,
    attendance,
    clean,
    count,
    decimal,
    duration,
    losses,
    number,
    percent,
    points,
    size,
    sparkline,
)

LAST_ROUNDS = 10
MOST_VOID = 3
"""Void rounds of which the reason is told: the last ones."""
PATHS = {
    "stacked": "stacked (a cohort as one computation)",
    "sequential": "sequential (one vehicle after another)",
    "auto": "stacked or sequential, whichever is quicker",
}
"""train.batching in words."""


def plain(value: Any) -> Any:
    """The same for JSON: NaN and infinity become null, however deep.

    >>> plain({"loss": [0.5, math.nan]})
    {'loss': [0.5, None]}
    """
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def document(run: Run, last: int = LAST_ROUNDS) -> dict[str, Any]:
    """All that `show` says, ready for JSON; `last` rounds are in it."""
    sums = losses(run.records)
    known = any(record.get("left") for record in run.records)
    rounds, accuracy = points(run.records, "accuracy")
    best = max(range(len(accuracy)), key=accuracy.__getitem__, default=None)
    report = run.folder / "report.html"
    return {
        "run": run.folder.name,
        "folder": str(run.folder),
        "experiment": run.name,
        "seed": run.seed,
        "engine": run.result.get("engine") or run.config.get("experiment", {}).get("engine"),
        "strategy": run.result.get("strategy") or run.config.get("strategy", {}).get("name"),
        "vehicles": run.result.get("vehicles") or run.config.get("fleet", {}).get("vehicles"),
        "channel": _channel(run),
        "batching": run.config.get("train", {}).get("batching"),
        "workers": run.config.get("experiment", {}).get("workers"),
        "complete": run.complete,
        "resumable": run.resumable,
        "resume": f"carpool run --resume {run.folder}" if run.resumable else None,
        "report": str(report) if report.is_file() else None,
        "rounds_done": len(run.records),
        "rounds_planned": run.planned or None,
        "void_rounds": sums["void"],
        "final": {key: plain(run.final(key)) for key in ("accuracy", "loss")},
        "best": None if best is None else {"accuracy": accuracy[best], "round": rounds[best]},
        "asked": sums["asked"],
        "lost": sums["lost"],
        "left": {stage: sums.get(stage, 0) for stage in STAGES} if known else None,
        "refused": sums.get("refused", 0),
        "totals": {key: plain(run.total(key)) for key in ("seconds", "bytes_up", "bytes_down")},
        "secagg": plain(whosaw.document(str(_channel(run)), run.records)),
        "dp": plain(promise.document(_dp(run), run.records, ledger_head(run.folder, compute=False))),
        "log": logfacts.log_head(run.folder),
        "profile": plain(profiles.read_profile(run.folder)),
        "rounds": plain(run.records[-last:]) if last else [],
    }


def _channel(run: Run) -> Any:
    return run.config.get("privacy", {}).get("channel")


def _dp(run: Run) -> Any:
    return run.config.get("privacy", {}).get("dp", {})


def screen(run: Run, last: int = LAST_ROUNDS) -> RenderableType:
    """The same for people."""
    found = document(run, last)
    parts: list[RenderableType] = [_head(run, found), _facts(run, found)]
    if run.records and last:
        parts += [Text(), _rounds(run.records[-last:], len(run.records))]
    if found["lost"]:
        parts += [Text(), _dropouts(run, found)]
    if found["profile"]:
        parts += [Text(), profiles.screen(found["profile"])]
    return Group(*parts, Text(), _next(run, found))


def _head(run: Run, found: dict[str, Any]) -> Text:
    state = ("complete", "bold green") if found["complete"] else ("not complete", "bold yellow")
    told = [clean(found[key]) for key in ("strategy", "engine") if found[key]]
    told += [f"seed {run.seed}"] + ([f"{count(found['vehicles']):,} vehicles"] if found["vehicles"] else [])
    return Text.assemble((clean(run.name), "bold"), "  ", state, f"\n{' · '.join(told)}", overflow="fold")


def _facts(run: Run, found: dict[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    done = f"{len(run.records):,}" + (f" of {run.planned:,}" if run.planned else "")
    void = f", {found['void_rounds']:,} of them void (too few replied)" if found["void_rounds"] else ""
    table.add_row("rounds", done + void)
    if found["best"]:
        best = found["best"]
        told = (
            f"{percent(run.final('accuracy'))}  (best {percent(best['accuracy'])} in round {best['round']})"
        )
        table.add_row("accuracy", told)
        table.add_row("", Text(sparkline(points(run.records, "accuracy")[1]), style="blue"))
    if not math.isnan(run.final("loss")):
        table.add_row("loss", decimal(run.final("loss")))
        if not found["best"]:
            table.add_row("", Text(sparkline(points(run.records, "loss")[1]), style="blue"))
    if found["batching"] or found["workers"]:
        table.add_row("training", training(found))
    up, down = run.total("bytes_up"), run.total("bytes_down")
    table.add_row("sent", f"{size(up)} by vehicles, {size(down)} to vehicles")
    fleet = math.fsum(points(run.records, "fleet_seconds")[1])
    virtual = f" for {duration(fleet)} of fleet time" if fleet else ""
    table.add_row("time", duration(run.total("seconds")) + virtual)
    if found["channel"] == "plain":
        told = "the server saw every update in the clear"
        table.add_row("privacy", Text(told if found["dp"] else f"none: {told}", style="yellow"))
    elif found["channel"]:
        _privacy(table, run, found)
    if found["dp"]:
        _promise(table, found["dp"])
    return table


def _promise(table: Table, found: dict[str, Any]) -> None:
    """What differential privacy promises, and where that can be checked."""
    table.add_row("promise", Text(found["says"], style="" if found["private"] else "bold white on red"))
    for text in found["warnings"][0 if found["private"] else 1 :]:
        table.add_row("", Text(text, style="yellow"))
    ledger = found["ledger"]
    if ledger is None:
        table.add_row("ledger", Text("none in this folder", style="yellow"))
    elif ledger["fault"] is not None:
        table.add_row("ledger", Text(f"damaged: {clean(ledger['fault'])}", style="red"))
    else:
        charges = f"{ledger['charges']:,} charge" + "s" * (ledger["charges"] != 1)
        told = f"{charges}, head {ledger['number']} {ledger['hash'][:16]}…"
        table.add_row("ledger", Text(f"{clean(ledger['file'])}: {told}", overflow="fold"))
        table.add_row("", Text(f"check it with: {clean(ledger['verify'])}", style="dim", overflow="fold"))


def _privacy(table: Table, run: Run, found: dict[str, Any]) -> None:
    """What the server saw, and where that can be checked."""
    seen, log = found["secagg"], found["log"]
    name = f"{seen['protocol']}: " if seen and seen["protocol"] else ""
    table.add_row("privacy", Text(name + whosaw.sentence(str(found["channel"]), run.records)))
    for text in seen["warnings"] if seen else ():
        table.add_row("", Text(text, style="yellow"))
    for one in [one for one in seen["void"] if one["why"]][-MOST_VOID:] if seen else ():
        table.add_row("", Text(f"round {one['round']} was void: {one['why']}", style="dim"))
    if log is not None and log["fault"] is not None:
        table.add_row("log", Text(f"damaged: {clean(log['fault'])}", style="red"))
    elif log is not None:
        head = (
            f"{log['entries']:,} entries, checkpoint of {logfacts.when(log['at'])}, root {log['root'][:16]}…"
        )
        table.add_row("log", Text(f"{clean(log['file'])}: {head}", overflow="fold"))
        table.add_row("", Text(f"check it with: {clean(log['verify'])}", style="dim", overflow="fold"))
    elif found["channel"] == "secagg":
        table.add_row("log", Text("none in this folder", style="yellow"))


def training(found: dict[str, Any]) -> str:
    """How and where vehicles were trained, in a few words.

    >>> training({"batching": "stacked", "workers": 2, "engine": "inline"})
    'stacked (a cohort as one computation), 2 worker processes'
    """
    batching, workers = found["batching"], count(found["workers"])
    path = PATHS.get(str(batching), clean(batching or "unknown"))
    if found["engine"] == "ray":
        return f"{path}, in Ray's processes"
    return path + (f", {workers} worker processes" if workers > 1 else ", 1 process" if workers else "")


def _rounds(records: list[dict[str, Any]], total: int) -> Table:
    title = "Rounds" if len(records) == total else f"Last {len(records)} rounds"
    table = Table(title=title, title_justify="left", box=None, header_style="dim", padding=(0, 2, 0, 0))
    secret = any(record.get("secagg") for record in records)
    for name in ("round", "asked", "replied", "lost", "accuracy", "loss", "sent up", "took"):
        table.add_column(name, justify="right")
    if secret:
        table.add_column("in sums", justify="right")
    table.add_column("")
    for record in records:
        row, seen = attendance(record), whosaw.read_round(record)
        replied = row.parts["counted"] + row.parts["after_upload"]
        sums = [] if not secret else ["+".join(map(str, seen.sums)) if seen and seen.sums else "–"]
        table.add_row(
            str(row.round), str(row.asked), str(replied), str(row.asked - replied), *_measures(record),
            *sums, Text("void", style="yellow") if row.void else "",
        )  # fmt: skip
    return table


def _measures(record: Record) -> tuple[str, str, str, str]:
    took = record.get("fleet_seconds") or record.get("seconds")
    return (
        percent(number(record.get("accuracy"))),
        decimal(number(record.get("loss"))),
        size(number(record.get("bytes_up"))),
        duration(number(took)),
    )


def _dropouts(run: Run, found: dict[str, Any]) -> Table:
    sums = losses(run.records)
    share = percent(sums["lost"] / sums["asked"]) if sums["asked"] else "–"
    title = f"Lost: {sums['lost']:,} of {sums['asked']:,} asked ({share})"
    table = Table(title=title, title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(justify="right")
    table.add_column()
    table.add_column(style="dim")
    names = (
        {stage: name for stage, name in STAGES.items() if stage != "after_upload"} if found["left"] else {}
    )
    names |= {"refused": "reply refused", "other": "too late, or not known"}
    largest = max((sums[key] for key in names), default=0)
    for key, name in names.items():
        if sums[key]:
            table.add_row(f"{sums[key]:,}", name, "█" * max(1, round(24 * sums[key] / largest)))
    if sums["after_upload"]:
        table.add_row(f"{sums['after_upload']:,}", "more left after the upload (counted)")
    if found["left"]:
        table.caption = "stages are known to the simulator only"
        table.caption_justify = "left"
    return table


def _next(run: Run, found: dict[str, Any]) -> Text:
    lines = Text(overflow="fold")
    if found["report"]:
        lines.append(f"Report: {clean(Path(found['report']))}\n")
    elif run.complete:
        lines.append("Report: none in this folder\n", style="dim")
    if found["resume"]:
        lines.append(f"Go on with: {clean(found['resume'])}\n", style="yellow")
    elif stopped := run.result.get("stopped"):
        lines.append(f"Stopped before its end: {clean(stopped)}\n", style="red")
    elif not run.complete:
        lines.append("It cannot be resumed: config.toml is missing; run the experiment again\n", style="red")
    lines.rstrip()
    return lines
