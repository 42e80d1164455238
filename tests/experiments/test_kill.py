"""kill -9 at random moments, as a real process; the resumed run ends with the very same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow
Write = Callable[..., Path]
CARPOOL = [sys.executable, "-c", "from carpool.experiments.cli import main; main()"]


def hear_interruptions() -> None:
    """A shell that runs its jobs in the background lets them ignore Ctrl-C; these are to hear it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def carpool(*args: str | Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*CARPOOL, *map(str, args)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=hear_interruptions,
    )


def finish(process: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def rounds(folder: Path) -> list[int]:
    return [json.loads(line)["round"] for line in (folder / "rounds.jsonl").read_text().splitlines()]


def after_rounds(folder: Path, count: int, extra: float) -> None:
    """Wait until `count` rounds are on disk, and a little more."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        path = folder / "rounds.jsonl"
        if path.is_file() and path.read_bytes().count(b"\n") >= count:
            break
        time.sleep(0.002)
    time.sleep(extra)


def killed_run(file: Path, folder: Path, kills: int, seed: int) -> int:
    """Run, killing -9 at `kills` random moments; the number of kills that hit a living process."""
    rng = np.random.default_rng(seed)
    first = carpool("run", file, "--out", folder)
    hits, process = 0, first
    for _ in range(kills):
        done = len(rounds(folder)) if (folder / "rounds.jsonl").is_file() else 0
        after_rounds(folder, done + int(rng.integers(1, 3)), float(rng.uniform(0, 0.08)))
        alive = process.poll() is None
        process.send_signal(signal.SIGKILL)
        finish(process)
        hits += alive
        if (folder / "result.json").is_file():
            break
        process = carpool("run", "--resume", folder)
    code, _, err = finish(process)
    assert code == 0 or (folder / "result.json").is_file(), err
    return hits


def check_killed(tiny: Write, tmp_path: Path, kills: int, count: int) -> None:
    more = '[strategy]\nname = "fedadam"\n'
    file = tiny(more)
    file.write_text(file.read_text().replace("rounds = 6", f"rounds = {count}"))
    code, out, err = finish(carpool("run", file, "--out", tmp_path / "whole", "--json"))
    assert code == 0, err
    hits = killed_run(file, tmp_path / "killed", kills, seed=5)
    assert hits >= kills // 2, "the kills came too late to prove anything"
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")
    assert rounds(tmp_path / "killed") == list(range(1, count + 1))
    assert not list((tmp_path / "killed").rglob("*.tmp")), "resuming clears what a kill left behind"


def test_three_kills(tiny: Write, tmp_path: Path) -> None:
    check_killed(tiny, tmp_path, kills=3, count=12)


@pytest.mark.nightly
def test_ten_kills(tiny: Write, tmp_path: Path) -> None:
    check_killed(tiny, tmp_path, kills=10, count=40)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_finishes_writing_and_says_how_to_go_on(
    tiny: Write, tmp_path: Path, number: signal.Signals
) -> None:
    file = tiny()
    file.write_text(file.read_text().replace("rounds = 6", "rounds = 400"))
    process = carpool("run", file, "--out", tmp_path / "r")
    after_rounds(tmp_path / "r", 2, 0.05)
    process.send_signal(number)
    code, _, err = finish(process)
    assert code == 130
    assert f"carpool run --resume {tmp_path / 'r'}".encode() in err.replace(b"\n", b" ")
    assert b"Traceback" not in err
    done = rounds(tmp_path / "r")
    assert done == list(range(1, len(done) + 1))


def test_two_processes_never_work_in_one_folder(tiny: Write, tmp_path: Path) -> None:
    file = tiny()
    file.write_text(file.read_text().replace("rounds = 6", "rounds = 4000"))
    first = carpool("run", file, "--out", tmp_path / "r")
    try:
        after_rounds(tmp_path / "r", 1, 0.0)
        code, _, err = finish(carpool("run", "--resume", tmp_path / "r"))
        assert code == 1
        assert b"another process is working" in err
    finally:
        first.kill()
        finish(first)
