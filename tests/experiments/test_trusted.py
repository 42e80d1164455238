"""The server's own update: from its few trusted samples, as a vehicle would train; its seed fixes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from carpool.client.camera.fleetdata import PooledFleet
from carpool.experiments.load import load_experiment
from carpool.experiments.trusted import root_shard, root_update
from carpool.experiments.workshop import Workshop

Write = Callable[..., Path]


def workshop(tiny: Write, *sets: str) -> Workshop:
    return Workshop(load_experiment(tiny(), ("strategy.name=fltrust", *sets)), "r")


def test_the_samples_are_drawn_once_from_what_vehicles_train_on(tiny: Write) -> None:
    one = workshop(tiny, "strategy.root_samples=20")
    shard = root_shard(one)
    assert isinstance(one.data, PooledFleet)
    trained = np.concatenate(one.data.rows)
    assert len(shard.rows) == len(set(shard.rows.tolist())) == 20
    assert set(shard.rows.tolist()) <= set(trained.tolist())
    assert not set(shard.rows.tolist()) & set(one.data.held.tolist()), "never what is evaluated on"
    again = root_shard(workshop(tiny, "strategy.root_samples=20"))
    assert again.rows.tolist() == shard.rows.tolist()
    other = root_shard(workshop(tiny, "strategy.root_samples=20", "experiment.seed=4"))
    assert other.rows.tolist() != shard.rows.tolist()


def test_no_more_samples_than_there_are(tiny: Write) -> None:
    one = workshop(tiny, "strategy.root_samples=100000")
    assert isinstance(one.data, PooledFleet)
    assert len(root_shard(one).rows) == sum(map(len, one.data.rows))


@pytest.mark.slow
def test_a_fleet_made_on_demand_lends_the_samples_of_one_vehicle(tiny: Write) -> None:
    file = tiny()
    sets = (
        "strategy.name=fltrust",
        "strategy.root_samples=5",
        "data.source=procedural",
        "data.on_demand=always",
        "data.width=16",
        "data.height=12",
        "data.frames=4",
        "data.holdout=0.5",
        'data.targets=["sign"]',
    )
    one = Workshop(load_experiment(file, sets), "r")
    assert not isinstance(one.data, PooledFleet)
    shard = root_shard(one)
    assert 0 < len(shard.rows) <= 5
    assert root_shard(one).rows.tolist() == shard.rows.tolist()


def test_the_update_is_what_training_changes_and_follows_the_round(tiny: Write) -> None:
    one = workshop(tiny)
    model = one.initial.copy()
    first, same, later = (root_update(one, model, round_) for round_ in (1, 1, 2))
    assert first.dtype == np.float32
    assert first.shape == (one.sharing.size,)
    assert first.flags.c_contiguous
    assert np.isfinite(first).all()
    assert np.linalg.norm(first) > 0
    assert first.tobytes() == same.tobytes()
    assert first.tobytes() != later.tobytes(), "batches are drawn anew each round"
    assert model.tobytes() == one.initial.tobytes(), "the model stays as it was"


def test_the_update_goes_downhill_on_the_trusted_samples(tiny: Write) -> None:
    one = workshop(tiny, "strategy.root_samples=40", "train.epochs=3")
    shard, model = root_shard(one), one.initial
    before = one.evaluate(model, shard).loss
    after = one.evaluate(model + root_update(one, model, 1), shard).loss
    assert after < 0.9 * before


def test_the_update_follows_the_schedule_of_the_step_size(tiny: Write) -> None:
    sets = ("train.lr_schedule=cosine", "train.lr_final=0.01")
    plain, falling = workshop(tiny), workshop(tiny, *sets)
    last = [np.linalg.norm(root_update(one, one.initial, 6)) for one in (plain, falling)]
    assert last[1] < 0.5 * last[0]
