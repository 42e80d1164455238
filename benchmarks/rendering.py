"""Frames a CPU-second of the procedural renderer, one thread, set-up of each vehicle included.

    python benchmarks/rendering.py [--json] [--vehicles 12] [--width 64] [--height 48]

Target: at least 300 front-camera frames of 64x48 a CPU-second. Nothing is read from or written to a cache.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402  # after the thread limits, which it reads when it is loaded

from carpool.client.camera.procedural import record  # noqa: E402
from carpool.client.camera.settings import VIEWS, DataSettings  # noqa: E402

TARGET = 300.0


def measure(views: tuple[str, ...], vehicles: int, width: int, height: int) -> dict[str, object]:
    """Render `vehicles` vehicles of the default drives; the sprites are drawn before the clock starts."""
    settings = DataSettings(views=views, width=width, height=height, seed=1)
    record(settings, vehicles)
    start, frames = time.process_time(), 0
    for vehicle in range(vehicles):
        taken = record(settings, vehicle).frames
        frames += taken.shape[0] * taken.shape[1]
    seconds = time.process_time() - start
    return {
        "views": len(views),
        "size": f"{width}x{height}",
        "frames": frames,
        "cpu_seconds": round(seconds, 3),
        "frames_per_cpu_second": round(frames / seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--vehicles", type=int, default=12)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--height", type=int, default=48)
    options = parser.parse_args()
    size = (options.vehicles, options.width, options.height)
    rows = [measure(views, *size) for views in (("front",), ("front", "front_left", "front_right"), VIEWS)]
    if options.json:
        machine = {"python": platform.python_version(), "numpy": np.__version__, "cpu": platform.machine()}
        print(json.dumps({"target": TARGET, "machine": machine, "rows": rows}, indent=2))
        return
    print(f"{'views':>5} {'size':>9} {'frames':>7} {'CPU s':>7} {'frames/CPU s':>13}   (target {TARGET:.0f})")
    for row in rows:
        print(f"{row['views']:>5} {row['size']:>9} {row['frames']:>7} {row['cpu_seconds']:>7} "
              f"{row['frames_per_cpu_second']:>13}")  # fmt: skip


if __name__ == "__main__":
    main()
