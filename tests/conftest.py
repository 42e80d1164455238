"""Fixtures that several folders share: a tiny experiment that trains in a second."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

SOURCE = '''
import numpy as np

from carpool.client.camera.samples import Pool, Schema, Target
from carpool.client.camera.settings import Source


def factory(settings, vehicles):
    """Three classes of 8x8 pictures, told apart by their colour; two drives a vehicle."""
    rng = np.random.default_rng(settings.seed)
    n = vehicles * settings.drives * settings.frames
    label = rng.integers(0, 3, n)
    frames = rng.integers(0, 120, (n, 1, 8, 8, 3), dtype=np.uint8)
    frames[np.arange(n), 0, :, :, label] += 90
    drive = np.arange(n) // settings.frames
    return Source(
        Pool(
            Schema(("front",), 8, 8, (Target("sign", "class", ("none", "stop", "yield")),)),
            frames,
            {"sign": label.astype(np.int64)},
            drive.astype(np.int64),
            (np.arange(n) % settings.frames).astype(np.int64),
            (drive // settings.drives).astype(np.int64),
        )
    )
'''

EXPERIMENT = """
[experiment]
name = "tiny"
rounds = 6
seed = 3
[fleet]
vehicles = 12
[data]
source = "{source}:factory"
drives = 2
frames = 8
holdout = 0.5
[model]
name = "logistic"
[train]
lr = 0.02
batch_size = 4
[selection]
cohort = 4
over_select = 0.5
quorum = 0.5
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Path]:
    """Writes the tiny experiment's file; `more` is TOML put behind it."""

    def write(more: str = "", name: str = "tiny.toml") -> Path:
        source = tmp_path / "tiny_source.py"
        source.write_text(SOURCE)
        file = tmp_path / name
        file.write_text(EXPERIMENT.format(source=source) + more)
        return file

    return write
