"""kill -9 of real processes between the charge, the ledger's line, the sum on disk and the checkpoint."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from carpool.privacy.dp.ledgerfile import read
from carpool.server import released

Write = Callable[..., Path]
ROUNDS = 3
KILLER = """
import importlib, os, signal, sys
module, name, when, count = sys.argv.pop(1).split(":")
owner = importlib.import_module(module)
*inner, name = name.split(".")
for one in inner:
    owner = getattr(owner, one)
true, left = getattr(owner, name), [int(count)]
def dying(*given, **named):
    left[0] -= 1
    if when == "before" and not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    found = true(*given, **named)
    if when == "after" and not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return found
setattr(owner, name, dying)
from carpool.experiments.cli import main
main()
"""
MAIN = "from carpool.experiments.cli import main; main()"
STAY = tuple(
    f"fleet.leave.{stage}=0.0"
    for stage in ("before_training", "during_training", "before_upload", "during_upload", "after_upload")
)
MASKED = (
    *STAY, "selection.cohort=8", "selection.over_select=0.25", "selection.quorum=0.75",
    f"experiment.rounds={ROUNDS}", "privacy.channel=secagg", "privacy.secagg.n_min=4",
    "privacy.secagg.adversary=curious",
)  # fmt: skip
POINTS = {
    "in the ledger's write": ("carpool.privacy.dp.ledger:note_head:before", "lost"),
    "between charge and asking": ("carpool.server.private_round:sound_task:before", "lost"),
    "between asking and the list": ("carpool.server.secure_plus:certify:before", "lost"),
    "between certified and opening": ("carpool.server.secure_plus:certify:after", "lost"),
    "between sum and disk": ("carpool.server.released:save:before", "lost"),
    "between persist and publish": ("carpool.server.released:save:after", "kept"),
    "between publish and step": ("carpool.privacy.dp.budget:Books.publish:after", "kept"),
    "before the checkpoint": ("carpool.server.private_round:sound_step:after", "kept"),
}
"""Where, and what must become of the round."""
FEW = ("between certified and opening", "between persist and publish", "before the checkpoint")


def process(code: str, *args: str | Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stderr


def cases() -> list[object]:
    return [
        pytest.param(
            mechanism,
            where,
            marks=pytest.mark.slow if mechanism == "distributed" and where in FEW else pytest.mark.nightly,
        )
        for mechanism in ("central", "distributed", "local", "matrix")
        for where in POINTS
    ]


@pytest.mark.parametrize(("mechanism", "where"), cases())
def test_a_kill_never_makes_a_release_without_charge_or_a_second_one(
    tiny: Write, tmp_path: Path, mechanism: str, where: str
) -> None:
    point, fate = POINTS[where]
    file, folder = tiny(), tmp_path / "r"
    # The lines of round 1 come first.
    count = {"in the ledger's write": 3 if mechanism in ("central", "matrix") else 4}.get(where, 2)
    if mechanism == "matrix" and where == "in the ledger's write":
        count = 1  # its only charge
    sets = [one for pair in (*MASKED, f"privacy.dp.mechanism={mechanism}") for one in ("--set", pair)]
    code, err = process(KILLER, f"{point}:{count}", "run", file, "--out", folder, *sets)
    assert code == -signal.SIGKILL, err
    held = released.read(folder)
    code, err = process(MAIN, "run", "--resume", folder)
    result = json.loads((folder / "result.json").read_text())
    assert code == 0, err
    assert len(result["rounds"]) == ROUNDS
    charges = list(read(folder / "ledger.jsonl").state.charges.values())
    told = Counter(moment for one in charges for moment in one.published)
    assert max(told.values()) == 1
    void = [one["round"] for one in result["rounds"] if one["void"]]
    assert sorted([*told, *void]) == [1, 2, 3]
    assert len(void) == (fate == "lost")
    assert result["privacy"]["epsilon"] <= 8.0 * (1 + 1e-6)
    if mechanism != "matrix":
        assert sorted(one.release.round for one in charges) == [1, 2, 3], (
            "the charge stays, and is no second one"
        )
    if fate == "kept":
        assert held is not None
        [digest] = [one.published[held.round] for one in charges if held.round in one.published]
        assert digest == held.digest, "this very sum was published"
        assert result["rounds"][held.round - 1]["asked"] == 10
    assert len(hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()) == 64
