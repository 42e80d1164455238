"""Which samples are in which batch."""

from __future__ import annotations

import numpy as np
import pytest

from carpool.client.trainer import TrainSettings, batches


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("n", "settings", "sizes"),
    [
        (10, TrainSettings(epochs=2, batch_size=4), [4, 4, 2, 4, 4, 2]),
        (10, TrainSettings(epochs=2, batch_size=10), [10, 10]),
        (3, TrainSettings(epochs=2, batch_size=32), [3, 3]),
        (10, TrainSettings(steps=5, epochs=99, batch_size=4), [4, 4, 2, 4, 4]),
        (10, TrainSettings(steps=1, batch_size=4), [4]),
        (1, TrainSettings(epochs=3, batch_size=4), [1, 1, 1]),
    ],
)
def test_epochs_are_whole_passes_and_steps_are_counted(n, settings, sizes):
    found = list(batches(n, settings, rng()))
    assert [len(index) for index in found] == sizes
    per_epoch = -(-n // settings.batch_size)
    for e in range(0, len(found), per_epoch):
        epoch = np.concatenate(found[e : e + per_epoch])
        if len(epoch) == n:
            assert sorted(epoch) == list(range(n))


def test_every_epoch_has_a_new_order():
    first, second = batches(64, TrainSettings(epochs=2, batch_size=64), rng())
    assert not np.array_equal(first, second)
