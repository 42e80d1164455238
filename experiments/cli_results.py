"""The commands that look at runs: `carpool show RUN` and `carpool compare RUN…`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from carpool.experiments import compare, compare_screen, show
from carpool.experiments.cli_common import JsonOption, emit, say
from carpool.experiments.cli_common import out as console
from carpool.experiments.results import find_run, read_run
from carpool.privacy.errors import UsageError
from carpool.privacy.storage import write_bytes

ONE = "A run's folder, or the start of its name under ./runs."


def register(app: typer.Typer) -> None:
    """Add `show` and `compare` to the command line; both raise UsageError and RunError."""
    app.command(name="show")(show_command)
    app.command(name="compare")(compare_command)


def show_command(
    run: Annotated[str, typer.Argument(metavar="RUN", help=ONE)],
    rounds: Annotated[
        int, typer.Option(min=0, help="How many of the last rounds to show.")
    ] = show.LAST_ROUNDS,
    as_json: JsonOption = False,
) -> None:
    """Show what a run came to, or how far it got and how to go on.

    Examples: [cyan]carpool show quickstart[/] · [cyan]carpool show runs/quickstart-1a2b --json[/]
    """
    found = read_run(find_run(run))
    if as_json:
        emit(show.document(found, rounds))
    else:
        console().print(show.screen(found, rounds))


def compare_command(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help=ONE)],
    target: Annotated[
        float | None,
        typer.Option(
            help="Count rounds until this accuracy, 0..1 (or loss); default: what all runs reached."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Also draw all curves into this .png or .svg file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare runs side by side; several seeds of one experiment give a mean and its 95 % interval.

    Examples: [cyan]carpool compare runs/a runs/b[/] ·
    [cyan]carpool compare runs/gtsrb-* --target 0.9 --out curves.png[/]
    """
    if out is not None and out.suffix.lower() not in {".png", ".svg"}:
        raise UsageError(f"--out {out} is neither a .png nor a .svg file; write e.g. --out comparison.png")
    found = compare.compare([read_run(find_run(name)) for name in runs], target)
    if out is not None:
        write_bytes(out, compare.picture(found, out.suffix.lower().removeprefix(".")))
    if as_json:
        emit(compare.document(found) | {"plot": None if out is None else str(out)})
        return
    console().print(compare_screen.screen(found))
    if out is not None:
        say(f"Plot: {out}")
