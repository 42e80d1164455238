"""The arithmetic of Carpool's training and nothing else: its own module on ready float tensors.

`python bare_loop.py FOLDER`, see turns.py. Forward, loss, backward and the step on the flat vector, as in
`client/trainer.py`, on one vehicle's batches over and over; no data, messages, server or checks. What the
engine takes beyond this is framework time. Its model is of no use.
"""

from __future__ import annotations

import sys

from turns import Turns, Work  # isort: skip  # sets the number of threads

import torch
from carpool_engine import experiment
from torch.nn import functional

from carpool.client.flat import FlatModel
from carpool.experiments.workshop import Workshop


def main() -> None:
    work = Work(sys.argv[1])
    torch.set_num_threads(1)
    turns = Turns(work.settings["rounds"])
    workshop = Workshop(experiment(work), "benchmark")
    model, shard = workshop.model, workshop.data.training(0)
    pictures, y = model.floats(shard.pool.frames[shard.rows]), torch.from_numpy(work.y()[: work.examples])
    batches = [
        (pictures[at : at + work.batch].clone(), y[at : at + work.batch])
        for at in range(0, work.examples, work.batch)
    ]
    while True:
        for _ in work.cohort(0):
            train(model, work, batches)
        if not turns.wait(model.numpy):
            return


def train(model: FlatModel, work: Work, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """One vehicle's epoch from the first model."""
    model.load(work.start)
    for x, y in batches:
        model.grad.zero_()
        functional.cross_entropy(model.module(x)["label"], y).backward()
        with torch.no_grad():
            model.vector.add_(model.grad, alpha=-work.lr)


main()
