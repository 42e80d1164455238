"""One drive as numbers over time: road, lane position, signs, other road users; no pixels here.

The car's frame: x to the right, y up, z ahead, metres, origin on the road under the car's middle.
The lane's centre lies at x = curvature z²/2 - offset; u is the lateral distance from it, to the right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carpool.client.camera.domains import (
    F32,
    STREAM_DRIVE,
    Conditions,
    Domain,
    draw_conditions,
    generator,
)
from carpool.client.camera.settings import VIEWS
from carpool.privacy.errors import DataError

CURVATURE_SCALE = 0.01
"""1/m; typical size of the target `curvature`."""
OFFSET_SCALE = 0.4
"""m; typical size of the target `offset`."""

HORIZONTAL_FIELD = {view: np.deg2rad(60.0 if view == "front" else 72.0) for view in VIEWS}
"""Horizontal field of view of each camera, rad."""
AZIMUTH = {view: np.deg2rad(45.0 * i) for i, view in enumerate(VIEWS)}
"""Where each camera looks, rad, anticlockwise from ahead."""
MOUNT = {view: (-0.7 * float(np.sin(AZIMUTH[view])), 1.2 * float(np.cos(AZIMUTH[view]))) for view in VIEWS}
"""Camera positions (x, z) on the car, m."""

RANGE = 48.0
"""Road users beyond this distance are not drawn, m."""

_CURVATURE = {"city": (0.009, 0.03), "country": (0.006, 0.018), "highway": (0.002, 0.005)}
_SPEED = {"city": (0.7, 1.4), "country": (1.2, 2.0), "highway": (2.2, 3.0)}
_SIGN_SIZE = {"city": 1.75, "country": 1.8, "highway": 2.5}

KINDS = ("car", "van", "truck", "person")
SIZES = np.array([(4.4, 1.8, 1.5), (5.2, 2.0, 2.3), (8.5, 2.4, 3.4), (0.0, 0.7, 1.75)], np.float32)
"""Length, width, height of each kind, m."""
_PAINTS = np.array(
    [
        (190, 190, 195),
        (235, 235, 235),
        (35, 37, 42),
        (95, 98, 105),
        (150, 25, 25),
        (30, 55, 130),
        (40, 90, 60),
        (205, 160, 40),
    ],
    np.float32,
)


@dataclass(frozen=True)
class Users:
    """Other road users, [n] of one drive, each for all T frames.

    kind: int [n] into KINDS. u, z: float32 [T, n], m. away: bool [n], drives in our direction. paint: [n, 3].
    """

    kind: NDArray[np.int64]
    u: F32
    z: F32
    away: NDArray[np.bool_]
    paint: F32


@dataclass(frozen=True)
class Drive:
    """The states of one drive of T frames.

    curvature: float32 [T], 1/m, positive bends right. offset: float32 [T], m, our distance to the right of
    the lane's centre. travelled: float32 [T], m. sign: int64 [T], class of the sign that the front camera
    sees. sign_class: int64 [k], sign_z: float32 [T, k], m ahead. sign_u: m. sign_size: m.
    """

    conditions: Conditions
    curvature: F32
    offset: F32
    travelled: F32
    sign: NDArray[np.int64]
    sign_class: NDArray[np.int64]
    sign_z: F32
    sign_u: float
    sign_size: float
    users: Users

    def centre(self, z: F32) -> F32:
        """x of the lane's centre at z [T, ...], m."""
        shape = (-1,) + (1,) * (z.ndim - 1)
        x = self.curvature.reshape(shape) * z * z / 2 - self.offset.reshape(shape)
        return np.asarray(x, np.float32)


def sign_range(size: float) -> float:
    """Distance at which a sign of that size is near enough to be drawn and to count, m."""
    return size * 7.5


def _wander(rng: np.random.Generator, frames: int, std: float, limit: float, rate: float) -> F32:
    """A smooth stationary path: a first-order autoregression, smoothed by a second one."""
    keep = 1.0 - rate
    # Standard deviation of the cascade of two such filters for unit white noise.
    gain = np.sqrt((1 + keep**2) / (1 - keep**2) ** 3)
    noise = rng.standard_normal(frames + 64)
    first = second = 0.0
    path = np.empty(len(noise))
    for i, step in enumerate(noise):
        first = keep * first + step
        second = keep * second + first
        path[i] = second
    return np.asarray(np.clip(path[64:] / gain * std, -limit, limit), np.float32)


def draw_drive(domain: Domain, seed: int, vehicle: int, drive: int, frames: int) -> Drive:
    """The drive number `drive` of that vehicle; raises DataError where it would have no frames."""
    if frames < 1:
        raise DataError(f"a drive has {frames} frames; set data.frames to at least 1")
    rng = generator(seed, vehicle, STREAM_DRIVE, drive)
    conditions = draw_conditions(domain, rng)
    curvature = _wander(rng, frames, *_CURVATURE[domain.setting], rate=0.15)
    offset = _wander(rng, frames, 0.4, 1.0, rate=0.2)
    cruise = rng.uniform(*_SPEED[domain.setting])
    speed = cruise * (1 + _wander(rng, frames, 0.15, 0.4, rate=0.2))
    travelled = (np.cumsum(speed) - speed[0] + rng.uniform(0, 500)).astype(np.float32)
    sign_u = domain.lane_width / 2 + (2.2 if domain.setting == "highway" else 1.4)
    size = _SIGN_SIZE[domain.setting] * rng.uniform(0.92, 1.08)
    kinds, positions = _place_signs(domain, rng, travelled, cruise, size)
    sign_z = (positions[None, :] - travelled[:, None]).astype(np.float32)
    users = _draw_users(domain, rng, travelled, cruise)
    sign = _label_signs(kinds, sign_z, curvature, offset, sign_u, size)
    return Drive(
        conditions, curvature, offset, travelled, sign, kinds, sign_z, float(sign_u), float(size), users
    )


def _place_signs(
    domain: Domain, rng: np.random.Generator, travelled: F32, cruise: float, size: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Classes and positions along the road of the signs that this drive passes."""
    weights = np.asarray(domain.sign_weights)
    weights = weights / weights.sum()
    kinds, positions = [], []
    here = float(travelled[0]) - 20.0
    while here < float(travelled[-1]) + sign_range(size):
        here += sign_range(size) * 0.45 + cruise * rng.uniform(1.0, 5.0)
        kinds.append(1 + int(rng.choice(len(weights), p=weights)))
        positions.append(here)
    return np.array(kinds, np.int64), np.array(positions)


def _label_signs(
    kinds: NDArray[np.int64], sign_z: F32, curvature: F32, offset: F32, sign_u: float, size: float
) -> NDArray[np.int64]:
    """Class of the nearest sign that is near enough and wholly in the front picture, else 0."""
    mount = MOUNT["front"][1]
    x = sign_u + curvature[:, None] * sign_z**2 / 2 - offset[:, None]
    half = np.tan(HORIZONTAL_FIELD["front"] / 2)
    # Up to a seventh of the sign may be cut off by the picture's edge.
    inside = (np.abs(x) + 0.36 * size < half * (sign_z - mount)) & (sign_z > mount)
    seen = inside & (sign_z < sign_range(size))
    nearest = np.where(seen, sign_z, np.inf)
    best = np.argmin(nearest, axis=1)
    return np.where(seen.any(axis=1), kinds[best], 0).astype(np.int64)


def _draw_users(domain: Domain, rng: np.random.Generator, travelled: F32, cruise: float) -> Users:
    """Traffic of one drive: a leader, a follower, cars in other lanes, parked cars, people on foot."""
    lane = domain.lane_width
    moved = (travelled - travelled[0])[:, None].astype(np.float64)
    frames = len(travelled)
    time = np.arange(frames)[:, None]
    rows: list[tuple[int, float, NDArray[np.float64], bool]] = []

    def kind() -> int:
        return int(rng.choice(3, p=(0.68, 0.17, 0.15) if domain.setting == "highway" else (0.75, 0.17, 0.08)))

    def wrap(z: NDArray[np.float64]) -> NDArray[np.float64]:
        return (z + RANGE) % (2 * RANGE) - RANGE

    for sign in (1, -1):  # a leader, then a follower; they keep their distance roughly
        if rng.random() < domain.traffic:
            middle = rng.uniform(9.0, 26.0)
            gap = middle + _wander(rng, frames, 4.0, 9.0, rate=0.12)[:, None].astype(np.float64)
            rows.append((kind(), 0.0, sign * np.maximum(gap, 8.0), True))
    if domain.setting == "highway":
        lanes, speed, away = (-lane, -2 * lane, -lane), rng.uniform(-0.5, 0.9, 3), True
    else:
        lanes, speed, away = (-lane, -lane, -lane), -2 * cruise * rng.uniform(0.8, 1.2, 3), False
    for u, relative in zip(lanes, speed, strict=True):
        if rng.random() < domain.traffic:
            rows.append((kind(), u, wrap(rng.uniform(-RANGE, RANGE) + relative * time), away))
    if domain.setting == "city":
        parked = [(0, u) for u in (-1.5 * lane - 1.2, -1.5 * lane - 1.2, lane / 2 + 1.3)]
        people = [(3, lane / 2 + rng.uniform(0.6, 2.4)), (3, -1.5 * lane - rng.uniform(0.6, 2.4))]
        standing = [what for what in parked + people if rng.random() < domain.traffic]
        rows += [(k, u, wrap(rng.uniform(-RANGE, RANGE) - moved), u > 0) for k, u in standing]
    count = len(rows)
    z = [np.broadcast_to(row[2], (frames, 1)) for row in rows]
    drift = 0.15 * rng.standard_normal(count)
    return Users(
        kind=np.array([row[0] for row in rows], np.int64),
        u=np.broadcast_to(np.array([row[1] for row in rows]) + drift, (frames, count)).astype(np.float32),
        z=np.concatenate(z, axis=1).astype(np.float32) if z else np.zeros((frames, 0), np.float32),
        away=np.array([row[3] for row in rows], bool),
        paint=_PAINTS[rng.integers(len(_PAINTS), size=count)],
    )
