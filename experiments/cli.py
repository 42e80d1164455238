"""The `carpool` command: collects the commands, runs one, and turns every ending into an exit code.

0 done, 1 failed, 2 wrong usage or configuration, 3 privacy refused, 130 interrupted. An error is one
sentence on standard error. A module of commands has `register(app)`; add it to `MODULES`.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import click
import typer

from carpool.experiments import (
    cli_data,
    cli_export,
    cli_keys,
    cli_log,
    cli_privacy,
    cli_results,
    cli_run,
    cli_setup,
    cli_strategies,
    cli_sweep,
)
from carpool.experiments.cli_common import complain
from carpool.privacy.errors import CarpoolError, ConfigError

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
TRACEBACK = "CARPOOL_TRACEBACK"


MODULES = (
    cli_setup,
    cli_run,
    cli_results,
    cli_sweep,
    cli_export,
    cli_strategies,
    cli_data,
    cli_privacy,
    cli_keys,
    cli_log,
)
"""In the order in which `carpool --help` lists their commands."""

app = typer.Typer(
    name="carpool",
    help=(
        "Federated learning for vehicle fleets: cars train on their own camera frames and may leave at any "
        "moment.\n\nStart with: [cyan]carpool init first[/], then [cyan]carpool run first/experiment.toml[/]"
    ),
    epilog=(
        "Exit codes: 0 done · 1 failed · 2 wrong usage or configuration · 3 privacy refused · 130 interrupted"
    ),
    rich_markup_mode="rich",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"carpool {version('carpool')}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


for _module in MODULES:
    _module.register(app)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; prints at most a sentence a fault, never a traceback.

    arguments: without the program's name; None takes those of the process.
    """
    try:
        result = typer.main.get_command(app).main(
            args=None if arguments is None else list(arguments), prog_name="carpool", standalone_mode=False
        )
        sys.stdout.flush()
    except SystemExit as ending:  # typer ends so on a closed pipe
        return ending.code if isinstance(ending.code, int) else FAILED
    except BrokenPipeError:
        return _closed_pipe()
    except (KeyboardInterrupt, click.Abort):
        complain("interrupted")
        return INTERRUPTED
    except Exception as error:  # the last resort: one sentence, whatever happened
        return _report(error)
    if result == INTERRUPTED:
        complain("interrupted")
    return result if isinstance(result, int) else DONE


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an ASCII terminal shows ? instead of failing
    sys.exit(run())


def _report(error: Exception) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return USAGE
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "carpool"
        complain(f"{_sentence(error)}; see {path} --help")
        return USAGE
    if os.environ.get(TRACEBACK):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, CarpoolError):
        problems = error.problems if isinstance(error, ConfigError) else (str(error),)
        for problem in problems:
            complain(problem)
        return error.exit_code
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    complain(f"internal error ({what}); set {TRACEBACK}=1 to see where, and please report it")
    return FAILED


def _sentence(error: click.ClickException) -> str:
    text = error.format_message()
    hint = " Did you mean"
    if text.count(hint) > 1:  # click and typer each add one
        text = hint.join(text.split(hint)[:2])
    text = text.strip().rstrip(".")
    return text[:1].lower() + text[1:]


def _closed_pipe() -> int:
    # Python flushes standard output once more at its end: give it somewhere to go.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED
