"""Carpool's engine `inline`: the rounds of `carpool run`, without evaluation, checkpoints and report.

`python carpool_engine.py FOLDER`, see turns.py. Task and contributions are encoded, checked, spooled and
folded as in any run.
"""

from __future__ import annotations

import sys
from pathlib import Path

from turns import Turns, Work  # isort: skip  # sets the number of threads

import numpy as np

from carpool.client.camera.samples import Pool, Schema, Target
from carpool.client.camera.settings import DataSettings, Source
from carpool.experiments import workshop as workshops
from carpool.experiments.config import Experiment
from carpool.experiments.run import engine
from carpool.experiments.workshop import Workshop
from carpool.server.round import RoundPlan, run_round
from carpool.strategies.contract import Facts

NETS_FILE = Path(__file__).with_name("nets.py")
NO_LEAVING = dict.fromkeys(
    ("before_training", "during_training", "before_upload", "during_upload", "after_upload"), 0.0
)


def source(settings: DataSettings, vehicles: int) -> Source:
    """The data as Carpool takes it: "carpool_engine.py:source", `data.path` is the folder."""
    folder = settings.path
    assert folder is not None
    frames, labels = np.load(folder / "frames.npy", mmap_mode="r"), np.load(folder / "y.npy")
    schema = Schema(
        ("front",),
        frames.shape[2],
        frames.shape[3],
        (Target("label", "class", tuple("0123456789")),),
        settings.pipeline,
    )
    owner = np.repeat(np.arange(vehicles), len(labels) // vehicles)
    order = np.arange(len(labels))
    test = slice(0, 100)  # there must be one; nothing is evaluated here
    return Source(
        Pool(schema, frames, {"label": labels}, owner, order, owner),
        Pool(schema, frames[test], {"label": labels[test]}, owner[test], order[test], owner[test]),
    )


def experiment(work: Work) -> Experiment:
    model = (
        {"name": "mlp", "options": {"hidden": 64, "layers": 1}}
        if work.settings["net"] == "mlp"
        else {"name": f"{NETS_FILE}:for_carpool", "options": {"net": work.settings["net"]}}
    )
    document = {
        "experiment": {"name": "benchmark", "rounds": 1 << 20, "workers": work.settings["workers"]},
        "fleet": {"vehicles": work.vehicles, "leave": NO_LEAVING},
        "data": {
            "source": f"{Path(__file__)}:source",
            "path": str(work.folder),
            "split": "natural",
            "holdout": 0.0,
        },
        "model": model,
        "train": {"batch_size": work.batch, "lr": work.lr, "device": "cpu", **work.settings["train"]},
        "selection": {"cohort": len(work.cohort(0)), "over_select": 0.0, "quorum": 1.0},
    }
    return Experiment.model_validate(document)


def main() -> None:
    work = Work(sys.argv[1])
    turns = Turns(work.settings["rounds"])
    workshop = Workshop(experiment(work), "benchmark")
    workshop.settle()
    print("batching:", workshop.batching, file=sys.stderr)
    workshops.remember(work.folder, workshop)
    strategy = workshop.strategy
    state, round_ = strategy.init(work.start, Facts(0, 0, work.vehicles, len(work.cohort(0)))), 0
    with engine(work.folder, workshop, 0.0) as grid:
        while True:
            asked = np.sort(np.array(work.cohort(round_), np.int64)) + 1
            facts = Facts(round_ + 1, round_, work.vehicles, len(asked))
            plan = RoundPlan("benchmark", facts, asked, workshop.plan.policy, folder=work.folder)
            state, outcome = run_round(strategy, state, plan, grid, grid.clock)
            assert outcome.replied == len(asked), outcome
            grid.forget(round_ + 1)
            round_ += 1
            now = strategy.model(state)
            if not turns.wait(lambda now=now: now):
                break
    workshop.close()


if __name__ == "__main__":
    main()
