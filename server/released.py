"""A noisy sum on disk, between the charge that pays for it and the model that it makes.

    the sum with its noise, and what happened in its round -> one file, whole or not there

After a kill the server goes on with this very sum: drawing the noise anew would be a second release.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from carpool.privacy.errors import RunError
from carpool.privacy.storage import refusals, replacing
from carpool.privacy.vectors import Vector

NAME = "release.safetensors"
FORMAT = 1


@dataclass(frozen=True)
class Released:
    """vectors: noisy sums, float32 by channel; facts: plain JSON about the round; ticket: of its charge."""

    run: str
    round: int
    ticket: str
    vectors: Mapping[str, Vector]
    facts: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of what leaves: run, round and the numbers, in hexadecimal."""
        total = hashlib.sha256(f"{self.run}/{self.round}/{self.ticket}".encode())
        for name, vector in sorted(self.vectors.items()):
            total.update(f"{name} {vector.dtype} {vector.shape} ".encode())
            total.update(np.ascontiguousarray(vector).tobytes())
        return total.hexdigest()


def save(folder: Path, released: Released) -> None:
    """Write it, synced; raises RunError."""
    text = json.dumps(
        {
            "format": FORMAT,
            "run": released.run,
            "round": released.round,
            "ticket": released.ticket,
            "digest": released.digest,
            "facts": dict(released.facts),
        }
    )
    vectors = {name: np.ascontiguousarray(vector) for name, vector in released.vectors.items()}
    with replacing(folder / NAME) as temporary, refusals(folder / NAME):
        try:
            save_file(vectors, temporary, metadata={"carpool": text})
        except SafetensorError as error:
            raise OSError(str(error)) from error


def read(folder: Path) -> Released | None:
    """What is there, None if nothing is; raises RunError for a damaged file."""
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            known = json.loads((file.metadata() or {})["carpool"])
            vectors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found = Released(known["run"], known["round"], known["ticket"], vectors, known["facts"])
        if known["format"] != FORMAT or known["digest"] != found.digest:
            raise ValueError("its content does not match its checksum")
    except (SafetensorError, LookupError, ValueError, TypeError, OSError) as error:
        raise RunError(
            f"{path} is damaged ({error}); remove it, and its round is void: the charge stays"
        ) from error
    return found
