"""`carpool sweep FILE`: every point of a file's [sweep], then all of them side by side."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from carpool.experiments.cli_common import FileArgument, JsonOption, SetOption, emit, err, say
from carpool.experiments.cli_common import out as console
from carpool.experiments.cli_run import headline
from carpool.privacy.errors import RunError


class SweepScreen:
    """Progress on standard error: points and rounds, or a line a point where there is no terminal.

    Implements `sweep.SweepWatcher`.
    """

    def __init__(self, total: int, quiet: bool) -> None:
        self._quiet, self._live = quiet, err().is_terminal and not quiet
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=err(),
            disable=not self._live,
        )
        self._points = self._bar.add_task("points", total=total, note="")
        self._rounds: TaskID | None = None
        self._name = ""

    def __enter__(self) -> SweepScreen:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def _line(self, text: str) -> None:
        if not self._quiet:
            self._bar.console.print(text, markup=False, soft_wrap=True)

    def point(self, number: int, total: int, name: str) -> None:
        """A point begins."""
        self._name = f"{number}/{total} {name}"
        self._bar.update(self._points, completed=number - 1, note=name)
        if not self._live:
            self._line(f"{self._name} ...")

    def done(self, number: int, outcome: str) -> None:
        """A point ended."""
        self._bar.update(self._points, completed=number)
        self._line(f"{self._name}: {outcome}")

    def data(self, done: int, total: int) -> None:
        """So many vehicles' data are ready."""
        if self._rounds is None:
            self._rounds = self._bar.add_task("rounds", total=None, note="")
        self._bar.update(self._rounds, total=None, completed=0, note=f"data of {done} of {total} vehicles")

    def training(self, folder: Path, done: int, rounds: int) -> None:
        """Training begins after round `done`."""
        if self._rounds is None:
            self._rounds = self._bar.add_task("rounds", total=rounds, note="")
        self._bar.reset(self._rounds, total=rounds, completed=done, note="")

    def round(self, record: Mapping[str, Any]) -> None:
        """A round was committed."""
        if self._rounds is not None:
            self._bar.update(self._rounds, completed=record["round"], note=headline(record))

    def reporting(self) -> None:
        """The report is being written."""
        if self._rounds is not None:
            self._bar.update(self._rounds, note="writing the report")


def register(app: typer.Typer) -> None:
    """Add `sweep`."""
    app.command(name="sweep")(sweep_command)


def sweep_command(
    file: FileArgument,
    sets: SetOption = [],  # noqa: B006
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write into this folder instead of sweeps/<name>-<id>, or go on with it."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    r"""Run every combination of a file's \[sweep] lists and compare; --out DIR goes on with a killed one.

    Examples: [cyan]carpool sweep rates.toml[/] ·
    [cyan]carpool sweep rates.toml --set experiment.rounds=5 --out sweeps/short[/]
    """
    from carpool.experiments.sweep import INDEX, Point, Swept, plan, sweep

    points: list[Point] = plan(file, sets)
    begun: list[Path] = []
    with SweepScreen(len(points), as_json) as screen:
        try:
            swept: Swept = sweep(points, out, screen, begun.append)
        except KeyboardInterrupt:
            if begun and (begun[0] / INDEX).is_file():
                given = [part for one in sets for part in ("--set", one)]
                again = shlex.join(["carpool", "sweep", str(file), *given, "--out", str(begun[0])])
                err().print(f"interrupted; go on with: {again}", markup=False, soft_wrap=True)
            raise
    if as_json:
        emit(as_document(swept))
    else:
        show(swept)
    if failed := swept.failed:
        raise RunError(
            f"{len(failed)} of {len(points)} points failed, the first with: {failed[0]['error']}; "
            f"repeat them with carpool sweep {file} --out {swept.folder}"
        )


def as_document(swept: Any) -> dict[str, Any]:
    """What `--json` prints."""
    from carpool.experiments import compare

    return {
        "sweep": str(swept.folder),
        "points": swept.index,
        "comparison": None if swept.comparison is None else compare.document(swept.comparison),
        "plot": None if swept.picture is None else str(swept.picture),
    }


def show(swept: Any) -> None:
    """The comparison for people."""
    from carpool.experiments import compare_screen

    if swept.comparison is not None:
        console().print(compare_screen.screen(swept.comparison))
    say(f"sweep    {swept.folder}")
    if swept.picture is not None:
        say(f"plot     {swept.picture}")
