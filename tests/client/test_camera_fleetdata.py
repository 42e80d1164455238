"""A fleet over one pool: who holds what, what is held back, and what the fleet's statistics say."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carpool.client.camera import sources
from carpool.client.camera.fleetdata import PooledFleet, build_fleet
from carpool.client.camera.samples import FleetData, Pool, Schema, Target
from carpool.client.camera.settings import DataSettings, Source
from carpool.client.camera.statistics import describe
from carpool.privacy.errors import DataError

CLASSES = 5


def make(groups: int = 60, frames: int = 6, cars: int | None = None, classes: bool = True) -> Pool:
    """Group g has class g mod 5; with cars it was recorded by car 10 + g mod cars."""
    group = np.repeat(np.arange(groups, dtype=np.int64), frames)
    n = len(group)
    targets = [Target("speed", "value")]
    values: dict[str, Any] = {"speed": np.arange(n, dtype=np.float32)}
    if classes:
        targets.append(Target("sign", "class", classes=tuple("abcde")))
        values["sign"] = group % CLASSES
    pixels = np.zeros((n, 1, 2, 2, 3), np.uint8)
    pixels[:, 0, 0, 0, 0] = np.arange(n) % 256
    return Pool(
        Schema(("front",), 2, 2, tuple(targets)),
        pixels,
        values,
        group,
        np.tile(np.arange(frames, dtype=np.int64), groups),
        None if cars is None else 10 + group % cars,
        {} if cars is None else {10 + car: f"town {car % 2}" for car in range(cars)},
    )


def fleet_of(pool: Pool, vehicles: int, test: Pool | None = None, **more: Any) -> PooledFleet:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sources.SOURCES, "npz", lambda *_: Source(pool, test))
        return build_fleet(DataSettings(source="npz", **more), vehicles)


def rows(fleet: PooledFleet) -> np.ndarray[Any, Any]:
    return np.concatenate([fleet.training(vehicle).rows for vehicle in range(fleet.vehicles)])


@settings(max_examples=16, deadline=None)
@given(
    st.sampled_from(["natural", "dirichlet", "shards", "iid"]),
    st.integers(1, 10),
    st.integers(0, 1000),
    st.sampled_from([0.05, 0.2, 0.6]),
    st.sampled_from([None, 10, 12]),
)
def test_disjoint_complete_and_no_group_straddles(
    split: str, vehicles: int, seed: int, holdout: float, cars: int | None
) -> None:
    pool = make(cars=cars)
    fleet = fleet_of(pool, vehicles, split=split, seed=seed, holdout=holdout)
    trained, held = rows(fleet), fleet.validation().rows
    np.testing.assert_array_equal(np.sort(np.r_[trained, held]), np.arange(len(pool)))
    assert not set(pool.group[trained].tolist()) & set(pool.group[held].tolist())
    assert all(len(fleet.training(vehicle)) for vehicle in range(vehicles))
    again = fleet_of(pool, vehicles, split=split, seed=seed, holdout=holdout)
    for vehicle in range(vehicles):
        np.testing.assert_array_equal(fleet.training(vehicle).rows, again.training(vehicle).rows)


def test_it_is_fleet_data() -> None:
    fleet: FleetData = fleet_of(make(), 4)
    frames, targets = fleet.training(1).batch(np.array([0, 2]))
    assert frames.shape == (2, 1, 2, 2, 3)
    assert set(targets) == {"speed", "sign"}
    assert fleet.training(1).pool is fleet.training(2).pool


def test_natural_with_recorders_keeps_each_to_its_vehicle() -> None:
    pool = make(cars=4)
    assert pool.vehicle is not None
    fleet = fleet_of(pool, 4)
    for vehicle in range(4):
        own = fleet.own_validation(vehicle).rows
        assert set(pool.vehicle[np.r_[fleet.training(vehicle).rows, own]].tolist()) == {10 + vehicle}
        assert len(np.unique(pool.group[own])) == 3  # 0.2 of 15
        assert fleet.domain(vehicle) == f"town {vehicle % 2}"
    assert fleet_of(pool, 2).domain(0) in {"town 0", "town 1", "town 0; town 1", "town 1; town 0"}


def test_a_vehicle_with_one_group_holds_nothing_back() -> None:
    pool = make(groups=5, cars=4)  # car 10 has two groups, the others one
    fleet = fleet_of(pool, 4)
    assert [len(fleet.own_validation(vehicle)) for vehicle in range(4)] == [6, 0, 0, 0]
    assert len(fleet.validation()) == 6


def test_the_official_test_set_is_the_validation() -> None:
    test = make(groups=3)
    fleet = fleet_of(make(), 4, test, holdout=0.0)
    assert fleet.validation().pool is test
    assert len(fleet.validation()) == len(test)
    assert len(rows(fleet)) == 360
    assert len(fleet.own_validation(0)) == 0


@pytest.mark.parametrize("split", ["natural", "iid"])
def test_stride_thins_the_training_frames_only(split: str) -> None:
    pool = make()
    full, thin = fleet_of(pool, 4, split=split), fleet_of(pool, 4, split=split, stride=4)
    np.testing.assert_array_equal(thin.validation().rows, full.validation().rows)
    assert set(pool.order[rows(thin)].tolist()) == {0, 4}
    assert len(rows(thin)) == len(rows(full)) // 3


def test_the_seed_changes_the_deal_and_the_hold_out() -> None:
    one, two = fleet_of(make(), 4), fleet_of(make(), 4, seed=1)
    assert one.training(0).rows.tolist() != two.training(0).rows.tolist()
    assert one.validation().rows.tolist() != two.validation().rows.tolist()


def test_quantity_skew_spreads_the_sizes() -> None:
    for split in ("natural", "dirichlet", "shards", "iid"):
        even, skewed = (
            [len(fleet.training(vehicle)) for vehicle in range(6)]
            for fleet in (
                fleet_of(make(120), 6, split=split),
                fleet_of(make(120), 6, split=split, quantity_skew=1.0),
            )
        )
        assert max(skewed) > 1.8 * min(skewed)
        assert max(even) < 1.3 * min(even)


@pytest.mark.parametrize(
    ("pool", "vehicles", "more", "words"),
    [
        (make(), 0, {}, "fleet.vehicles is 0"),
        (make(), 61, {}, "fleet.vehicles is 61, and the data has 60"),
        (make(cars=4), 5, {}, "fleet.vehicles is 5, and the data has 4"),
        (make(), 1000, {"split": "iid"}, "fleet.vehicles is 1000, and there are 288"),
        (make(), 1000, {"split": "dirichlet"}, "fleet.vehicles is 1000, and there are 288"),
        (make(), 1000, {"split": "shards"}, "data.shards is 2000, and there are 288"),
        (make(classes=False), 4, {"split": "dirichlet"}, 'has only speed; set it to "natural" or "iid"'),
        (make(classes=False), 4, {"split": "shards"}, "needs a target with classes"),
        (make(), 4, {"split": "fair"}, "data.split is 'fair'"),
        (make(), 4, {"holdout": 1.0}, "data.holdout is 1.0"),
        (make(), 4, {"holdout": float("nan")}, "data.holdout is nan"),
        (make(), 4, {"holdout": 0.0}, "nothing is held back"),
        (make(groups=4), 4, {}, "nothing is held back"),
        (make(), 4, {"shards": 0}, "data.shards is 0"),
        (make(), 4, {"stride": 0}, "data.stride is 0"),
        (make(), 4, {"quantity_skew": -1.0}, "data.quantity_skew is -1.0"),
        (make(cars=4), 4, {"quantity_skew": 1.0}, "this data knows who recorded what"),
    ],
)
def test_what_cannot_be_dealt_is_refused(pool: Pool, vehicles: int, more: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        fleet_of(pool, vehicles, **more)


def test_statistics_by_hand() -> None:
    pool = make(groups=4, frames=2, cars=2)  # car 10: groups 0, 2; car 11: groups 1, 3
    fleet = PooledFleet(
        pool,
        (np.array([0, 1, 4]), np.array([2])),
        (np.array([5]), np.zeros(0, np.int64)),
        np.array([5]),
        domains=("town 0", "town 1"),
    )
    numbers = describe(fleet)
    assert numbers["vehicles"] == [
        {
            "vehicle": 0,
            "samples": 3,
            "groups": 2,
            "held_back": 1,
            "classes": [2, 0, 1, 0, 0],
            "domain": "town 0",
        },
        {
            "vehicle": 1,
            "samples": 1,
            "groups": 1,
            "held_back": 0,
            "classes": [0, 1, 0, 0, 0],
            "domain": "town 1",
        },
    ]
    summary = numbers["fleet"]
    assert (summary["samples_min"], summary["samples_median"], summary["samples_max"]) == (1, 2.0, 3)
    assert summary["classes"] == [2, 1, 1, 0, 0]
    assert summary["validation_samples"] == 1
    # fleet 1/2 1/4 1/4; car 0 2/3 0 1/3: distance 1/4; car 1 all on the second: 3/4
    assert summary["label_skew"] == pytest.approx(0.5)
    assert json.loads(json.dumps(numbers)) == numbers


def test_statistics_without_classes() -> None:
    numbers = describe(fleet_of(make(classes=False), 3))
    assert numbers["class_target"] is None
    assert numbers["fleet"]["label_skew"] is None
    assert numbers["fleet"]["classes"] == []


def test_targets_restricted_by_the_settings() -> None:
    fleet = fleet_of(make(), 3, targets=("sign",))
    assert [target.name for target in fleet.schema.targets] == ["sign"]
