"""What a large registered fleet costs: memory a vehicle, choosing a cohort, and a whole round.

    python benchmarks/fleet.py [--json] [--small 1000] [--large 1000000] [--passes 5]

    bytes      memory that the simulated fleet keeps a vehicle, and the most it took while it was made:
               availability, speeds, samples a vehicle and which drives are held back (tracemalloc)
    select     CPU milliseconds from "who is there?" to the sorted ids of a cohort of 100
    round      CPU milliseconds of a round: choose, ask, train 100 vehicles, fold, step. The vehicles train
               for real (cnn-small on 16 frames of 32x24); their frames are rendered before, and are the same
               for both fleets, so that the rounds differ by the size of the fleet alone

Rounds of the two fleets are interleaved; medians of CPU time. `markov` is the fleet that comes and goes by a
day curve: its selection is measured with the day at hand, and making a day (once in 24 virtual hours) beside.
Targets: 64 bytes a vehicle, 50 ms to select, and a round at most 1.3 times as long.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

import numpy as np  # noqa: E402  # after the thread limits
import torch  # noqa: E402
from flwr.app import ConfigRecord, Context, Message, RecordDict  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402

from carpool.client.camera.ondemand import OnDemandFleet  # noqa: E402
from carpool.client.camera.settings import DataSettings  # noqa: E402
from carpool.client.flat import FlatModel  # noqa: E402
from carpool.client.models import build as build_model  # noqa: E402
from carpool.client.step import Vehicle, contribute  # noqa: E402
from carpool.client.trainer import TrainSettings  # noqa: E402
from carpool.experiments.availability import Availability, Leave, build  # noqa: E402
from carpool.experiments.inline import RUN_ID, InlineGrid, VirtualClock, node_of  # noqa: E402
from carpool.experiments.pace import Pace  # noqa: E402
from carpool.privacy.wire import RECORD, decode_task, encode  # noqa: E402
from carpool.server.round import RoundPlan, run_round, wire_of  # noqa: E402
from carpool.server.training import Plan, choose  # noqa: E402
from carpool.strategies.catalogue import build as build_strategy  # noqa: E402
from carpool.strategies.contract import Facts  # noqa: E402
from carpool.strategies.deadline import Policy  # noqa: E402

COHORT = 100
TARGETS = {"bytes": 64.0, "select_ms": 50.0, "round": 1.3}
RENDERED = 20
DATA = DataSettings(views=("front",), targets=("sign",), width=32, height=24, drives=2, frames=16, seed=1)


class World:
    """A fleet of so many vehicles; `kept` and `peak`: bytes a vehicle."""

    def __init__(self, kind: str, vehicles: int, frames: OnDemandFleet) -> None:
        tracemalloc.start()
        self.availability: Availability = build(kind, vehicles=vehicles, seed=1, leave=Leave())
        self.availability.present_ids(0.0)
        self.pace = Pace(vehicles, 1)
        self.data = OnDemandFleet(DATA, vehicles)
        self.work = self.data.sizes * 1
        kept, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        self.kept, self.peak = round(kept / vehicles, 1), round(peak / vehicles, 1)
        policy = Policy(cohort=COHORT, quorum=0.5, min_s=1e5, max_s=1e5)
        self.plan = Plan("r" * 32, 1, 1000, vehicles, COHORT, 0.0, policy)
        self.grid = InlineGrid(
            app_of(frames), self.availability, self.pace, self.work, VirtualClock(), self.context
        )
        self.round = 0

    @staticmethod
    def context(index: int) -> Context:
        return Context(RUN_ID, node_of(index), {"partition-id": index}, RecordDict(), {})

    def select(self) -> Any:
        self.round += 1
        return choose(self.plan, self.round, self.grid, self.grid.clock)

    def play(self) -> None:
        strategy = build_strategy("fedavg", {})
        facts = Facts(1, 0, self.plan.population, COHORT)
        state = strategy.init(model_of().numpy(), facts)
        plan = RoundPlan(self.plan.run, facts, self.select(), self.plan.policy)
        _, outcome = run_round(strategy, state, plan, self.grid, self.grid.clock)
        assert outcome.replied == COHORT
        self.grid.forget(1)


def model_of() -> FlatModel:
    return FlatModel(build_model("cnn-small", OnDemandFleet(DATA, 2).schema, {}, 1), buffers="refuse")


def app_of(frames: OnDemandFleet) -> ClientApp:
    """Vehicle i trains on the frames of vehicle i mod RENDERED."""
    app, model, strategy = ClientApp(), model_of(), build_strategy("fedavg", {})
    settings = TrainSettings(batch_size=8, lr=0.05)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        index = int(context.node_config["partition-id"])
        vehicle = Vehicle(context.node_id, index, frames.training(index % RENDERED))
        [done] = contribute(
            decode_task(wire_of(message)),
            [vehicle],
            model=model,
            strategy=strategy,
            settings=settings,
            lr=0.05,
            seed=1,
        )
        return Message(RecordDict({RECORD: ConfigRecord({RECORD: encode(done)})}), reply_to=message)

    return app


def milliseconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return (time.process_time() - began) * 1e3


def measure(sizes: tuple[int, int], passes: int) -> dict[str, Any]:
    """The figures of both fleets, and how much longer the large one's rounds are."""
    frames = OnDemandFleet(DATA, RENDERED)
    worlds = [World("bernoulli", size, frames) for size in sizes]
    for world in worlds:
        world.play()
    selects: list[list[float]] = [[], []]
    rounds: list[list[float]] = [[], []]
    for _ in range(passes):
        for i, world in enumerate(worlds):
            selects[i].append(milliseconds(world.select))
            rounds[i].append(milliseconds(world.play))
    rows = [
        {
            "fleet": "bernoulli",
            "vehicles": size,
            "bytes": world.kept,
            "bytes_at_most": world.peak,
            "select_ms": round(statistics.median(selects[i]), 3),
            "round_ms": round(statistics.median(rounds[i]), 1),
        }
        for i, (size, world) in enumerate(zip(sizes, worlds, strict=True))
    ]
    ratio = statistics.median(large / small for small, large in zip(*rounds, strict=True))
    return {"rows": [*rows, markov(sizes[1], frames, passes)], "round_grows_by": round(ratio, 3)}


def markov(size: int, frames: OnDemandFleet, passes: int) -> dict[str, Any]:
    world = World("markov", size, frames)
    select = statistics.median(milliseconds(world.select) for _ in range(passes))
    day = milliseconds(lambda: world.availability.present_ids(90_000.0))
    return {
        "fleet": "markov",
        "vehicles": size,
        "bytes": world.kept,
        "bytes_at_most": world.peak,
        "select_ms": round(select, 3),
        "new_day_ms": round(day, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--small", type=int, default=1000)
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--passes", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    before = os.getloadavg()[0]
    found = measure((options.small, options.large), options.passes)
    load = [round(before, 2), round(os.getloadavg()[0], 2)]
    if options.json:
        machine = {"python": platform.python_version(), "numpy": np.__version__, "cpu": platform.machine()}
        machine["load_average_before_and_after"] = load
        print(json.dumps({"targets": TARGETS, "machine": machine, **found}, indent=2))
        return
    head = ("fleet", "vehicles", "bytes", "at most", "select ms", "round ms")
    print(*(f"{word:>10}" for word in head))
    for row in found["rows"]:
        print(*(f"{cell:>10}" for cell in list(row.values())[:5]), f"{row.get('round_ms', '-'):>10}")
    print(f"a round of the large fleet is {found['round_grows_by']} times as long as one of the small fleet")
    print(f"a new day of the markov fleet: {found['rows'][-1]['new_day_ms']} ms")
    print("targets:", TARGETS, " load average before and after:", *load)


if __name__ == "__main__":
    main()
