"""The same experiment on the engines `inline` and `ray`: time, and whether it ends alike.

    python benchmarks/engines.py [FILE] [--rounds 3] [--passes 3] [--set KEY=VALUE ...] [--json]

    whole    wall seconds of the whole process
    around   of these, outside of rounds: imports, data, report, and on `ray` the start and end of Ray
    first    of these, in round 1: on `ray` the workers start in it and open the experiment
    round    of these, in each later round (median)
    cpu      CPU seconds of the process and all its descendants, sampled ten times a second

Each pass runs every engine once, in turn; medians over the passes. FILE is experiments/quickstart.toml.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
CARPOOL = [sys.executable, "-c", "from carpool.experiments.cli import main; main()", "run"]
PARTS = ("whole", "around", "first", "round", "cpu")


def family(process: psutil.Process) -> Iterator[tuple[int, float]]:
    """(pid, CPU seconds so far) of a process and its descendants."""
    for member in [process, *process.children(recursive=True)]:
        times = member.cpu_times()
        yield member.pid, times.user + times.system


def run(file: str, folder: Path, sets: list[str]) -> dict[str, Any]:
    """One run, measured. Ray's workers are nobody's children at the end, hence the sampling."""
    arguments = [part for value in sets for part in ("--set", value)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    began, spent = time.monotonic(), dict[int, float]()
    with subprocess.Popen(
        [*CARPOOL, file, "--out", str(folder), "--json", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
    ) as child:
        while child.poll() is None:
            with suppress(psutil.Error):
                spent.update(family(psutil.Process(child.pid)))
            time.sleep(0.1)
        whole = time.monotonic() - began
        out, err = child.communicate()
    if child.returncode:
        raise SystemExit(err.decode())
    rounds = json.loads(out)["rounds"]
    seconds = [r["seconds"] for r in rounds]
    return {
        "whole": whole,
        "around": whole - sum(seconds),
        "first": seconds[0],
        "round": statistics.median(seconds[1:] or seconds),
        "cpu": sum(spent.values()),
        "replied": [r["replied"] for r in rounds],
        "accuracy": json.loads(out)["final"]["accuracy"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="?", default=str(ROOT / "experiments/quickstart.toml"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="KEY=VALUE")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    engines = ["inline", "ray"] if importlib.util.find_spec("ray") else ["inline"]
    found: dict[str, list[dict[str, Any]]] = {engine: [] for engine in engines}
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(options.passes):
            for engine in engines:
                sets = [f"experiment.rounds={options.rounds}", f"experiment.engine={engine}", *options.sets]
                found[engine].append(run(options.file, Path(scratch) / f"{engine}{number}", sets))
    loads.append(os.getloadavg()[0])
    rows: dict[str, Any] = {
        engine: {part: round(statistics.median(r[part] for r in runs), 2) for part in PARTS}
        for engine, runs in found.items()
    }
    ends = {(tuple(r["replied"]), r["accuracy"]) for runs in found.values() for r in runs}
    skipped = [] if len(engines) == 2 else ["ray: not installed (pip install 'carpool[ray]')"]
    same = "same replies and accuracy in all runs" if len(ends) == 1 else f"runs differ: {ends}"
    if options.json:
        print(json.dumps({"rows": rows, "ends": same, "skipped": skipped, "load": loads}, indent=2))
        return
    print(f"{'engine':<10}", *(f"{part:>8}" for part in PARTS))
    for engine, row in rows.items():
        print(f"{engine:<10}", *(f"{row[part]:>8}" for part in PARTS))
    print(*skipped, same, f"load average before and after: {loads[0]:.2f} {loads[1]:.2f}", sep="\n")


if __name__ == "__main__":
    main()
