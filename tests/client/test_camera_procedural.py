from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from carpool.client.camera import procedural, render_quads, render_things
from carpool.client.camera.domains import COUNTRIES, SETTINGS, SIGNS, Domain, draw_domain
from carpool.client.camera.procedural import load, record, render_moment, render_vehicle, schema
from carpool.client.camera.render import OBSTACLE_SHARE, VehicleRenderer
from carpool.client.camera.render_camera import camera
from carpool.client.camera.render_light import make_light
from carpool.client.camera.render_walls import hit, make_walls
from carpool.client.camera.scene import Conditions, Drive, Users, draw_drive, sign_range
from carpool.client.camera.settings import VIEWS, DataSettings
from carpool.privacy.errors import DataError

SMALL = DataSettings(drives=2, frames=3, seed=5, views=("front", "rear"), width=64, height=48)


def noon(drive: Drive, **changes: object) -> Drive:
    """The same drive on a clear day."""
    clear = Conditions("day", "clear", haze=0.002, rain=0.0, sun=1.0, brightness=1.0)
    return replace(drive, conditions=replace(clear, **changes))  # type: ignore[arg-type]


def quiet(domain: Domain) -> Domain:
    return replace(domain, noise=0.0, vignette=0.0, sensor=(1.0, 1.0, 1.0))


def picture(drive: Drive, domain: Domain, view: str = "front", seed: int = 5) -> np.ndarray:
    out = np.empty((len(drive.travelled), 48, 64, 3), np.uint8)
    VehicleRenderer(domain, seed, 0, 64, 48).render(drive, 0, view, out)
    return out


def without_users(drive: Drive) -> Drive:
    none = Users(np.zeros(0, np.int64), np.zeros((len(drive.travelled), 0), np.float32),
                 np.zeros((len(drive.travelled), 0), np.float32), np.zeros(0, bool),
                 np.zeros((0, 3), np.float32))  # fmt: skip
    return replace(drive, users=none)


@pytest.mark.slow
def test_same_seed_same_bytes_and_another_seed_other_pictures() -> None:
    first, again = record(SMALL, 1), record(SMALL, 1)
    assert first.frames.tobytes() == again.frames.tobytes()
    assert all(np.array_equal(first.columns[name], again.columns[name]) for name in first.columns)
    assert not np.array_equal(first.frames, record(replace(SMALL, seed=6), 1).frames)
    assert not np.array_equal(first.frames, record(SMALL, 2).frames)


def test_a_vehicle_does_not_depend_on_the_fleet(tmp_path: Path) -> None:
    settings = replace(SMALL, cache=tmp_path)
    fleet, alone = load(settings, 3).train, render_vehicle(settings, 1)
    rows = np.nonzero(fleet.vehicle == 1)[0]
    assert np.array_equal(fleet.frames[rows], alone.frames)
    assert np.array_equal(fleet.group[rows], alone.group)
    assert np.array_equal(fleet.order[rows], alone.order)
    assert fleet.domain[1] == alone.domain[1]
    for name, column in alone.targets.items():
        assert np.array_equal(fleet.targets[name][rows], column)


def test_one_moment_is_that_of_the_whole_recording() -> None:
    whole, drive = record(SMALL, 1), SMALL.drives - 1
    found = render_moment(SMALL, 1, drive, 1)
    assert np.array_equal(found, whole.frames[drive * SMALL.frames + 1])


def test_a_view_does_not_depend_on_the_other_views() -> None:
    both, rear = record(SMALL, 0), record(replace(SMALL, views=("rear",)), 0)
    assert np.array_equal(both.frames[:, 1:], rear.frames)
    assert np.array_equal(both.columns["obstacle"][:, 1:], rear.columns["obstacle"])
    turned = record(replace(SMALL, views=("rear", "front")), 0)
    assert np.array_equal(both.frames[:, ::-1], turned.frames)


def test_pool_is_laid_out_by_vehicle_drive_and_time(tmp_path: Path) -> None:
    pool = load(replace(SMALL, cache=tmp_path), 2).train
    assert pool.vehicle is not None
    assert pool.vehicle.tolist() == [0] * 6 + [1] * 6
    assert pool.group.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert pool.order.tolist() == [0, 1, 2] * 4
    assert [t.name for t in pool.schema.targets] == ["sign", "obstacle", "curvature", "offset"]
    assert pool.schema.target("obstacle").width == 2


def test_defaults_and_chosen_targets() -> None:
    plan = schema(DataSettings(targets=("offset", "sign")))
    assert plan.views == ("front", "front_left", "front_right")
    assert [t.name for t in plan.targets] == ["offset", "sign"]
    assert (plan.width, plan.height) == (64, 48)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"views": ("fornt",)}, "front"),
        ({"views": ("front", "front")}, "twice"),
        ({"targets": ("signs",)}, "sign"),
        ({"width": 4}, "data.width is 4"),
        ({"frames": 0}, "data.frames is 0"),
        ({"drives": -1}, "data.drives is -1"),
        ({"seed": -3}, "-3"),
    ],
)
def test_bad_settings_are_refused_with_value_and_fix(change: dict[str, object], words: str) -> None:
    with pytest.raises(DataError, match=words):
        load(replace(SMALL, **change), 1)  # type: ignore[arg-type]


def test_no_vehicles_and_negative_vehicle_are_refused() -> None:
    with pytest.raises(DataError, match="0 vehicles"):
        load(SMALL, 0)
    with pytest.raises(DataError, match="vehicle -1"):
        render_vehicle(SMALL, -1)


@pytest.mark.slow
def test_obstacle_flag_is_raised_exactly_where_the_picture_shows_one() -> None:
    raised = 0
    for vehicle in range(6):
        domain = quiet(draw_domain(5, vehicle))
        drive = noon(draw_drive(domain, 5, vehicle, 0, 8))
        empty = without_users(drive)
        for view in ("front", "left"):
            renderer = VehicleRenderer(domain, 5, vehicle, 64, 48)
            with_users, bare = (np.empty((8, 48, 64, 3), np.uint8) for _ in range(2))
            covered = renderer.render(drive, 0, view, with_users)
            assert not renderer.render(empty, 0, view, bare).any()
            changed = (with_users != bare).any(axis=-1).mean(axis=(1, 2))
            raised += int((covered >= OBSTACLE_SHARE).sum())
            assert (changed[covered >= OBSTACLE_SHARE] > OBSTACLE_SHARE / 2).all()
            assert (covered[changed < OBSTACLE_SHARE / 2] < OBSTACLE_SHARE).all()
            assert (covered[changed == 0] == 0).all()
    assert raised > 5


def test_labelled_sign_changes_the_front_picture() -> None:
    domain = quiet(draw_domain(5, 0))
    drive = noon(without_users(draw_drive(domain, 5, 0, 0, 16)))
    away = replace(drive, sign_z=np.full_like(drive.sign_z, 1e4))
    seen = (picture(drive, domain) != picture(away, domain)).any(axis=-1).sum(axis=(1, 2))
    assert (seen[drive.sign > 0] >= 25).all(), "a labelled sign must be large enough to read"
    assert (drive.sign > 0).any()
    near = (drive.sign_z > 0) & (drive.sign_z < sign_range(drive.sign_size))
    assert (drive.sign[~near.any(axis=1)] == 0).all()


def test_curvature_and_offset_move_the_road_the_right_way() -> None:
    domain = replace(quiet(draw_domain(5, 0)), setting="country", country="EU", lane_width=3.3)
    drive = noon(without_users(draw_drive(domain, 5, 0, 0, 3)))
    drive = replace(drive, sign_z=np.full_like(drive.sign_z, 1e4), travelled=np.zeros(3, np.float32))
    flat = np.zeros(3, np.float32)

    def edge(**state: np.ndarray) -> np.ndarray:
        """Column of the brightest pixel right of the middle in a near row: the edge line."""
        rows = picture(replace(drive, **state), domain)[:, 36, 32:].astype(int).sum(axis=-1)  # type: ignore[arg-type]
        return rows.argmax(axis=1)

    shifts = np.array([-0.6, 0.0, 0.6], np.float32)
    by_offset = edge(curvature=flat, offset=shifts)
    assert by_offset[0] > by_offset[1] > by_offset[2], "the further right we are, the nearer the right edge"
    by_bend = edge(curvature=shifts / 10, offset=flat)
    assert by_bend[0] < by_bend[1] < by_bend[2], "positive curvature bends right"


def test_night_is_darker_than_dusk_than_day() -> None:
    domain = draw_domain(5, 0)
    drive = draw_drive(domain, 5, 0, 0, 2)
    means = [picture(noon(drive, time=time), domain).mean() for time in ("night", "dusk", "day")]
    assert means[0] < 0.75 * means[1] < 0.75 * means[2]


def test_head_lamps_light_the_road_ahead_at_night() -> None:
    domain = quiet(replace(draw_domain(5, 0), setting="country"))
    drive = noon(without_users(draw_drive(domain, 5, 0, 0, 1)), time="night")
    ahead, behind = (picture(drive, domain, view)[0, 32:40, 24:40].mean() for view in ("front", "rear"))
    assert ahead > 2 * behind


def test_fog_takes_contrast_and_rain_falls() -> None:
    domain = quiet(draw_domain(5, 0))
    drive = draw_drive(domain, 5, 0, 0, 1)
    changes = ({}, {"weather": "fog", "haze": 0.05}, {"weather": "rain", "rain": 1.0})
    clear, fog, rain = (picture(noon(drive, **change), domain).astype(float) for change in changes)
    assert np.abs(np.diff(fog, axis=2)).mean() < 0.7 * np.abs(np.diff(clear, axis=2)).mean()
    sky = rain[0, :10].mean(axis=-1)
    assert np.abs(np.diff(sky, axis=1)).max() > 15


@pytest.mark.parametrize("size", [(8, 8), (33, 17), (160, 120)])
def test_other_sizes(size: tuple[int, int]) -> None:
    settings = replace(SMALL, width=size[0], height=size[1], drives=1, frames=1, views=VIEWS)
    assert record(settings, 0).frames.shape == (1, 8, size[1], size[0], 3)


def test_a_drive_goes_on_smoothly() -> None:
    """Neighbouring frames differ far less than frames of different drives."""
    settings = replace(SMALL, drives=3, frames=8, views=("front",))
    steps, jumps = [], []
    for vehicle in range(4):
        columns = record(settings, vehicle).columns
        for name in ("curvature", "offset"):
            values = np.asarray(columns[name], np.float64).reshape(3, 8)
            steps.append(np.abs(np.diff(values, axis=1)).mean() / values.std())
            jumps.append(np.abs(np.diff(values, axis=0)).mean() / values.std())
    assert np.mean(steps) < 0.4 * np.mean(jumps)


def test_longer_than_a_chunk_equals_its_frames() -> None:
    """Frames come in chunks; the last chunk of a long drive is the same as if rendered whole."""
    domain = quiet(draw_domain(5, 2))
    drive = noon(draw_drive(domain, 5, 2, 0, 20))
    whole = picture(drive, domain)
    users = replace(drive.users, u=drive.users.u[18:], z=drive.users.z[18:])
    tail = replace(
        drive, curvature=drive.curvature[18:], offset=drive.offset[18:], travelled=drive.travelled[18:],
        sign=drive.sign[18:], sign_z=drive.sign_z[18:], users=users,
    )  # fmt: skip
    assert np.array_equal(whole[18:], picture(tail, domain))


def test_wall_depth_solves_the_road_equation() -> None:
    domain = draw_domain(5, 0)
    walls, eye = make_walls(domain, 5, 0), camera(domain, "front_left", 64, 48)
    curvature, offset = np.array([0.02, -0.01, 0.0], np.float32), np.array([0.5, 0.0, -0.5], np.float32)
    depth, right = hit(walls, eye, curvature, offset)
    x, z = eye.mount[0] + depth * eye.ray[0], eye.mount[1] + depth * eye.ray[1]
    u = x - curvature[:, None] * z**2 / 2 + offset[:, None]
    expected = np.where(right, walls.right, -walls.left)
    hits = depth < 169
    assert hits.any()
    assert np.allclose(u[hits], expected[hits], atol=0.02)


def test_quads_land_where_a_pinhole_puts_them() -> None:
    """A person 10 m ahead, by hand: x from f (x - w/2) / z, feet on the ground's row."""
    domain = quiet(draw_domain(5, 0))
    drive = noon(draw_drive(domain, 5, 0, 0, 1))
    flat = np.zeros(1, np.float32)
    one = Users(np.array([3]), np.array([[2.0]], np.float32), np.array([[10.0]], np.float32),
                np.array([True]), np.array([[255.0, 0, 0]], np.float32))  # fmt: skip
    drive = replace(drive, curvature=flat, offset=flat, sign_z=np.full_like(drive.sign_z, 1e4), users=one)
    eye = camera(domain, "front", 64, 48)
    canvas = np.zeros((1, 64 * 48, 3), np.float32)
    render_quads.draw(canvas, render_things.build(domain, drive), eye, make_light(drive.conditions, domain))
    rows, columns = np.nonzero(canvas.reshape(48, 64, 3).sum(axis=-1))
    depth = 10.0 - eye.mount[1]
    assert abs(columns.mean() + 0.5 - (32 + eye.focal * 2.0 / depth)) < 0.6
    assert abs(rows.max() + 1 - (eye.horizon + eye.focal * eye.height / depth)) < 1.5
    assert abs(np.ptp(rows) + 1 - eye.focal * 1.75 / depth) < 2


@pytest.mark.slow
def test_every_class_occurs_in_sane_proportions() -> None:
    sign, obstacle, words = [], [], set()
    settings = DataSettings(seed=0, views=("front", "left"), width=16, height=12)
    for vehicle in range(60):
        columns = record(settings, vehicle).columns
        sign.append(columns["sign"])
        obstacle.append(columns["obstacle"])
        domain = draw_domain(0, vehicle)
        words |= {domain.setting, domain.country, domain.time, domain.weather}
    share = np.bincount(np.concatenate(sign), minlength=len(SIGNS)) / (60 * 64)
    assert 0.25 < share[0] < 0.6
    assert share[1:].min() > 0.02
    flags = np.concatenate(obstacle).mean(axis=0)
    assert 0.3 < flags[0] < 0.75
    assert 0.05 < flags[1] < 0.75
    assert words == {*SETTINGS, *COUNTRIES, "day", "dusk", "night", "clear", "fog", "rain"}


@pytest.mark.slow
def test_at_least_300_front_frames_a_cpu_second() -> None:
    import time

    settings = DataSettings(views=("front",), seed=1)
    record(settings, 0)
    start = time.process_time()
    count = sum(len(record(settings, vehicle).frames) for vehicle in range(1, 5))
    assert count / (time.process_time() - start) > 300


def test_version_is_part_of_the_cache_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(SMALL, cache=tmp_path, drives=1, frames=1)
    load(settings, 1)
    monkeypatch.setattr(procedural, "VERSION", -1)
    load(settings, 1)
    assert len(list((tmp_path / "procedural").iterdir())) == 2
