"""Which way of training is quicker on this machine for this model: stacked, or one vehicle after another.

Stacking wins by an order of magnitude where a model is so small that it is all overhead, and loses on most
convolutions. So both are tried for a moment on made-up pictures, in turn, and the quicker one is taken. The
answer is kept in the user's cache folder; an experiment records it, so that a resumed run takes the same
path.
"""

from __future__ import annotations

import hashlib
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import platformdirs
import torch

from carpool.client.camera.samples import Pool, Schema, Shard
from carpool.client.flat import FlatModel
from carpool.client.stacked import stack
from carpool.client.stacked_trainer import StackedTrainer
from carpool.client.trainer import LocalTrainer, TrainSettings
from carpool.privacy.errors import RunError
from carpool.privacy.storage import write_text

Batching = Literal["stacked", "sequential"]
VERSION = 2
VEHICLES = 4
PASSES = 3
CLEAR = 1.3
"""A ratio of the two paths beyond which one pass is enough: the trial must stay short."""
TRAINERS: dict[Batching, type[LocalTrainer]] = {"sequential": LocalTrainer, "stacked": StackedTrainer}


def made_up(schema: Schema, samples: int) -> Pool:
    """A pool of noise with valid targets, for timing only."""
    rng = np.random.default_rng(0)
    shape = (samples, len(schema.views), schema.height, schema.width, 3)
    targets = {}
    for target in schema.targets:
        if target.kind == "class":
            targets[target.name] = rng.integers(0, len(target.classes), samples)
        elif target.kind == "flags":
            targets[target.name] = rng.integers(0, 2, (samples, target.width)).astype(np.uint8)
        else:
            targets[target.name] = rng.normal(size=samples).astype(np.float32)
    numbers = np.arange(samples)
    return Pool(schema, rng.integers(0, 256, shape, dtype=np.uint8), targets, numbers, numbers)


def trial(model: FlatModel, schema: Schema, settings: TrainSettings) -> dict[Batching, float]:
    """CPU seconds a vehicle of both paths: medians of a few interleaved passes of one batch each."""
    size = settings.batch_size
    pool = made_up(schema, size * VEHICLES)
    shards = [Shard(pool, np.arange(k * size, (k + 1) * size)) for k in range(VEHICLES)]
    short = TrainSettings(
        steps=1,
        batch_size=size,
        lr=1e-6,
        momentum=settings.momentum,
        clip_grad=settings.clip_grad,
        precision=settings.precision,
    )
    start = model.vector.detach().clone()
    seconds: dict[Batching, list[float]] = {"sequential": [], "stacked": []}
    for _ in range(PASSES + 1):
        for path, kind in TRAINERS.items():
            began = time.process_time()
            rngs = [np.random.default_rng(k) for k in range(VEHICLES)]
            kind(model, shards, short, rngs, strict=False).train(start)
            seconds[path].append((time.process_time() - began) / VEHICLES)
        one, other = sorted(found[-1] for found in seconds.values())
        if len(seconds["stacked"]) > 1 and other > CLEAR * one:
            break
    model.load(start)
    return {path: statistics.median(found[1:]) for path, found in seconds.items()}  # the first warms up


def choose(
    model: FlatModel,
    schema: Schema,
    settings: TrainSettings,
    *,
    cache: Path | None = None,
    measure: Callable[[FlatModel, Schema, TrainSettings], dict[Batching, float]] = trial,
) -> Batching:
    """The quicker path for this model, batch size and machine; from the cache if it was tried before.

    cache: folder of the answers, by default the user's cache folder; where it cannot be written, the trial is
    made anew each time.
    """
    if stack(model.module) is None:
        return "sequential"
    facts = {
        "version": VERSION,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "model": f"{type(model.module).__name__} {model.layout.names} {model.layout.shapes}",
        "pictures": [len(schema.views), schema.height, schema.width],
        "batch": settings.batch_size,
        "precision": settings.precision,
        "device": str(model.device),
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    path = (cache or platformdirs.user_cache_path("carpool")) / "paths" / f"{key}.json"
    try:
        known = json.loads(path.read_text())["path"]
        if known in TRAINERS:
            return "stacked" if known == "stacked" else "sequential"
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not tried yet, or unreadable: try
    seconds = measure(model, schema, settings)
    best: Batching = "stacked" if seconds["stacked"] < seconds["sequential"] else "sequential"
    try:
        write_text(path, json.dumps({"path": best, "seconds": seconds, "facts": facts}, indent=1))
    except RunError:
        return best
    return best
