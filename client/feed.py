"""What a vehicle's training is fed with: batches as the model takes them, and the seed of what it draws.

Several batches are made ready at once: a small one is all overhead.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from weakref import ReferenceType, ref

import numpy as np
import torch
from torch import Tensor

from carpool.client.augment import Augmentation, augment
from carpool.client.camera.pipeline import Pipeline
from carpool.client.camera.samples import Pool, Rows, Shard
from carpool.client.flat import FlatModel
from carpool.client.losses import to_tensors
from carpool.privacy.spans import timed

Batch = tuple[Tensor, dict[str, Tensor]]
"""Pictures [b, views, 3, h, w], and the truth by target."""
SOME = 1 << 12
"""Samples of a pool that are made floats at once."""
AHEAD = 1 << 20
"""Most numbers of pictures that are made ready at once, beyond a batch: 4 MB."""


def feed(
    model: FlatModel,
    shard: Shard,
    indices: Iterator[Rows],
    rng: np.random.Generator,
    *,
    kind: Augmentation = "none",
    dtype: torch.dtype = torch.float32,
) -> Iterator[Batch]:
    """The batches at `indices`, in their order; dtype: of the pictures; kind: of augmentation, from `rng`."""
    numbers, widest = math.prod(shard.pool.frames.shape[1:]), 1
    for first in indices:
        # To augment draws from the generator, as the order of the samples does: batch by batch.
        widest = max(widest, len(first))
        more = AHEAD // (numbers * widest) - 1 if kind == "none" else 0
        some = [first, *islice(indices, max(0, more))]
        pictures, truth = ready(model, shard, np.concatenate(some), rng, kind, dtype)
        sizes = [len(index) for index in some]
        columns = {name: torch.split(column, sizes) for name, column in truth.items()}
        for at, part in enumerate(torch.split(pictures, sizes)):
            yield part, {name: column[at] for name, column in columns.items()}


@timed("data")
def ready(
    model: FlatModel,
    shard: Shard,
    index: Rows,
    rng: np.random.Generator,
    kind: Augmentation,
    dtype: torch.dtype,
) -> Batch:
    """The samples at positions `index` of the shard."""
    frames, targets = shard.batch(index)
    pictures = model.floats(augment(frames, kind, rng)).to(dtype)
    return pictures, to_tensors(targets, shard.pool.schema, model.device)


_flat: tuple[ReferenceType[Pool], Pipeline, Tensor] | None = None


def flat_floats(model: FlatModel, pool: Pool, most: int) -> Tensor | None:
    """All pictures of a pool as the model takes them, float32 [N, numbers]; None where that is over `most`.

    Made once for the pool that was asked for last: for a network of a few thousand weights, to make the same
    pictures floats in every round is a tenth of its training.
    """
    global _flat
    if pool.frames.size > most:
        return None
    if (
        _flat is None
        or _flat[0]() is not pool
        or _flat[1] != model.pipeline
        or _flat[2].device != model.device
    ):
        starts = range(0, len(pool), SOME)
        found = [model.floats(np.array(pool.frames[at : at + SOME])).flatten(1) for at in starts]
        _flat = ref(pool), model.pipeline, torch.cat(found)
    return _flat[2]


def dropout_seed(rng: np.random.Generator) -> int:
    """Seed of what a user's model draws from torch (dropout), fixed by the vehicle's generator unmoved."""
    return int(rng.bit_generator.seed_seq.generate_state(1)[0])


def seed_torch(seed: int, device: torch.device) -> None:
    """`torch.manual_seed` for one device: that takes 0.5 ms, to tell absent GPUs too."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
