"""Where a model looks: grey out one patch after the other and see how much its answer changes.

Occlusion maps, Zeiler & Fergus 2014, arXiv:1311.2901, Section 4.2. A patch that matters alone is found; two
that could stand in for each other are not. It says what the model used, not whether that was sensible.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from carpool.client.camera.samples import Frames, Target
from carpool.client.flat import FlatModel

BATCH = 128
Patch = tuple[int, slice, slice]


def occlusion(model: FlatModel, frame: Frames, target: Target) -> NDArray[np.float32]:
    """How much each place of one sample speaks for the model's answer on `target`.

    frame: uint8 [views, h, w, 3]. Returns float32 [views, h, w], the mean over all patches on that pixel of
    the fall in evidence when the patch takes the mean colour of its view; below 0 where the patch spoke
    against the answer. Evidence is log-odds of the chosen class, or the mean log-odds of the flags as they
    were answered. For a value it is the size of the change, in units of `scale`, never below 0.
    """
    views, height, width, _ = frame.shape
    patches = list(places(views, height, width))
    total = np.zeros((views, height, width), np.float64)
    times = np.zeros((views, height, width), np.float64)
    mean = frame.mean((1, 2)).round().astype(np.uint8)
    model.module.eval()
    with torch.inference_mode():
        answer = model.module(model.floats(frame[None]))[target.name]
        whole = evidence(target, answer, answer)
        for start in range(0, len(patches), BATCH):
            part = patches[start : start + BATCH]
            covered = np.repeat(frame[None], len(part), axis=0)
            for row, (view, rows, columns) in enumerate(part):
                covered[row, view, rows, columns] = mean[view]
            outputs = model.module(model.floats(covered))[target.name]
            falls = (whole - evidence(target, outputs, answer)).cpu().numpy()
            for (view, rows, columns), fall in zip(part, falls, strict=True):
                total[view, rows, columns] += abs(fall) if target.kind == "value" else fall
                times[view, rows, columns] += 1
    return (total / times).astype(np.float32)


def places(views: int, height: int, width: int) -> Iterator[Patch]:
    """Square patches of a quarter of the shorter side, half a patch apart, that cover every view."""
    size = max(2, min(height, width) // 4)
    for view in range(views):
        for top in starts(height, size):
            for left in starts(width, size):
                yield view, slice(top, top + size), slice(left, left + size)


def starts(length: int, size: int) -> list[int]:
    """Where patches of `size` begin on a side of `length` pixels; the last one ends with the picture.

    >>> starts(10, 4)
    [0, 2, 4, 6]
    """
    last = max(0, length - size)
    return [*range(0, last, max(1, size // 2)), last]


def evidence(target: Target, outputs: Tensor, answer: Tensor) -> Tensor:
    """How strongly `outputs` [b, outputs] support what `answer` [1, outputs] says: float32 [b]."""
    if target.kind == "class":
        best = int(answer[0].argmax())
        others = torch.cat([outputs[:, :best], outputs[:, best + 1 :]], 1)
        if others.shape[1] == 0:
            return outputs.new_zeros(len(outputs))
        return outputs[:, best] - torch.logsumexp(others, 1)
    if target.kind == "flags":
        return (outputs * torch.sign(answer)).mean(1)
    return outputs[:, 0]
