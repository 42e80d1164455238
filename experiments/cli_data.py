"""`carpool data info` and `carpool data preview`: what the vehicles hold, in numbers and in pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carpool.experiments.cli_common import FileArgument, JsonOption, SetOption, emit, err, say, table
from carpool.privacy.errors import UsageError

if TYPE_CHECKING:
    from carpool.client.camera.fleetdata import PooledFleet

SHOWN = 20
MAX_FRAMES = 400
LOOKED_AT = 200
"""Vehicles to look at of a fleet that is rendered on demand."""


def register(app: typer.Typer) -> None:
    """Add `carpool data ...`."""
    data = typer.Typer(help="Look at the camera data of an experiment's vehicles.", no_args_is_help=True)
    data.command()(info)
    data.command()(preview)
    app.add_typer(data, name="data")


def info(
    file: FileArgument,
    sets: SetOption = [],  # noqa: B006
    every: Annotated[bool, typer.Option("--all", help=f"List all vehicles, not only {SHOWN}.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say how many frames each vehicle holds, of which classes, and how uneven the fleet is.

    Examples: [cyan]carpool data info first/experiment.toml[/] ·
    [cyan]carpool data info base.toml --set data.split=iid --json[/]
    """
    from carpool.client.camera.statistics import describe

    described = describe(fleet_of(file, sets))
    if as_json:
        emit(described)
        return
    schema, fleet = described["schema"], described["fleet"]
    size = f"{schema['width']}x{schema['height']}"
    say(f"views    {', '.join(schema['views'])} at {size}")
    say(f"targets  {', '.join(target_words(target) for target in schema['targets'])}")
    held = fleet["validation_samples"]
    say(
        f"samples  {fleet['samples']} on {fleet['vehicles']} vehicles ({fleet['samples_min']} to "
        f"{fleet['samples_max']}, median {fleet['samples_median']:g}), {held} to validate"
    )
    if fleet["label_skew"] is not None:
        text = "0: all vehicles see the same mixture, towards 1: each its own"
        say(f"skew     {fleet['label_skew']:.2f} of {described['class_target']} ({text})")
    listed = described["vehicles"] if every else described["vehicles"][:SHOWN]
    rows = [
        (one["vehicle"], one["samples"], one["groups"], one["held_back"], seen(one["classes"]), one["domain"])
        for one in listed
    ]
    columns = ("vehicle", "frames", "drives", "held back", "classes", "where and when")
    table(columns, rows, right=range(5))
    if len(listed) < len(described["vehicles"]):
        say(f"and {len(described['vehicles']) - len(listed)} more; --all lists them")


def seen(counts: Sequence[int]) -> str:
    """How many classes have a sample, of how many."""
    return f"{sum(count > 0 for count in counts)} of {len(counts)}" if counts else ""


def target_words(target: dict[str, Any]) -> str:
    """A target in a few words."""
    kinds = {
        "class": f"{len(target['classes'])} classes",
        "flags": f"{target['width']} flags",
        "value": target["unit"] or "a value",
    }
    return f"{target['name']} ({kinds[target['kind']]})"


def preview(
    file: FileArgument,
    out: Annotated[Path, typer.Option("--out", metavar="PNG", help="Where to write the picture.")] = Path(
        "montage.png"
    ),
    sets: SetOption = [],  # noqa: B006
    frames: Annotated[int, typer.Option(min=1, max=MAX_FRAMES, help="Samples, a row each.")] = 12,
    vehicle: Annotated[
        int, typer.Option(min=-1, help="Only this vehicle, from 0; -1: spread over all of them.")
    ] = -1,
    scale: Annotated[int, typer.Option(min=1, max=8, help="Enlargement of each frame.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Write a montage of frames as the vehicles see them, with where and when each drives.

    Examples: [cyan]carpool data preview first/experiment.toml --out montage.png[/] ·
    [cyan]carpool data preview base.toml --vehicle 3 --frames 20[/]
    """
    if out.suffix.lower() != ".png":
        raise UsageError(f"--out is {out}; it must end in .png")
    fleet = fleet_of(file, sets)
    if vehicle >= fleet.vehicles:
        raise UsageError(f"--vehicle is {vehicle}; it must be 0 to {fleet.vehicles - 1}")
    chosen = samples(fleet, frames, vehicle)
    if not chosen:
        raise UsageError(f"vehicle {vehicle} holds no frames; leave --vehicle out")
    import numpy as np

    from carpool.client.camera.montage import montage
    from carpool.privacy.storage import replacing

    captions = [caption(fleet, number, row) for number, row in chosen]
    rows = np.array([row for _, row in chosen], np.int64)
    picture = montage(fleet.pool, rows, scale=scale, captions=captions)
    with replacing(out) as temporary:
        picture.save(temporary, format="PNG")
    if as_json:
        emit({"file": str(out), "width": picture.width, "height": picture.height, "frames": len(chosen)})
    else:
        say(f"wrote {out}: {len(chosen)} samples, {picture.width}x{picture.height}")


def caption(fleet: PooledFleet, vehicle: int, row: int) -> str:
    """Which vehicle holds the sample, where it drives, and what is to be predicted."""
    from carpool.client.camera.montage import words

    pool, where = fleet.pool, fleet.domain(vehicle)
    told = [words(one, pool.targets[one.name][row], pool.schema.views) for one in pool.schema.targets]
    return " · ".join([f"vehicle {vehicle} ({where})" if where else f"vehicle {vehicle}", *told])


def samples(fleet: PooledFleet, frames: int, vehicle: int) -> list[tuple[int, int]]:
    """(vehicle, row of the pool), evenly over one vehicle's frames or over the vehicles of the fleet."""
    if vehicle >= 0:
        rows = fleet.training(vehicle).rows
        return [(vehicle, int(rows[at])) for at in spread(len(rows), frames)]
    holding = [number for number in range(fleet.vehicles) if len(fleet.training(number))]
    picked = []
    for turn in range(frames):
        number = holding[turn * len(holding) // frames]
        rows = fleet.training(number).rows
        # Several turns of one vehicle show different moments of its drives.
        picked.append((number, int(rows[(turn * 7919 + len(rows) // 2) % len(rows)])))
    return list(dict.fromkeys(picked))


def spread(total: int, wanted: int) -> Iterator[int]:
    """At most `wanted` positions, evenly over 0..total-1.

    >>> list(spread(10, 4)), list(spread(2, 4))
    ([0, 2, 5, 7], [0, 1])
    """
    count = min(total, wanted)
    return (turn * total // count for turn in range(count))


def fleet_of(file: Path, sets: Sequence[str]) -> PooledFleet:
    """Read or render the data of an experiment file, with a progress bar; raises ConfigError, DataError."""
    from carpool.client.camera.fleetdata import build_fleet
    from carpool.client.camera.ondemand import sample_of
    from carpool.experiments.load import data_settings, load_experiment

    experiment = load_experiment(file, sets)
    settings, vehicles = sample_of(data_settings(experiment), experiment.fleet.vehicles, LOOKED_AT)
    if vehicles < experiment.fleet.vehicles:
        text = f"looking at the first {vehicles} of {experiment.fleet.vehicles} vehicles, rendered on demand"
        err().print(text)
    with progress_bar("reading camera data") as progress:
        return build_fleet(settings, vehicles, progress=progress)


@contextmanager
def progress_bar(what: str) -> Iterator[Any]:
    """A bar on standard error, gone when done, as a function (done, total)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err(), transient=True, disable=not err().is_terminal) as bar:
        task = bar.add_task(what, total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield progress
