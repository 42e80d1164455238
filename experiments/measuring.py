"""Measuring a model on validation samples: by the worker processes where there are any.

A part is a batch. Parts depend on the samples alone and are added up in their order, so the figures do not
depend on the number of workers, bit for bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from carpool.client.camera.samples import Shard
from carpool.client.evaluate import Metrics, Part, evaluate, joined, measured, parts
from carpool.client.flat import FlatModel
from carpool.privacy.vectors import Vector

if TYPE_CHECKING:
    from carpool.experiments.workers import WorkerPool
    from carpool.experiments.workshop import Workshop

SHARES = 4
"""Units of work a worker, so that all end at about the same time."""


class Batches(NamedTuple):
    """Some of the batches of the validation samples, from `start` to before `stop`."""

    start: int
    stop: int


class Measure:
    """Measures models on shards; on the validation shard the last model is not measured twice."""

    def __init__(self, model: FlatModel) -> None:
        self._model = model
        self._last: tuple[Shard, Vector, Metrics] | None = None

    def __call__(self, vector: Vector, shard: Shard, pool: WorkerPool | None = None) -> Metrics:
        """Figures of the model float32 [d], which is loaded then; pool: workers that hold this very shard."""
        self._model.load(vector)
        if self._last is not None and self._last[0] is shard and np.array_equal(self._last[1], vector):
            return self._last[2]
        batches = parts(len(shard))
        if pool is None or batches < 2:
            found = evaluate(self._model, shard)
        else:
            size = -(-batches // (SHARES * pool.count))
            units = [Batches(at, min(at + size, batches)) for at in range(0, batches, size)]
            done = pool.train(np.ascontiguousarray(vector, np.float32).tobytes(), units)
            found = joined(shard, [part for unit in done for part in unit])
        self._last = shard, vector.copy(), found
        return found


def measure_parts(workshop: Workshop, wire: bytes, batches: Batches) -> list[Part]:
    """In a worker: these batches of the validation shard, by the model float32 [d] in `wire`."""
    workshop.model.load(np.frombuffer(wire, np.float32))
    shard = workshop.data.validation()
    return [measured(workshop.model, shard, place) for place in range(batches.start, batches.stop)]
