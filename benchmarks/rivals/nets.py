"""The networks of benchmarks/simulation.py, written once, as most people do, and used by every engine.

    mlp    63-64-10: the 63 numbers of a 3x7 picture of three colours
    cnn    3x32x32, three times (convolution 3x3, ReLU, max-pool), one hidden layer

Only torch is imported here: pfl has an environment of its own. `for_carpool` is the same network as a
Carpool model ("model.name = nets.py:for_carpool"): frames [b, 1, 3, h, w] -> {"label": [b, 10]}.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

CLASSES = 10


def mlp(hidden: int = 64) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(63, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))


def cnn(channels: Sequence[int], hidden: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    before = 3
    for width in channels:
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        before = width
    features = before * (32 >> len(channels)) ** 2
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES)
    )


NETS = {
    "mlp": lambda: mlp(),
    "cnn": lambda: cnn((32, 64, 64), 108),
    "large": lambda: cnn((64, 128, 256), 300),
}
"""4,746, 168,110 and 1,602,982 parameters."""


class Model(nn.Module):
    def __init__(self, net: nn.Sequential) -> None:
        super().__init__()
        self.net = net

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        return {"label": self.net(frames[:, 0])}


def for_carpool(schema: object, net: str = "cnn") -> nn.Module:
    return Model(NETS[net]())
