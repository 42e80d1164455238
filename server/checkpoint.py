"""The server's state on disk: one safetensors file, replaced atomically after every round.

Written BEFORE the round's line goes into rounds.jsonl and carrying that line itself, so that a kill between
the two loses nothing: the reader completes the lines from the checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from carpool.privacy.errors import RunError
from carpool.privacy.storage import refusals, replacing
from carpool.privacy.vectors import Vector

FORMAT = 1
NAME = "state.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """Everything needed to go on after round `round` as if nothing had happened.

    vectors, scalars: the strategy's state by field; version: counted rounds; clock: seconds of the (virtual)
    clock; history: recent reply times, s; record: the line of the round just finished (None before round 1).
    """

    run: str
    round: int
    version: int
    clock: float
    history: tuple[float, ...]
    record: Mapping[str, Any] | None
    vectors: Mapping[str, Vector]
    scalars: Mapping[str, float]


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint in `folder`, whole or not at all; raises RunError."""
    facts = {
        "format": FORMAT,
        "run": checkpoint.run,
        "round": checkpoint.round,
        "version": checkpoint.version,
        "clock": checkpoint.clock,
        "history": list(checkpoint.history),
        "record": checkpoint.record,
        "scalars": dict(checkpoint.scalars),
    }
    with replacing(folder / NAME) as temporary, refusals(folder / NAME):
        try:
            save_file(dict(checkpoint.vectors), temporary, metadata={"carpool": json.dumps(facts)})
        except SafetensorError as error:
            raise OSError(str(error)) from error


def read(folder: Path) -> Checkpoint | None:
    """The checkpoint in `folder`, None if there is none; raises RunError for a damaged or foreign one."""
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            facts = json.loads((file.metadata() or {})["carpool"])
            vectors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if facts["format"] != FORMAT:
            raise RunError(f"{path} has format {facts['format']}; this version reads format {FORMAT}")
        return Checkpoint(
            run=facts["run"],
            round=facts["round"],
            version=facts["version"],
            clock=facts["clock"],
            history=tuple(facts["history"]),
            record=facts["record"],
            vectors=vectors,
            scalars=facts["scalars"],
        )
    except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
        raise RunError(f"{path} is damaged ({error}); start the run again in a new folder") from error
