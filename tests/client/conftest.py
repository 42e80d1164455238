"""Small camera data for the tests of the vehicle's code: random frames, every kind of target."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from carpool.client.camera.samples import Pool, Schema, Shard, Target

TARGETS = {
    "class": Target("sign", "class", classes=("none", "stop", "yield")),
    "flags": Target("obstacle", "flags", width=2),
    "value": Target("offset", "value", unit="m", scale=2.0),
}


@pytest.fixture
def make_schema() -> Callable[..., Schema]:
    """make_schema(*kinds, views=2, height=8, width=8) with targets of these kinds ("class" by default)."""

    def make(*kinds: str, views: int = 2, height: int = 8, width: int = 8) -> Schema:
        targets = tuple(TARGETS[kind] for kind in kinds or ("class",))
        return Schema(tuple(f"camera{i}" for i in range(views)), height, width, targets)

    return make


@pytest.fixture
def make_shard(make_schema) -> Callable[..., Shard]:
    """make_shard(n, *kinds, seed=0, ...): n random samples; all arguments of make_schema."""

    def make(n: int, *kinds: str, seed: int = 0, **size: int) -> Shard:
        schema = make_schema(*kinds, **size)
        rng = np.random.default_rng(seed)
        draw = {
            "class": lambda: rng.integers(0, 3, n).astype(np.int64),
            "flags": lambda: rng.integers(0, 2, (n, 2)).astype(np.uint8),
            "value": lambda: rng.standard_normal(n).astype(np.float32),
        }
        pool = Pool(
            schema=schema,
            frames=rng.integers(
                0, 256, (n, len(schema.views), schema.height, schema.width, 3), dtype=np.uint8
            ),
            targets={t.name: draw[t.kind]() for t in schema.targets},
            group=np.zeros(n, np.int64),
            order=np.arange(n, dtype=np.int64),
        )
        return Shard(pool, np.arange(n, dtype=np.int64))

    return make
