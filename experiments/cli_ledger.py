"""`carpool privacy ledger`: what a run or a fleet was charged, checked and computed anew from facts alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carpool.experiments.cli_common import JsonOption, emit, err, out, say, table
from carpool.experiments.logfacts import when
from carpool.experiments.promise import STAMP
from carpool.privacy.errors import RunError, UsageError

if TYPE_CHECKING:
    from carpool.privacy.dp.accounting import Epsilon
    from carpool.privacy.dp.ledgerfile import Found
    from carpool.privacy.dp.ledgerstate import Charge

LAST = 20


def register(privacy: typer.Typer) -> None:
    """Add `ledger` to `carpool privacy`; it raises RunError, PrivacyRefused."""
    privacy.command(name="ledger")(ledger)


def ledger(
    target: Annotated[
        str,
        typer.Argument(
            metavar="RUN|FLEET|FILE",
            help="A run's folder, or the start of its name under ./runs; a fleet's folder; a ledger.jsonl.",
        ),
    ],
    last: Annotated[int, typer.Option(min=0, help="How many of the last releases to show.")] = LAST,
    as_json: JsonOption = False,
) -> None:
    """Show what was charged, check every line, and compute epsilon anew; the ledger's file is all it needs.

    Ends with 1 if there is none, with 3 if it does not hold. Examples: [cyan]carpool privacy ledger
    private[/] · [cyan]carpool privacy ledger fleet/ledger.jsonl --last 5[/] · [cyan]carpool privacy ledger
    runs/private-1a2b --json[/]
    """
    from carpool.privacy.dp.accounting import epsilon
    from carpool.privacy.dp.ledgerfile import read

    path = located(target)
    found = read(path)
    header, charges = found.state.header, list(found.state.charges.values())
    total = epsilon([one.event for one in charges], header.delta, header.relation)
    runs = {
        run: epsilon(
            [one.event for one in charges if one.release.run == run], header.delta, header.relation
        ).epsilon
        for run in dict.fromkeys(one.release.run for one in charges)
    }
    warnings = _warnings(found, total)
    if as_json:
        emit({**_document(path, found, total, runs), "warnings": warnings})
        return
    if not found.state.private:
        out().print(STAMP, style="bold white on red", markup=False, soft_wrap=True)
    say(f"{path} holds: {header.scope} {header.name}, {found.lines} lines, {len(charges)} releases charged")
    _show(charges[len(charges) - min(last, len(charges)) :], len(charges))
    if len(runs) > 1:
        for run, alone in runs.items():
            say(f"{run} alone: epsilon {alone:.6g}")
    say(
        f"epsilon {total.epsilon:.6g} at delta {header.delta:g}, per {header.unit}, {header.relation}, by "
        f"accountant {total.accountant}, computed from the facts above"
    )
    say(f"head {found.last['number']} {found.last['hash']}")
    for warning in warnings:
        err().print(f"warning: {warning}", markup=False, soft_wrap=True)


def located(target: str) -> Path:
    """The ledger of a run, a fleet's folder, or the file itself; raises RunError."""
    from carpool.experiments.results import find_run
    from carpool.privacy.dp.ledgerfile import LEDGER

    place = Path(target)
    if target and place.is_file():
        return place
    try:
        folder = find_run(target)
    except UsageError as error:
        raise RunError(f"there is no ledger {target!r}, and as a run: {error}") from error
    if not (folder / LEDGER).is_file():
        raise RunError(f"{folder} has no {LEDGER}: nothing was charged there; name a run with [privacy.dp]")
    return folder / LEDGER


def _warnings(found: Found, total: Epsilon) -> list[str]:
    """What is true, and easily missed."""
    said = [] if found.state.private else [STAMP]
    if math.isinf(total.epsilon):
        said.append("epsilon is infinite: something was released without noise")
    if total.gaussian is not None:
        said.append(
            f"Skellam noise is charged by a bound; Gaussian noise of its variance: {total.gaussian:.6g}"
        )
    if found.head == "missing":
        said.append("the head file is not beside it: whether lines are missing at the end cannot be seen")
    if found.head == "behind":
        said.append("the head file is an append behind: the last writer was killed, or is at it now")
    if found.torn:
        said.append(
            f"{found.torn} bytes at the end are of an append that was never finished; they do not count"
        )
    said.append(
        "a ledger that was rewritten as a whole looks like this, too; compare the head with one you kept"
    )
    return said


def _show(charges: Sequence[Charge], total: int) -> None:
    """The releases as a table."""
    one_run = len({one.release.run for one in charges}) == 1  # then the line above says which
    columns: dict[str, list[object]] = {
        "#": [one.number for one in charges],
        "UTC": [when(one.at)[5:16] for one in charges],
        "run": [] if one_run else [one.release.run[:8] for one in charges],
        "round": [one.release.round for one in charges],
        "what": [one.release.what for one in charges],
        "by": [one.release.mechanism for one in charges],
        "noise": [_noise(one) for one in charges],
        "sampling": [_sampling(one) for one in charges],
        "vehicles": [one.release.cohort if one.survived is None else one.survived for one in charges],
        "state": [_state(one) for one in charges],
    }
    if set(columns["sampling"]) == {"none"}:
        columns["sampling"] = []
    shown = {name: cells for name, cells in columns.items() if cells}
    rows = list(zip(*shown.values(), strict=True))
    if rows:
        table(tuple(shown), rows, right=(0, list(shown).index("round")))
    if len(rows) < total:
        say(f"the last {len(rows)} of {total} releases; --last {total} shows all")


def _noise(one: Charge) -> str:
    planned = f"{one.release.event.noise_multiplier:.4g}"
    told = planned if one.realised is None else f"{planned}, real {one.realised:.4g}"
    return told if one.release.private else f"{told} SEEDED"


def _sampling(one: Charge) -> str:
    release = one.release
    if release.most:
        return f"{release.most} times, {release.separation} apart"
    return "none" if release.event.sampling_rate == 1 else f"{release.event.sampling_rate:.4g}"


def _state(one: Charge) -> str:
    done, many = len(one.published), one.release.releases
    told = "open" if not done else "published" if many == 1 else f"{done} of {many} published"
    return f"{told}, void: {one.void}" if done and one.void else f"void: {one.void}" if one.void else told


def _document(path: Path, found: Found, total: Epsilon, runs: dict[str, float]) -> dict[str, Any]:
    """The JSON; an infinite epsilon is null."""
    from dataclasses import asdict

    state = found.state
    releases = [
        {
            **{name: value for name, value in asdict(one).items() if name not in ("release", "published")},
            **asdict(one.release),
            "published": {str(moment): digest for moment, digest in one.published.items()},
        }
        for one in state.charges.values()
    ]
    return {
        "file": path,
        "valid": True,
        **asdict(state.header),
        "private": state.private,
        "epsilon": _finite(total.epsilon),
        "accountant": total.accountant,
        "epsilon_of_gaussian": None if total.gaussian is None else _finite(total.gaussian),
        "runs": {run: _finite(alone) for run, alone in runs.items()},
        "lines": found.lines,
        "head": {"number": found.last["number"], "hash": found.last["hash"], "file": found.head},
        "torn": found.torn,
        "releases": releases,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
