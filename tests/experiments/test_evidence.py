"""Which samples a report shows."""

from __future__ import annotations

import numpy as np
import pytest

from carpool.client.camera.samples import Pool, Schema, Shard, Target
from carpool.experiments.evidence import FRAMES, pick, spread


def shard(labels: list[int]) -> Shard:
    n = len(labels)
    schema = Schema(("front",), 4, 4, (Target("sign", "class", ("none", "stop", "yield")),))
    numbers = np.arange(n)
    pool = Pool(
        schema, np.zeros((n, 1, 4, 4, 3), np.uint8), {"sign": np.array(labels, np.int64)}, numbers, numbers
    )
    return Shard(pool, numbers)


@pytest.mark.parametrize(("right", "wrong"), [(20, 20), (0, 20), (1, 20), (20, 0), (20, 1), (2, 2), (0, 1)])
def test_right_and_wrong_samples_fill_the_page_where_there_are_enough(right: int, wrong: int) -> None:
    correct = np.array([1] * right + [0] * wrong, np.float32)
    rows = pick(shard([1] * (right + wrong)), correct)
    assert len(rows) == min(FRAMES, right + wrong)
    assert len(set(rows.tolist())) == len(rows)
    if right >= 4 and wrong >= 2:
        assert correct[rows].sum() == 4
    if wrong:
        assert (correct[rows] < 1).any()


def test_samples_that_show_something_come_first() -> None:
    rows = pick(shard([0] * 50 + [1] * 10), np.ones(60, np.float32))
    assert (rows >= 50).all()
    assert len(pick(shard([0] * 50), None)) == FRAMES


def test_spread_is_even_and_never_longer_than_what_there_is() -> None:
    assert spread(np.arange(11), 3).tolist() == [0, 5, 10]
    assert spread(np.arange(2), 3).tolist() == [0, 1]
