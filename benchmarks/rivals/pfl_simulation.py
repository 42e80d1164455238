"""Apple's pfl (SimulatedBackend, FederatedAveraging), run by the Python of pfl's own environment.

`python pfl_simulation.py FOLDER`, see turns.py. One worker, no postprocessors, no evaluation.
"""

from __future__ import annotations

import sys

from turns import Turns, Work, dump, load  # isort: skip  # sets the number of threads

import torch
from nets import NETS
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn
from torch.nn import functional


class Module(nn.Module):
    def __init__(self, net: nn.Sequential) -> None:
        super().__init__()
        self.net = net

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(self.net(x), y)

    @torch.no_grad()
    def metrics(self, x: Tensor, y: Tensor) -> dict[str, Weighted]:
        return {"loss": Weighted(float(self.loss(x, y)) * len(y), len(y))}


class Wait(TrainingProcessCallback):
    def __init__(self, turns: Turns, net: nn.Module) -> None:
        self.turns, self.net = turns, net

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        return not self.turns.wait(lambda: dump(self.net)), Metrics()


def main() -> None:
    work = Work(sys.argv[1])
    torch.set_num_threads(1)
    net = NETS[work.settings["net"]]()
    load(net, work.start)
    x, y = torch.from_numpy(work.x()), torch.from_numpy(work.y())

    def user(vehicle: int) -> PyTorchTensorDataset:
        rows = work.rows(vehicle)
        return PyTorchTensorDataset((x[rows], y[rows]), user_id=str(vehicle))

    order = (vehicle for round_ in range(1 << 30) for vehicle in work.cohort(round_))
    module = Module(net)
    model = PyTorchModel(
        model=module,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(module.parameters(), lr=1.0),
    )
    never = 1 << 30
    cohort = len(work.cohort(0))
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=never,
            evaluation_frequency=never,
            train_cohort_size=cohort,
            val_cohort_size=None,
        ),
        backend=SimulatedBackend(
            training_data=FederatedDataset(user, lambda: next(order)), val_data=None, postprocessors=[]
        ),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=work.lr, local_batch_size=work.batch
        ),
        callbacks=[Wait(Turns(work.settings["rounds"]), net)],
        send_metrics_to_platform=False,
    )


main()
