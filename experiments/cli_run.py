"""`carpool run`: train a fleet from one file, with progress, and say where the report is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from carpool.experiments.cli_common import JsonOption, SetOption, emit, err, say, table
from carpool.experiments.cli_common import out as console
from carpool.privacy.errors import Interrupted, UsageError
from carpool.privacy.spans import profiling

ROWS = 10
"""Rounds, at least, in the table at the end of a long run."""


class Screen:
    """Progress for people on standard error: bars on a terminal, a line now and then elsewhere."""

    def __init__(self, quiet: bool) -> None:
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
        self._data: Any = None
        self._rounds: Any = None
        self._total, self._said, self._began = 0, 0.0, time.monotonic()
        self._latest = ""
        self.folder: Path | None = None

    def __enter__(self) -> Screen:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def _line(self, text: str) -> None:
        if not self._live and not self._quiet:
            err().print(text, markup=False, soft_wrap=True)

    def data(self, done: int, total: int) -> None:
        """So many vehicles' data are ready."""
        if self._data is None:
            self._line(f"preparing the data of {total} vehicles ...")
            self._data = self._bar.add_task("data", total=total, note="")
        self._bar.update(self._data, completed=done)

    def training(self, folder: Path, done: int, rounds: int) -> None:
        """Training begins."""
        self.folder, self._total = folder, rounds
        self._line(f"training into {folder}" + (f", going on after round {done}" if done else ""))
        self._rounds = self._bar.add_task("rounds", total=rounds, completed=done, note="")

    def round(self, record: Mapping[str, Any]) -> None:
        """A round was committed."""
        if record["accuracy"] is not None:
            self._latest = f", accuracy {record['accuracy']:.1%} after round {record['round']}"
        note = headline(record, self._latest)
        self._bar.update(self._rounds, completed=record["round"], note=note)
        now = time.monotonic()
        if now - self._said > 10 or record["round"] == self._total:
            self._said = now
            self._line(f"round {record['round']}/{self._total}: {note}")

    def reporting(self) -> None:
        """The report is being written."""
        self._line("writing the report ...")


def headline(record: Mapping[str, Any], latest: str = "") -> str:
    """One round in a few words; `latest`: the accuracy last measured, if any."""
    if not latest and record["accuracy"] is not None:
        latest = f", accuracy {record['accuracy']:.1%}"
    loss = "" if record["loss"] is None or latest else f", loss {record['loss']:.4g}"
    void = ", void" if record["void"] else ""
    return f"{record['replied']} of {record['asked']} replied{void}{latest}{loss}"


def register(app: typer.Typer) -> None:
    """Add `run`."""

    @app.command()
    def run(
        file: Annotated[
            Path | None, typer.Argument(metavar="FILE", help="The experiment file (TOML).")
        ] = None,
        sets: SetOption = [],  # noqa: B006
        out: Annotated[
            Path | None, typer.Option(help="Write into exactly this folder instead of runs/<name>-<id>.")
        ] = None,
        resume: Annotated[
            Path | None, typer.Option(metavar="RUN", help="Go on with a killed or interrupted run.")
        ] = None,
        warm: Annotated[
            Path | None, typer.Option("--from", metavar="RUN", help="Start from the model of another run.")
        ] = None,
        profile: Annotated[
            bool,
            typer.Option("--profile", help="Say where the time went, here and in the run's profile.json."),
        ] = False,
        as_json: JsonOption = False,
    ) -> None:
        """Run an experiment to its end; a killed one goes on with --resume to the very same model.

        Examples:

          carpool run experiments/quickstart.toml

          carpool run experiments/quickstart.toml --set train.lr=0.1 --out runs/faster

          carpool run --resume runs/quickstart-1a2b3c

          carpool run experiments/quickstart.toml --profile
        """
        if (file is None) == (resume is None):
            raise UsageError("give an experiment file, or --resume RUN; carpool run --help shows both")
        if resume is not None and (sets or out or warm):
            raise UsageError(
                "--resume goes on with the run as it was configured; leave out --set, --out and --from"
            )
        with profiling() if profile else nullcontext():
            folder, result = execute(file, sets, out, resume or Path(), warm, as_json)
        from carpool.experiments import profiles

        found = profiles.read_profile(folder) if profile else None
        if as_json:
            emit({**result, "run": str(folder)} | ({"profile": found} if profile else {}))
            return
        conclude(folder, result)
        if found is not None:
            console().print(profiles.screen(found))
        elif profile:
            say("profile: none, the run was complete already")


def execute(
    file: Path | None, sets: list[str], out: Path | None, resume: Path, warm: Path | None, quiet: bool
) -> tuple[Path, dict[str, Any]]:
    """Start or resume, under a progress display; says how to go on when it is interrupted."""
    from carpool.experiments.forks import begin_early
    from carpool.experiments.load import load_experiment

    experiment = load_experiment(file, sets) if file is not None else None
    if experiment is not None:
        begin_early(experiment)
    from carpool.experiments import run as runs

    with Screen(quiet) as screen:
        try:
            if experiment is not None:
                return runs.start(experiment, out=out, warm=warm, watcher=screen)
            return runs.resume(resume, watcher=screen)
        except KeyboardInterrupt:
            if screen.folder is None:
                raise
            raise Interrupted(f"interrupted; go on with: carpool run --resume {screen.folder}") from None


def conclude(folder: Path, result: Mapping[str, Any]) -> None:
    """The table and where the report is."""
    from carpool.experiments.promise import sentence

    rounds, final, totals = result["rounds"], result["final"], result["totals"]
    asked, dropped = sum(r["asked"] for r in rounds), sum(r["dropped"] for r in rounds)
    voids = sum(r["void"] for r in rounds)
    measured = [i for i, r in enumerate(rounds) if r["loss"] is not None] or list(range(len(rounds)))
    shown = sorted({*measured[:: max(1, len(measured) // ROWS)], measured[-1]})
    table(
        ("round", "asked", "replied", "dropped", "loss", "accuracy", "fleet time"),
        [
            (
                r["round"],
                r["asked"],
                r["replied"],
                f"{r['dropped']}" + (" void" if r["void"] else ""),
                "-" if r["loss"] is None else f"{r['loss']:.4f}",
                "-" if r["accuracy"] is None else f"{r['accuracy']:.1%}",
                f"{r['fleet_seconds'] / 60:.1f} min",
            )
            for r in (rounds[i] for i in shown)
        ],
        right=range(7),
    )
    accuracy = "" if final["accuracy"] is None else f", accuracy {final['accuracy']:.1%}"
    loss = "not evaluated" if final["loss"] is None else f"loss {final['loss']:.4f}"
    say(f"{result['strategy']}, {len(rounds)} rounds ({voids} void): {loss}{accuracy}")
    refused = sum(r["refused"] for r in rounds)
    why = f"; the server refused what {refused} sent" if refused else ""
    say(f"{dropped} of the {asked} asked did not count: they left, failed or came too late{why}")
    say(f"{totals['bytes_up'] / 1e6:.1f} MB of updates sent, {totals['bytes_down'] / 1e6:.1f} MB of models")
    promised = sentence(result["privacy"], rounds)
    say(f"privacy: {protection(result['privacy']['channel'], rounds, noise=promised is not None)}")
    if promised is not None:
        say(f"         {promised}")
    say(f"report:  {folder / 'report.html'}")


def protection(channel: str, rounds: Sequence[Mapping[str, Any]], *, noise: bool = False) -> str:
    """What the server saw, in one sentence; noise: whether another says what differential privacy does."""
    if channel == "plain":
        seen = 'the server saw every update (privacy.channel = "plain")'
        return seen if noise else f"none, {seen}"
    from carpool.experiments.whosaw import sentence

    return f'{sentence(channel, rounds)} (privacy.channel = "{channel}")'
