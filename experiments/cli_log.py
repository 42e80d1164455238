"""`carpool log verify` and `carpool log show`: the transparency log of a server, checked offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from carpool.experiments.cli_common import JsonOption, emit, err, say, table
from carpool.experiments.logfacts import CA, LOG, contradictions, when
from carpool.privacy.errors import PrivacyRefused, UsageError

LAST = 20
ROUNDS = "rounds.jsonl"
FileArgument = Annotated[
    Path, typer.Argument(metavar="LOG", help="The log, such as log.jsonl, or a run's folder that has one.")
]


def register(app: typer.Typer) -> None:
    """Add `carpool log ...`; the commands raise UsageError, PrivacyRefused, RunError."""
    log = typer.Typer(
        help="The transparency log: what a server announced, whom it counted, and what it signed.\n\n"
        "Example: [cyan]carpool log verify log.jsonl --ca fleet/ca.pub --checkpoint kept.checkpoint[/]",
        no_args_is_help=True,
    )
    log.command()(verify)
    log.command()(show)
    app.add_typer(log, name="log")


def verify(
    file: FileArgument,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="OLD", help="A checkpoint, a log or a run that you kept: the log must have grown from it."
        ),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(metavar="PUB", help="The fleet's ca.pub: who may sign the log; default: the run's own."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a whole log offline: every entry, every signed checkpoint, that it only grew and its rules held.

    Of a run, also that its rounds say the same. Ends with 3 if it does not hold.

    Examples: [cyan]carpool log verify log.jsonl --ca fleet/ca.pub[/] ·
    [cyan]carpool log verify runs/quickstart-1a2b --checkpoint monday.checkpoint[/]
    """
    from carpool.privacy import transparency
    from carpool.privacy.identity import Trust
    from carpool.privacy.keyfiles import load_public
    from carpool.privacy.logaudit import differences, unfinished
    from carpool.privacy.logwriter import beside

    folder, file = (file, _there(file)) if file.is_dir() else (None, _there(file))
    own = ca is None and folder is not None and (folder / CA).is_file()
    ca = folder / CA if own and folder is not None else ca
    found = transparency.verify(file, None if ca is None else Trust(load_public(ca)))
    last = found.checkpoint
    if beside(file).is_file():
        transparency.grown(found, transparency.last_checkpoint(beside(file)))
    old = None
    if checkpoint is not None:
        old = transparency.last_checkpoint(_there(checkpoint))
        transparency.grown(found, old)
    rounds = _rules(file, folder, found.entries)
    warnings = [*_warnings(found.torn, ca, checkpoint, own=own), *differences(found.entries)]
    warnings += unfinished(found.entries)
    document = {"file": file, "valid": True, "entries": last.size, "checkpoints": found.checkpoints}
    document |= {"origin": last.origin.hex(), "root": last.root.hex(), "at": last.at, "signer": found.signer}
    document |= {"signer_checked": ca is not None, "grown_from": None if old is None else old.size}
    if as_json:
        emit(document | {"rounds": rounds, "warnings": warnings})
        return
    _say(document, "" if ca is None else f", certified by {ca}")
    if rounds["announced"]:
        said = ", as the run's own rounds say" if folder is not None else ""
        say(f"rounds   {rounds['announced']} announced, {rounds['sums']} sums counted{said}")
    if rounds["sums"]:
        say(f"smallest {rounds['smallest']} vehicles in a sum, the least n_min is {rounds['n_min']}")
    for warning in warnings:
        err().print(f"warning: {warning}", markup=False, soft_wrap=True)


def _say(found: Mapping[str, Any], certified: str) -> None:
    """What holds, for people."""
    say(
        f"{found['file']} holds: {found['entries']} entries, {found['checkpoints']} signed checkpoints, the "
        f"last of {when(found['at'])}"
    )
    say(f"origin   {found['origin']}")
    say(f"root     {found['root']}")
    say(f"signer   {found['signer']}{certified}")
    if found["grown_from"] is not None:
        say(f"it has grown from the checkpoint of {found['grown_from']} entries, which it still has")


def _rules(file: Path, folder: Path | None, entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many rounds and sums; raises PrivacyRefused where a rule was broken, or the run says otherwise."""
    from carpool.privacy.logaudit import breaches

    if broken := breaches(entries):
        raise PrivacyRefused(f"{file} is whole, but its server broke its rules: {_first(broken)}")
    if folder is not None and (folder / ROUNDS).is_file():
        from carpool.experiments.runfolder import read_records

        if differing := contradictions(read_records(folder), entries):
            raise PrivacyRefused(
                f"{file} is whole, but {folder / ROUNDS} contradicts it: {_first(differing)}"
            )
    sizes = [len(one["vehicles"]) for one in entries if one["kind"] == "participation"]
    begun = [one["n_min"] for one in entries if one["kind"] == "round"]
    least = {"smallest": min(sizes, default=None), "n_min": min(begun, default=None)}
    return {"announced": len(begun), "sums": len(sizes), **least}


def _first(found: Sequence[str]) -> str:
    return found[0] + (f" (and {len(found) - 1} more)" if len(found) > 1 else "")


def _warnings(torn: int, ca: Path | None, checkpoint: Path | None, *, own: bool) -> list[str]:
    """What a verification did not look at."""
    said = []
    if ca is None:
        said.append("who signed was not checked; name the fleet's CA with --ca")
    if own:
        said.append(
            f"{ca} lay beside the log; compare it with one that you were given, or name that with --ca"
        )
    if checkpoint is None:
        said.append(
            "a log that was rewritten as a whole looks like this, too; compare it with --checkpoint OLD"
        )
    if torn:
        said.append(f"{torn} bytes at the end are of an append that was never finished; they do not count")
    return said


def show(
    file: FileArgument,
    kind: Annotated[str, typer.Option(help="Only entries of this kind, such as participation.")] = "",
    last: Annotated[int, typer.Option(min=0, help="How many of the last entries to show.")] = LAST,
    as_json: JsonOption = False,
) -> None:
    """Show the entries of a log, after checking that they are undamaged (not who signed them).

    Examples: [cyan]carpool log show log.jsonl[/] · [cyan]carpool log show log.jsonl --kind participation[/]
    """
    from carpool.privacy import transparency
    from carpool.privacy.logentries import KINDS

    if kind and kind not in KINDS:
        kinds = ", ".join(KINDS)
        raise UsageError(f"--kind is {kind!r}; the kinds of entries are {kinds}")
    found = transparency.verify(_there(file), None)
    chosen = [dict(one) for one in found.entries if not kind or one["kind"] == kind]
    chosen = chosen[len(chosen) - min(last, len(chosen)) :]
    if as_json:
        emit({"file": file, "entries": chosen, "checkpoint": found.checkpoint.document()})
        return
    cells = [(one["number"], when(one["at"]), one["kind"], _words(one)) for one in chosen]
    table(("number", "when", "kind", "what"), cells, right=(0,))
    say(f"{len(chosen)} of {len(found.entries)} entries, {found.checkpoints} checkpoints")


def _words(entry: dict[str, Any]) -> str:
    """An entry's own fields in a line; long lists as their length."""
    told = []
    for name, value in entry.items():
        if name in ("number", "at", "kind") or value == "":
            continue
        text = f"{len(value)} of them" if isinstance(value, list) else str(value)
        told.append(f"{name} {text if len(text) <= 32 else text[:16] + '…'}")
    return ", ".join(told)


def _there(file: Path) -> Path:
    """The file, or the log in a run's folder; raises UsageError."""
    if file.is_dir():
        if not (file / LOG).is_file():
            raise UsageError(f"{file} has no {LOG}; only runs under secure aggregation write one")
        return file / LOG
    if not file.is_file():
        raise UsageError(f"there is no file {file}; name a log or a checkpoint that is there")
    return file
