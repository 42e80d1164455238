"""What a model says about pictures, in words: the class with its probability, the flags, the value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from carpool.client.camera.samples import Frames, Target
from carpool.client.flat import FlatModel


@dataclass(frozen=True)
class Prediction:
    """One target of one sample.

    text: for people; value: class name, list of flags, or number in the target's unit;
    probability: of the class, or of each flag; None for a value.
    """

    text: str
    value: str | list[bool] | float
    probability: float | list[float] | None


def predict(
    model: FlatModel, frames: Frames, targets: tuple[Target, ...], views: tuple[str, ...]
) -> list[dict[str, Prediction]]:
    """One {target: prediction} a sample of uint8 [n, views, h, w, 3]."""
    model.module.eval()
    with torch.inference_mode():
        outputs = {k: v.cpu().numpy() for k, v in model.module(model.floats(frames)).items()}
    return [
        {target.name: _read(target, outputs[target.name][row], views) for target in targets}
        for row in range(len(frames))
    ]


def truths(
    columns: Mapping[str, NDArray[np.generic]], targets: tuple[Target, ...], views: tuple[str, ...], row: int
) -> dict[str, str]:
    """The true values of one sample in the words that predictions use."""
    words = {}
    for target in targets:
        value = columns[target.name][row]
        if target.kind == "class":
            words[target.name] = target.classes[int(value)]
        elif target.kind == "flags":
            words[target.name] = _flags(np.asarray(value, np.float32) > 0, views)
        else:
            words[target.name] = _number(float(value), target)
    return words


def _read(target: Target, output: NDArray[np.float32], views: tuple[str, ...]) -> Prediction:
    if target.kind == "class":
        shifted = np.exp(output - output.max())
        shares = shifted / shifted.sum()
        best = int(shares.argmax())
        name, share = target.classes[best], float(shares[best])
        return Prediction(f"{name} ({share:.0%})", name, share)
    if target.kind == "flags":
        raised = output > 0
        # The logistic function by tanh, which cannot overflow.
        probability = [float(p) for p in 0.5 + 0.5 * np.tanh(0.5 * output.astype(np.float64))]
        return Prediction(_flags(raised, views), [bool(flag) for flag in raised], probability)
    value = float(output[0]) * target.scale
    return Prediction(_number(value, target), value, None)


def _flags(raised: NDArray[np.bool_], views: tuple[str, ...]) -> str:
    names = views if len(views) == len(raised) else tuple(str(i) for i in range(len(raised)))
    return ", ".join(name for name, flag in zip(names, raised, strict=True) if flag) or "none"


def _number(value: float, target: Target) -> str:
    return f"{value:.3g} {target.unit}".strip()
