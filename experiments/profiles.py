"""Where a run's time went (`carpool run --profile`): profile.json in its folder, and the table that is shown.

A profile covers one sitting of one process. What worker processes compute is not in the categories: it is
waited for, and their CPU time stands beside them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from carpool.experiments.results import clean, count, duration, number, percent
from carpool.privacy.errors import RunError
from carpool.privacy.spans import CATEGORIES, Profile, current
from carpool.privacy.storage import write_text

if TYPE_CHECKING:
    from carpool.experiments.config import Experiment

FILE = "profile.json"
WHAT = {
    "data": "reading, batches, floats",
    "training": "forward, backward, step",
    "strategy": "task, fold, update",
    "privacy": "clipping, noise, masks",
    "wire": "encoding, messages",
    "evaluation": "on validation frames",
    "bookkeeping": "checkpoint, lines, report",
    "other": "imports, trial, the rest",
}
BAR = 16


def document(profile: Profile, experiment: Experiment, device: str) -> dict[str, Any]:
    """The profile so far as profile.json has it; seconds, shares 0..1 of the wall time, spans opened."""
    profile.charge()
    wall = math.fsum(profile.wall.values())
    return {
        "engine": experiment.experiment.engine,
        "workers": experiment.experiment.workers,
        "device": device,
        "wall_seconds": round(wall, 4),
        "cpu_seconds": round(math.fsum(profile.cpu.values()), 4),
        "children_cpu_seconds": round(profile.children, 4),
        "categories": {
            name: {
                "wall_seconds": round(profile.wall[name], 4),
                "cpu_seconds": round(profile.cpu[name], 4),
                "share": round(profile.wall[name] / wall, 4) if wall else 0.0,
                "spans": profile.entered[name],
            }
            for name in CATEGORIES
        },
    }


def write_profile(folder: Path, experiment: Experiment, device: str) -> None:
    """Write profile.json, whole or not at all, if a profile is being taken; raises RunError."""
    if (profile := current()) is not None:
        write_text(folder / FILE, json.dumps(document(profile, experiment, device), indent=2) + "\n")


def read_profile(folder: Path) -> dict[str, Any] | None:
    """What profile.json says, or None where there is none; raises RunError where it is damaged."""
    path = folder / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}); delete it, the run does not need it") from error
    categories = found.get("categories") if isinstance(found, dict) else None
    if not isinstance(categories, dict) or not all(isinstance(one, dict) for one in categories.values()):
        raise RunError(f"{path} is damaged (no categories); delete it, the run does not need it")
    return dict(found)


def screen(found: Mapping[str, Any]) -> RenderableType:
    """The profile for people: a row a category, a bar a share."""
    table = Table(
        title=f"Where the time went: {seconds(found.get('wall_seconds'))}, "
        f"{seconds(found.get('cpu_seconds'))} of them on the processor",
        title_justify="left", box=None, header_style="dim", padding=(0, 2, 0, 0),
    )  # fmt: skip
    table.add_column("category", no_wrap=True)
    for name in ("time", "CPU", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("what", style="dim")
    for name, one in found["categories"].items():
        share = number(one.get("share"))
        bar = "" if math.isnan(share) else "█" * round(BAR * min(1.0, max(0.0, share)))
        table.add_row(
            clean(name), seconds(one.get("wall_seconds")), seconds(one.get("cpu_seconds")),
            percent(share), Text(bar, style="blue"), WHAT.get(name, ""),
        )  # fmt: skip
    notes = [Text(line, style="dim", overflow="fold") for line in remarks(found)]
    return Group(table, *notes)


def seconds(value: object) -> str:
    """Seconds with a digit that says something.

    >>> seconds(0.01234), seconds(4.2), seconds(93)
    ('0.01 s', '4.20 s', '1 min 33 s')
    """
    found = number(value)
    return f"{found:.2f} s" if found < 10 else duration(found)


def remarks(found: Mapping[str, Any]) -> list[str]:
    """What the figures leave out."""
    lines = []
    others = seconds(found.get("children_cpu_seconds"))
    if found.get("engine") == "ray":
        lines.append(
            "Vehicles were trained in Ray's processes, which are not in here; waiting for them is under wire."
        )
    elif (workers := count(found.get("workers"))) > 1:
        lines.append(
            f"This process only: {workers} workers trained the vehicles and used {others} of CPU, "
            "data and wire included; waiting for them is under training."
        )
    if found.get("device") == "cuda":
        lines.append("The GPU works on its own: its time is where its result was first waited for.")
    return lines
