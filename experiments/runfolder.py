"""A run's folder on disk: what is in it, who may write to it, and how it is read after a kill.

config.toml (everything resolved) · environment.json · keys/ · checkpoint/ · rounds.jsonl ·
model.safetensors · result.json · report.html. A checkpoint is written before its round's line; reading
completes the lines.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from carpool.privacy.errors import RunError, UsageError
from carpool.privacy.storage import append_line, refusals, write_bytes, write_text
from carpool.server.checkpoint import Checkpoint

CONFIG = "config.toml"
ENVIRONMENT = "environment.json"
ROUNDS = "rounds.jsonl"
RESULT = "result.json"
MODEL = "model.safetensors"
REPORT = "report.html"
CHECKPOINT = "checkpoint"
MEMORY = "memory"
LOCK = ".lock"


def new_folder(name: str, out: Path | None) -> Path:
    """The folder for a new run: `out`, or runs/<name>-<short id>; raises UsageError, RunError.

    An existing folder is taken only if it is empty: a run never overwrites another one.
    """
    folder = out or Path("runs") / f"{name}-{secrets.token_hex(3)}"
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        resume = f", or go on with it: carpool run --resume {folder}" if (folder / CONFIG).is_file() else ""
        raise UsageError(f"{folder} is there already and not empty; name another --out{resume}")
    with refusals(folder, "create"):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def existing_folder(run: Path) -> Path:
    """`run`, if it is a run's folder; raises UsageError."""
    if not (run / CONFIG).is_file():
        raise UsageError(f"{run} is not a run's folder (it has no {CONFIG}); see the folders under runs/")
    return run


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for one process; raises RunError while another one has it. A kill frees it."""
    with refusals(folder, "lock"):
        file = (folder / LOCK).open("w")
    # The block stands outside `refusals`: its own OSErrors are not about the lock.
    with file:
        with refusals(folder, "lock"):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunError(f"another process is working in {folder}; wait for it or end it") from error
        yield


def run_identity(folder: Path) -> str:
    """The run's identity on the wire: SHA-256 of its resolved configuration, 32 hex digits."""
    return hashlib.sha256((folder / CONFIG).read_bytes()).hexdigest()[:32]


def to_line(record: Mapping[str, Any]) -> str:
    """One line of rounds.jsonl."""
    return json.dumps(record, allow_nan=False)


def commit_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Append a round's line; its checkpoint is on disk already."""
    append_line(folder / ROUNDS, to_line(record))


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The rounds on disk, 1, 2, ... without gap; a torn last line is left out; raises RunError on damage."""
    path = folder / ROUNDS
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            record = json.loads(line)
            whole = record["round"] == number
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} is damaged in line {number}: {error}") from error
        if not whole:
            raise RunError(f"{path} has round {record['round']} in line {number}; it was changed by hand")
        records.append(record)
    return records


def repair_records(folder: Path, checkpoint: Checkpoint | None) -> list[dict[str, Any]]:
    """Make rounds.jsonl end exactly at the checkpoint; the rounds it then has. Raises RunError.

    The checkpoint is one line ahead after a kill between the two writes; never more.
    """
    done = checkpoint.round if checkpoint else 0
    records = read_records(folder)[:done]
    if checkpoint is not None and checkpoint.record is not None and len(records) == done - 1:
        records.append(dict(checkpoint.record))
    if len(records) != done:
        raise RunError(
            f"{folder / ROUNDS} has {len(records)} rounds, the checkpoint {done}; restore the file"
        )
    # As bytes: what a torn write left behind need not be UTF-8.
    text = "".join(to_line(record) + "\n" for record in records).encode()
    if not (folder / ROUNDS).is_file() or (folder / ROUNDS).read_bytes() != text:
        write_bytes(folder / ROUNDS, text)
    return records


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """An indented JSON document, whole or not at all."""
    write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises RunError."""
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}") from error
    if not isinstance(document, dict):
        raise RunError(f"{path} is not a JSON object")
    return document
