"""A camera on a vehicle: where each pixel looks; computed once for all frames of a drive or a vehicle.

Rectified pinholes: the picture plane stands upright and the mount's tilt is a shift of the horizon, so that
upright edges stay upright and a column of pixels has one azimuth.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from carpool.client.camera.domains import F32, Domain
from carpool.client.camera.scene import AZIMUTH, HORIZONTAL_FIELD, MOUNT


@dataclass(frozen=True)
class Camera:
    """One view of one vehicle.

    width, rows: px. focal: px. horizon: row of the horizon, px from the top. height: m above the road.
    mount: x, z on the car, m. cos, sin: of the azimuth, anticlockwise from ahead.
    """

    view: str
    width: int
    rows: int
    focal: float
    horizon: float
    height: float
    mount: tuple[float, float]
    cos: float
    sin: float

    @cached_property
    def ray(self) -> tuple[F32, F32]:
        """x and z that a column's ray gains for each metre of depth: two float32 [width]."""
        k = (np.arange(self.width) + 0.5 - self.width / 2) / self.focal
        return (k * self.cos - self.sin).astype(np.float32), (self.cos + k * self.sin).astype(np.float32)

    @cached_property
    def azimuth(self) -> F32:
        """Azimuth of each column, rad, anticlockwise from ahead: float32 [width]."""
        return np.arctan2(-self.ray[0], self.ray[1]).astype(np.float32)

    @cached_property
    def elevation(self) -> F32:
        """Tangent of the angle above the horizon of each row: float32 [rows]."""
        return ((self.horizon - np.arange(self.rows) - 0.5) / self.focal).astype(np.float32)

    @cached_property
    def ground_row(self) -> int:
        """First row of which all pixels look at the ground nearer than some 300 m."""
        return int(np.clip(np.ceil(self.horizon - 0.5 + self.focal * self.height / 300), 0, self.rows))

    @cached_property
    def ground(self) -> tuple[F32, F32]:
        """x and z, m, of the road under each pixel from `ground_row` down: two float32 [rows, width]."""
        depth = self.height / -self.elevation[self.ground_row :, None]
        return self.mount[0] + depth * self.ray[0], self.mount[1] + depth * self.ray[1]


def camera(domain: Domain, view: str, width: int, rows: int) -> Camera:
    """The camera of that view in a picture of width × rows pixels."""
    return Camera(
        view=view,
        width=width,
        rows=rows,
        focal=float(width / 2 / np.tan(HORIZONTAL_FIELD[view] / 2)),
        horizon=domain.horizon * rows,
        height=domain.mount_height,
        mount=MOUNT[view],
        cos=float(np.cos(AZIMUTH[view])),
        sin=float(np.sin(AZIMUTH[view])),
    )


def footprint(values: F32) -> F32:
    """How far `values` [rows, width] moves from a pixel to the next one, same shape; at least 1e-3."""
    down = np.abs(np.gradient(values, axis=0)) if len(values) > 1 else np.zeros_like(values)
    across = np.abs(np.gradient(values, axis=1)) if values.shape[1] > 1 else np.zeros_like(values)
    return np.asarray(np.maximum(np.maximum(down, across), 1e-3), np.float32)


def box_blur(table: F32, bins: int, axis: int, wrap: bool) -> F32:
    """Mean over `bins` neighbours along an axis, which wraps around or goes on with its edge."""
    if bins <= 1:
        return table
    pad = [(0, 0)] * table.ndim
    pad[axis] = (bins // 2 + 1, bins - bins // 2 - 1)
    total = np.cumsum(np.pad(table, pad, mode="wrap" if wrap else "edge"), axis=axis, dtype=np.float64)
    n = table.shape[axis]
    upper = np.take(total, np.arange(bins, n + bins), axis=axis)
    lower = np.take(total, np.arange(n), axis=axis)
    return np.asarray((upper - lower) / bins, np.float32)


@lru_cache(maxsize=16)
def fixed_noise(shape: tuple[int, ...], scales: tuple[int, ...]) -> F32:
    """Wrapping noise of several grain sizes (in bins), zero mean, unit variance: float32 `shape`.

    The same for everyone, since it costs more than a drive; who wants another one rolls it.
    """
    rng = np.random.Generator(np.random.Philox(20240601))
    total = np.zeros(shape, np.float32)
    for scale in scales:
        layer = rng.standard_normal(shape).astype(np.float32)
        for axis, length in enumerate(shape):
            for _ in range(2):
                layer = box_blur(layer, min(scale, length), axis, wrap=True)
        total += layer / max(float(layer.std()), 1e-6)
    return np.asarray((total - total.mean()) / max(float(total.std()), 1e-6), np.float32)
