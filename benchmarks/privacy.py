"""What differential privacy costs: integer noise, and a whole vector made ready for a secure sum.

    python benchmarks/privacy.py [--json] [--passes 9] [--only samplers,vehicle,matrix,accounting]

One process, one thread; times are CPU time of the process, medians over passes that take turns.

    samplers   draws a CPU-second of the discrete Gaussian and of Skellam noise, with randomness from the
               operating system's entropy; beside them NumPy's normal and its difference of two Poissons,
               which are neither exact nor secret
    vehicle    clip, rotate, round and noise of a float32 vector of 10^6 (mechanism `distributed`, 1,000
               vehicles, noise multiplier 1, 32 bits) against one pass of clip: a norm that cannot overflow
               (float64) and a scaled copy; and against the least that a clip can be, all in float32
    matrix     a round's noise of the mechanism `matrix` at d = 10^5 (1,000 rounds, separation 100, 10 times):
               CPU milliseconds, most memory in multiples of d numbers of 8 bytes, error of the running sums
    accounting the question before each release, whether it fits, after 1,000 rounds of history: CPU
               milliseconds a round, median and worst of 200; "alike" rounds have one noise, "distinct" ones
               each its own (as realised noise does). "to the end" goes on until the budget is spent and so
               includes the one time that loss distributions are asked. And one value to report, and one
               calibration, in milliseconds
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402  # after the thread limits

from carpool.privacy.dp import accounting as accountant  # noqa: E402
from carpool.privacy.dp import skellam as distributed  # noqa: E402
from carpool.privacy.dp.calibrate import calibrate  # noqa: E402
from carpool.privacy.dp.events import Event  # noqa: E402
from carpool.privacy.dp.lookahead import Composer  # noqa: E402
from carpool.privacy.dp.matrix import Plan, toeplitz_plan, tree_plan  # noqa: E402
from carpool.privacy.dp.matrix_noise import MatrixNoise  # noqa: E402
from carpool.privacy.dp.randomness import SystemBits  # noqa: E402
from carpool.privacy.dp.samplers import add_skellam, discrete_gaussian, skellam  # noqa: E402
from carpool.privacy.dp.schema import Schema  # noqa: E402

N, D = 1 << 20, 1_000_000
DEVIATIONS = (3.0, 10.0, 100.0, 1000.0)
TARGETS = {"million_draws_a_second": 15.0, "times_a_clip": 8.0, "look_ahead_ms": 20.0}
Row = dict[str, Any]


def seconds(calls: dict[str, Callable[[], object]], passes: int) -> dict[str, float]:
    """Median CPU seconds of each call; they take turns, so that a busy machine slows all alike."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # tables, caches
    for _ in range(passes):
        for name, call in calls.items():
            before = time.process_time()
            call()
            found[name].append(time.process_time() - before)
    return {name: statistics.median(times) for name, times in found.items()}


def samplers(passes: int) -> Row:
    """Million draws a CPU-second, by sampler and standard deviation."""
    bits, rng = SystemBits("benchmark"), np.random.default_rng(0)

    def million(call: Callable[[float], object]) -> dict[str, float]:
        found = seconds({f"{s:g}": lambda s=s: call(s) for s in DEVIATIONS}, passes)  # type: ignore[misc]
        return {name: round(N / time / 1e6, 1) for name, time in found.items()}

    return {
        "discrete_gaussian": million(lambda s: discrete_gaussian(bits, s, N)),
        "skellam": million(lambda s: skellam(bits, s * s, N)),
        "numpy_normal": million(lambda s: rng.standard_normal(N) * s),
        "numpy_two_poissons": million(lambda s: rng.poisson(s * s / 2, N) - rng.poisson(s * s / 2, N)),
    }


def vehicle(passes: int) -> Row:
    """CPU milliseconds of the parts of a vehicle's half at d = 10^6, and how many clips it takes."""
    plan = distributed.Plan(D, 1.0, 1.0, 1000, 1000)
    bits, rotation = SystemBits("benchmark"), bytes(16)
    vector = np.random.default_rng(0).standard_normal(D).astype(np.float32)
    ring = np.zeros(plan.padded, np.uint32)

    def clip() -> np.ndarray:
        norm = float(np.linalg.norm(vector.astype(np.float64)))
        return vector * np.float32(min(1.0, plan.clip_norm / norm))

    def least() -> np.ndarray:
        return vector * np.float32(1 / math.sqrt(float(np.dot(vector, vector))))

    found = seconds(
        {
            "clip": clip,
            "clip_in_float32": least,
            "clip_rotate_round": lambda: distributed.quantised(plan, vector, rotation, bits),
            "noise": lambda: add_skellam(bits, plan.variance, ring),
            "all": lambda: distributed.encode(plan, vector, rotation, bits),
            "decode": lambda: distributed.decode(plan, ring, rotation),
        },
        passes,
    )
    return {
        **{f"{name}_ms": round(1e3 * time, 2) for name, time in found.items()},
        "times_a_clip": round(found["all"] / found["clip"], 1),
        "times_a_clip_in_float32": round(found["all"] / found["clip_in_float32"], 1),
        "noise_deviation_in_steps": round(math.sqrt(plan.variance), 1),
        "sensitivity_after_rounding": round(plan.l2 / plan.reach, 6),
        "numbers_on_the_wire": plan.padded,
    }


def matrix(passes: int) -> Row:
    """Time, memory and accuracy of correlated noise, by factorisation; memory grows as bands x d."""
    schema, rounds, d = Schema(100, 10), 1000, 100_000
    plans: dict[str, Plan] = {f"bands_{n}": toeplitz_plan(rounds, schema, n) for n in (1, 16, 64, 100)}
    plans["tree"] = tree_plan(rounds, schema)
    made, rows = {}, {}
    for name, plan in plans.items():
        MatrixNoise(plan, plan.width(1.0), d, bytes(16)).next()  # its table
        tracemalloc.start()
        made[name] = noise = MatrixNoise(plan, plan.width(1.0), d, bytes(16))
        for _ in range(20):
            noise.next()
        rows[name] = {"memory_in_vectors": round(tracemalloc.get_traced_memory()[1] / 8 / d, 1)}
        tracemalloc.stop()
    # 16 rounds a call: the tree's cost depends on the round.
    calls = {name: lambda noise=noise: [noise.next() for _ in range(16)] for name, noise in made.items()}
    for name, time_ in seconds(calls, min(passes, 50)).items():  # type: ignore[arg-type]
        rows[name] |= {
            "ms_a_round": round(1e3 * time_ / 16, 2),
            "error_of_running_sums": round(plans[name].rms_error(), 2),
        }
    return rows


def accounting(passes: int) -> Row:
    """CPU milliseconds of the look-ahead at 1,000 rounds of history, of a value and of a calibration."""

    def event(kind: str, noise: float) -> Event:
        if kind == "skellam":
            return Event("skellam", noise, l1=3000.0, step=0.01)
        return Event("gaussian", noise / (40 if kind == "sampled" else 1), 0.01 if kind == "sampled" else 1.0)

    def rounds(composer: Composer, events: list[Event], epsilon: float) -> dict[str, float]:
        took = []
        for one in events:
            before = time.process_time()
            if not composer.would_exceed(one, epsilon, 1e-5):
                composer.add(one)
            took.append(1e3 * (time.process_time() - before))
        return {
            name: round(found, 3)
            for name, found in (
                ("median", statistics.median(took)),
                ("mean", statistics.mean(took)),
                ("worst", max(took)),
            )
        }

    rows: Row = {}
    for kind in ("gaussian", "skellam", "sampled"):
        alike = [event(kind, 40.0)] * 1200
        distinct = [event(kind, 40 + number / 1000) for number in range(1200)]
        for name, events in (("alike", alike), ("distinct", distinct)):
            rows[f"{kind}_{name}_ms"] = rounds(Composer("zero-out", events[:1000]), events[1000:], 100.0)
    sampled = event("sampled", 40.0)
    rows["sampled_to_the_end_ms"] = rounds(Composer("zero-out", [sampled] * 1000), [sampled] * 250, 2.0)
    calls = {
        "value_closed_ms": lambda: accountant.epsilon([Event("gaussian", 5.0, count=100)], 1e-5, "zero-out"),
        "value_pld_ms": lambda: accountant.epsilon([replace(sampled, count=1000)], 1e-5, "zero-out"),
        "calibrate_closed_ms": lambda: calibrate(8.0, 1e-5, 100),
        "calibrate_pld_ms": lambda: calibrate(2.0, 1e-5, 1000, 0.01),
    }
    rows |= {name: round(1e3 * took, 2) for name, took in seconds(calls, min(passes, 3)).items()}
    return rows


PARTS: dict[str, Callable[[int], Row]] = {
    "samplers": samplers,
    "vehicle": vehicle,
    "matrix": matrix,
    "accounting": accounting,
}
"""Each takes the number of passes and returns rows for the report."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--passes", type=int, default=9)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    options = parser.parse_args()
    before = os.getloadavg()[0]
    report: Row = {"targets": TARGETS}
    for name in options.only.split(","):
        report[name] = PARTS[name](options.passes)
    report["machine"] = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "cpu": platform.machine(),
        "load_average_before_and_after": [round(before, 2), round(os.getloadavg()[0], 2)],
    }
    if options.json:
        print(json.dumps(report, indent=2))
        return
    for name, row in report.items():
        print(name)
        for key, value in row.items():
            print(f"  {key:<28}", value)


if __name__ == "__main__":
    main()
