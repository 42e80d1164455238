"""`carpool init`, `validate` and `doctor`: from nothing to an experiment that can run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carpool.experiments.cli_common import FileArgument, JsonOption, SetOption, complain, emit, say, table
from carpool.privacy.errors import ConfigError, RunError, UsageError

if TYPE_CHECKING:
    from carpool.experiments.config import Experiment

COLORS = {"ok": "ok", "warn": "warn", "bad": "BAD"}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(init)
    app.command()(validate)
    app.command()(doctor)


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the experiment; made if needed.")],
    name: Annotated[str, typer.Option(help="Name of the experiment; by default that of DIR.")] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite an experiment.toml that is there.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a commented experiment to start from, with every key in it.

    Examples: [cyan]carpool init first[/] · [cyan]carpool init . --name night-drive[/]
    """
    from carpool.privacy.storage import write_text

    target = folder / "experiment.toml"
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file, not a folder; name another folder")
    if target.exists() and not force:
        raise UsageError(f"{target} is there already; name another folder, or overwrite it with --force")
    name = name or re.sub(r"[^A-Za-z0-9_-]+", "-", folder.resolve().name).strip("-")[:64] or "experiment"
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise UsageError(f"--name is {name!r}; it must be 1 to 64 letters, digits, - or _")
    write_text(target, template(name, target))
    command = f"carpool run {shlex.quote(str(target))}"
    if as_json:
        emit({"file": str(target), "name": name, "next": command})
    else:
        say(f"wrote {target}")
        say(f"next: {command}")


def template(name: str, file: Path) -> str:
    """The text that `carpool init` writes; loading it gives the defaults."""
    try:
        text = Path(__file__).with_name("template.toml").read_text(encoding="utf-8")
    except OSError as error:
        raise RunError("template.toml is missing from the installation; install Carpool again") from error
    # A line break in a folder's name must not end the comment that the path stands in.
    path = shlex.quote(str(file)) if str(file).isprintable() else file.name
    return text.replace("{name}", name).replace("{file}", path)


def validate(file: FileArgument, sets: SetOption = [], as_json: JsonOption = False) -> None:  # noqa: B006
    """Check an experiment file and say every fault at once; nothing is run.

    Examples: [cyan]carpool validate first/experiment.toml[/] ·
    [cyan]carpool validate base.toml --set strategy.name=fedprox --json[/]
    """
    from carpool.experiments.load import has_sweep, load_experiment, load_sweep

    try:
        swept = has_sweep(file, sets)
        points = load_sweep(file, sets) if swept else [({}, load_experiment(file, sets))]
    except ConfigError as error:
        if not as_json:
            raise
        emit({"file": str(file), "valid": False, "problems": list(error.problems)})
        for problem in error.problems:
            complain(problem)
        raise typer.Exit(error.exit_code) from None
    first = points[0][1]
    if as_json:
        document: dict[str, object] = {"file": str(file), "valid": True, "problems": []}
        document |= {"points": [values for values, _ in points]} if swept else {"config": first.model_dump()}
        emit(document)
        return
    say(f"{file} is valid: {summary(first)}")
    if swept:
        say(f"its sweep has {len(points)} points; next: carpool sweep {shlex.quote(str(file))}")


def summary(experiment: Experiment) -> str:
    """The experiment in one line."""
    e = experiment
    return (
        f"{e.experiment.name}, {e.experiment.rounds} rounds of {e.strategy.name} on {e.experiment.engine}, "
        f"{e.selection.cohort} of {e.fleet.vehicles} vehicles a round ({e.selection.asked} asked), "
        f"model {e.model.name}, data {e.data.source}, channel {e.privacy.channel}"
    )


def doctor(as_json: JsonOption = False) -> None:
    """Check this machine: versions, cores, memory, disk, GPU; say what to do. Ends with 1 if it cannot run.

    Examples: [cyan]carpool doctor[/] · [cyan]carpool doctor --json[/]
    """
    from carpool.experiments import doctor as checks

    found = checks.report()
    bad = [check for check in found if check.status == "bad"]
    if as_json:
        emit({"ok": not bad, "checks": [vars(check) for check in found]})
    else:
        rows = [(COLORS[check.status], check.name, check.value, check.fix) for check in found]
        table(("", "what", "found", "what to do"), rows)
    for check in bad:
        complain(f"{check.name} is {check.value}; {check.fix}")
    if bad:
        raise typer.Exit(1)
