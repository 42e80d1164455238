"""Flower's simulation engine on Ray: a ServerApp and a ClientApp, messages of one ArrayRecord.

`python flower_simulation.py FOLDER`, see turns.py. One vehicle a SuperNode, one core a worker.
"""

from __future__ import annotations

import os
import sys

from turns import Turns, Work, dump, load  # isort: skip  # sets the number of threads

os.environ.update(
    FLWR_TELEMETRY_ENABLED="0",
    FLWR_DISABLE_UPDATE_CHECK="1",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_worker_niceness="0",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
)

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation
from nets import NETS
from torch.nn import functional


def make_client(folder: str) -> ClientApp:
    app = ClientApp()
    kept: dict[str, object] = {}  # in a worker: opened at the first message

    def opened() -> tuple[object, ...]:
        if not kept:
            torch.set_num_threads(1)
            work = Work(folder)
            kept["all"] = (
                work,
                NETS[work.settings["net"]](),
                torch.from_numpy(work.x()),
                torch.from_numpy(work.y()),
            )
        return kept["all"]  # type: ignore[return-value]

    @app.train()
    def train(message: Message, context: Context) -> Message:
        work, module, x, y = opened()
        load(module, message.content["model"].to_numpy_ndarrays()[0])
        rows = work.rows(int(context.node_config["partition-id"]))
        mine_x, mine_y = x[rows], y[rows]
        optimizer = torch.optim.SGD(module.parameters(), lr=work.lr)
        for index in torch.randperm(work.examples).split(work.batch):
            optimizer.zero_grad()
            functional.cross_entropy(module(mine_x[index]), mine_y[index]).backward()
            optimizer.step()
        return Message(RecordDict({"model": ArrayRecord([dump(module)])}), reply_to=message)

    return app


def main() -> None:
    work = Work(sys.argv[1])
    turns = Turns(work.settings["rounds"])
    server = ServerApp()

    @server.main()
    def serve(grid: Grid, context: Context) -> None:
        nodes: list[int] = []
        while len(nodes) < work.vehicles:
            nodes = sorted(grid.get_node_ids())
        model, round_ = work.start, 0
        while True:
            record = ArrayRecord([model])
            cohort = [nodes[vehicle] for vehicle in work.cohort(round_)]
            messages = [Message(RecordDict({"model": record}), node, "train") for node in cohort]
            total = np.zeros_like(model)
            replies = list(grid.send_and_receive(messages))
            assert len(replies) == len(cohort), f"{len(replies)} replies of {len(cohort)}"
            for reply in replies:
                assert reply.has_content(), reply.error
                total += reply.content["model"].to_numpy_ndarrays()[0]
            model = total / len(cohort)
            round_ += 1
            result = model
            if not turns.wait(lambda result=result: result):
                return

    run_simulation(
        server,
        make_client(sys.argv[1]),
        work.vehicles,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )


main()
