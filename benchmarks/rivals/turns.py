"""What every engine of benchmarks/simulation.py is given, and how it takes turns with the others.

    python ENGINE.py FOLDER

FOLDER has frames.npy (uint8 [n, 1, h, w, 3]), x.npy (the same as float32 [n, 3, h, w], so that nobody has to
convert), y.npy (int64 [n]), cohorts.npy (int64 [rounds, cohort]), start.npy (float32 [d], the parameters in
the order of `named_parameters`) and work.json. An engine does one round to warm up, prints a line, and does
`rounds` more for every line "go" on its standard input; after each such turn it writes its model to the file
that the line names, and prints a line. CPU time is measured from outside.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402  # after the thread limits


class Work:
    """The part's data and settings."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.settings: dict[str, Any] = json.loads((self.folder / "work.json").read_text())
        self.examples: int = self.settings["examples"]
        self.batch: int = self.settings["batch"]
        self.lr: float = self.settings["lr"]
        self.vehicles: int = self.settings["vehicles"]
        self.cohorts = np.load(self.folder / "cohorts.npy")
        self.start = np.load(self.folder / "start.npy")

    def x(self) -> np.ndarray:
        # Copy-on-write: torch wants an array that could be written to.
        return np.load(self.folder / "x.npy", mmap_mode="c")

    def y(self) -> np.ndarray:
        return np.load(self.folder / "y.npy", mmap_mode="c")

    def rows(self, vehicle: int) -> slice:
        return slice(vehicle * self.examples, (vehicle + 1) * self.examples)

    def cohort(self, round_: int) -> list[int]:
        """The vehicles of round 0, 1, ..."""
        return [int(v) for v in self.cohorts[round_ % len(self.cohorts)]]


class Turns:
    """Rounds in turns: call `wait` after every round; it returns False when there is no more to do."""

    def __init__(self, rounds: int) -> None:
        self._rounds, self._left, self._path = rounds, 1, ""
        self._out = os.fdopen(os.dup(1), "w")  # whatever an engine prints goes elsewhere
        os.dup2(2, 1)

    def wait(self, model: Any) -> bool:
        """model: called for the parameters float32 [d] at the end of a turn."""
        self._left -= 1
        if self._left:
            return True
        if self._path:
            np.save(self._path, model())
        print("ready", file=self._out, flush=True)
        word, _, self._path = sys.stdin.readline().strip().partition(" ")
        self._left = self._rounds
        return word == "go"


def load(module: Any, vector: np.ndarray) -> None:
    """Fill a torch module from float32 [d]."""
    import torch

    with torch.no_grad():
        torch.nn.utils.vector_to_parameters(torch.from_numpy(vector.copy()), module.parameters())


def dump(module: Any) -> np.ndarray:
    """The parameters of a torch module, float32 [d]."""
    import torch

    return torch.nn.utils.parameters_to_vector(module.parameters()).detach().numpy().copy()
