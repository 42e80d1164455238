"""Vehicles rendered when they are asked for hold what they hold in a pooled fleet, in little memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from carpool.client.camera import ondemand
from carpool.client.camera.fleetdata import PooledFleet, build_fleet
from carpool.client.camera.ondemand import (
    MANY,
    OnDemandFleet,
    held_back,
    held_drives,
    is_on_demand,
    open_fleet,
    sample_of,
)
from carpool.client.camera.pipeline import Pipeline
from carpool.client.camera.samples import FleetData, Shard
from carpool.client.camera.settings import DataSettings
from carpool.privacy.errors import DataError

SMALL = {"views": ("front",), "width": 16, "height": 8, "drives": 3, "frames": 3, "seed": 5}


def settings_of(tmp_path: Path | None = None, **more: Any) -> DataSettings:
    return DataSettings(**{**SMALL, "cache": tmp_path, **more})


def same(one: Shard, other: Shard) -> bool:
    everything = np.arange(len(one))
    if len(one) != len(other):
        return False
    (a, left), (b, right) = one.batch(everything), other.batch(everything)
    groups = np.array_equal(one.pool.group[one.rows], other.pool.group[other.rows])
    order = np.array_equal(one.pool.order[one.rows], other.pool.order[other.rows])
    return groups and order and np.array_equal(a, b) and all(np.array_equal(left[n], right[n]) for n in left)


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"drives": 2, "holdout": 0.1},
        {"drives": 5, "holdout": 0.5, "frames": 2},
        {"stride": 2},
        {"targets": ("sign",), "pipeline": Pipeline(crop_top=0.25, colour="gray")},
    ],
)
def test_a_vehicle_holds_the_very_samples_of_the_pooled_fleet(tmp_path: Path, more: dict[str, Any]) -> None:
    settings = settings_of(tmp_path, **more)
    pooled, fleet = build_fleet(settings, 5), OnDemandFleet(settings, 5)
    assert fleet.schema == pooled.schema
    assert fleet.sizes.tolist() == pooled.sizes.tolist()
    for vehicle in (4, 0, 2, 1, 3):
        assert same(fleet.training(vehicle), pooled.training(vehicle))
        assert same(fleet.own_validation(vehicle), pooled.own_validation(vehicle))
        assert fleet.domain(vehicle) == pooled.domain(vehicle)
        assert len(fleet.training(vehicle)) == fleet.sizes[vehicle]
    assert same(fleet.validation(), pooled.validation())


def test_it_is_fleet_data_and_the_size_of_the_fleet_changes_no_vehicle() -> None:
    small: FleetData = OnDemandFleet(settings_of(), 10)
    large: FleetData = OnDemandFleet(settings_of(), 20_000)
    assert same(small.training(7), large.training(7))
    assert same(small.own_validation(7), large.own_validation(7))


def test_validation_is_of_evenly_spaced_vehicles_and_the_report_says_so() -> None:
    seen: list[tuple[int, int]] = []
    fleet = OnDemandFleet(settings_of(), 9001, validated=4, progress=lambda *step: seen.append(step))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert fleet.measured == [0, 3000, 6000, 9000]
    shard = fleet.validation()
    assert np.unique(shard.pool.vehicle).tolist() == fleet.measured  # type: ignore[arg-type]
    assert len(shard) == sum(len(fleet.own_validation(vehicle)) for vehicle in fleet.measured)
    trained = {int(g) for v in fleet.measured for g in fleet.training(v).pool.group[fleet.training(v).rows]}
    assert not trained & set(shard.pool.group.tolist())
    assert "Of 9,001 vehicles" in fleet.note
    assert "4 evenly spaced" in fleet.note


def test_what_is_rendered_is_kept_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[int] = []
    real = ondemand.render_vehicle
    monkeypatch.setattr(
        ondemand, "render_vehicle", lambda settings, v: rendered.append(v) or real(settings, v)
    )
    one = 9 * 8 * 16 * 3
    fleet = OnDemandFleet(settings_of(), 6, budget=2 * one)
    for vehicle in (1, 2, 1, 3, 1, 2):
        fleet.training(vehicle)
    assert rendered == [1, 2, 3, 2], "the one asked for longest ago goes first"
    assert sum(pool.frames.nbytes for pool in fleet._pools.values()) == 2 * one == fleet._kept
    tight = OnDemandFleet(settings_of(), 6, budget=0)
    assert same(tight.training(1), fleet.training(1))
    assert len(tight._pools) == 1


@pytest.mark.parametrize(("drives", "holdout"), [(4, 0.2), (2, 0.2), (1, 0.2), (9, 0.01), (7, 0.6), (3, 0.0)])
def test_every_vehicle_holds_back_equally_many_drives(drives: int, holdout: float) -> None:
    settings = settings_of(drives=drives, holdout=holdout)
    held = held_drives(settings, 200)
    assert held.shape == (200, drives)
    assert (held.sum(axis=1) == held_back(settings)).all()
    assert held_back(settings) == 0 or drives == 1 or len(np.unique(held, axis=0)) > 1
    np.testing.assert_array_equal(held_drives(settings, 50), held[:50])


@pytest.mark.slow
def test_a_million_vehicles_cost_a_byte_each() -> None:
    import tracemalloc

    tracemalloc.start()
    fleet = OnDemandFleet(settings_of(), 1_000_000)
    left = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert left < 1.2e6
    assert len(fleet.training(999_999)) == fleet.sizes[999_999]
    assert fleet.sizes.shape == (1_000_000,)


def test_auto_is_on_demand_above_5000_vehicles_only_where_that_means_the_same(tmp_path: Path) -> None:
    assert is_on_demand(settings_of(), MANY + 1)
    assert not is_on_demand(settings_of(), MANY)
    assert is_on_demand(settings_of(on_demand="always"), 1)
    assert not is_on_demand(settings_of(on_demand="never"), 10**6)
    for more in ({"source": "npz"}, {"split": "iid"}, {"pipeline": Pipeline(normalise="federated")}):
        assert not is_on_demand(settings_of(**more), 10**6)
        with pytest.raises(DataError, match=r'data.on_demand is "always", but .*; set it to "never"'):
            is_on_demand(settings_of(on_demand="always", **more), 10)
    assert isinstance(open_fleet(settings_of(on_demand="always"), 3), OnDemandFleet)
    assert isinstance(open_fleet(settings_of(tmp_path), 3), PooledFleet)


def test_what_people_look_at_is_the_beginning_of_the_fleet() -> None:
    settings, vehicles = sample_of(settings_of(), 10**6, 200)
    assert vehicles == 200
    assert not is_on_demand(settings, 10**6)
    assert sample_of(settings_of(), 300, 200) == (settings_of(), 300)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"holdout": 0.0}, "nothing is held back"),
        ({"drives": 1}, "nothing is held back"),
        ({"quantity_skew": 0.5}, "quantity_skew is 0.5"),
        ({"holdout": 1.0}, "holdout is 1.0"),
        ({"stride": 0}, "stride is 0"),
        ({"views": ("frond",)}, "frond"),
    ],
)
def test_settings_without_a_meaning_are_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        OnDemandFleet(settings_of(**more), 10)


@pytest.mark.parametrize("vehicle", [-1, 10])
def test_a_vehicle_that_does_not_exist_is_refused(vehicle: int) -> None:
    with pytest.raises(DataError, match=f"vehicle {vehicle} does not exist; vehicles are 0 to 9"):
        OnDemandFleet(settings_of(), 10).training(vehicle)
