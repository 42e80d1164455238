"""One vehicle after another in plain PyTorch: what a newcomer writes, without any framework.

`python plain_torch.py FOLDER`, see turns.py.
"""

from __future__ import annotations

import sys

from turns import Turns, Work, dump, load  # isort: skip  # sets the number of threads

import numpy as np
import torch
from nets import NETS
from torch.nn import functional


def main() -> None:
    work = Work(sys.argv[1])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = NETS[work.settings["net"]]()
    load(module, work.start)
    x, y = torch.from_numpy(work.x()), torch.from_numpy(work.y())
    turns, server, round_ = Turns(work.settings["rounds"]), work.start.copy(), 0
    while True:
        total = np.zeros_like(server)
        for vehicle in work.cohort(round_):
            load(module, server)
            optimizer = torch.optim.SGD(module.parameters(), lr=work.lr)
            mine_x, mine_y = x[work.rows(vehicle)], y[work.rows(vehicle)]
            for index in torch.randperm(work.examples).split(work.batch):
                optimizer.zero_grad()
                functional.cross_entropy(module(mine_x[index]), mine_y[index]).backward()
                optimizer.step()
            total += dump(module)
        server = total / len(work.cohort(round_))
        round_ += 1
        result = server
        if not turns.wait(lambda result=result: result):
            return


main()
