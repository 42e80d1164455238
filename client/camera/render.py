"""From a vehicle's numbers to its pictures: sky, ground, walls, things, rain, sensor."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from carpool.client.camera import render_quads, render_things, render_walls
from carpool.client.camera.domains import F32, STREAM_DRIVE, STREAM_VIEW, Domain, generator
from carpool.client.camera.render_camera import Camera, camera
from carpool.client.camera.render_ground import Ground
from carpool.client.camera.render_light import Light, make_light, sky
from carpool.client.camera.samples import Frames
from carpool.client.camera.scene import Drive
from carpool.client.camera.settings import VIEWS

CHUNK = 16
"""Frames rendered together: few enough for the processor's cache."""

OBSTACLE_SHARE = 0.015
"""Share of a picture that other road users must cover for its obstacle flag."""


class VehicleRenderer:
    """The cameras of one vehicle; geometry is computed once and serves all its drives."""

    def __init__(self, domain: Domain, seed: int, vehicle: int, width: int, height: int) -> None:
        self.domain, self.seed, self.vehicle = domain, seed, vehicle
        self.width, self.height = width, height
        self.walls = render_walls.make_walls(domain, seed, vehicle)
        self._views: dict[str, tuple[Camera, Ground, F32]] = {}

    def view(self, name: str) -> tuple[Camera, Ground, F32]:
        """Camera, ground and sensor gain [pixels, 3] of a view."""
        if name not in self._views:
            eye = camera(self.domain, name, self.width, self.height)
            y = (np.arange(self.height) + 0.5) / self.height * 2 - 1
            x = (np.arange(self.width) + 0.5) / self.width * 2 - 1
            dark = 1 - self.domain.vignette * (np.square(x)[None, :] + np.square(y)[:, None]) / 2
            gain = dark.reshape(-1, 1) * np.array(self.domain.sensor)
            self._views[name] = (eye, Ground(self.domain, eye), gain.astype(np.float32))
        return self._views[name]

    def render(self, drive: Drive, number: int, name: str, out: Frames) -> F32:
        """Write the pictures of one drive and view into out [T, height, width, 3].

        Returns the share of each picture that other road users cover, float32 [T], 0..1.
        """
        eye, ground, gain = self.view(name)
        light = make_light(drive.conditions, self.domain)
        still = sky(eye, light, self.domain, generator(self.seed, self.vehicle, STREAM_DRIVE, number, 1))
        lit, quads = ground.lit(light), render_things.build(self.domain, drive)
        rng = generator(self.seed, self.vehicle, STREAM_VIEW, number, VIEWS.index(name))
        frames, pixels = len(drive.travelled), self.width * self.height
        covered = np.zeros(frames, np.float32)
        for start in range(0, frames, CHUNK):
            part = slice(start, min(start + CHUNK, frames))
            road = (drive.curvature[part], drive.offset[part], drive.travelled[part])
            picture = np.empty((len(road[0]), pixels, 3), np.float32)
            edge = eye.ground_row * self.width
            picture[:, :edge] = still.reshape(-1, 3)[:edge]
            picture[:, edge:] = ground.paint(*road, lit)
            render_walls.draw(picture, self.walls, eye, light, *road)
            now = quads.take((quads.frame >= part.start) & (quads.frame < part.stop))
            now.frame[:] -= part.start
            covered[part] = render_quads.draw(picture, now, eye, light) / pixels
            out[part] = expose(picture, gain, light, self.domain, rng, eye)
        return covered


def expose(
    picture: F32, gain: F32, light: Light, domain: Domain, rng: np.random.Generator, eye: Camera
) -> Frames:
    """Rain before the lens, the sensor's gain and noise, and 8 bits: uint8 [T, rows, width, 3]."""
    frames, pixels = picture.shape[:2]
    rows = eye.rows
    noise, streaks = _noise(3 * pixels), _streaks(rows, eye.width)
    picture *= gain
    strength = np.float32(domain.noise * (1 + 1.2 * light.lamps))
    for i in range(frames):
        at, down, across = (int(v) for v in rng.integers((len(noise) - 3 * pixels, rows, eye.width)))
        picture[i] += strength * noise[at : at + 3 * pixels].reshape(pixels, 3)
        if light.rain:
            fall = streaks[down : down + rows, across : across + eye.width].reshape(pixels, 1)
            picture[i] += np.float32(light.rain) * fall * (18 + 0.2 * light.horizon)
    picture += np.float32(0.5)
    np.clip(picture, 0, 255, out=picture)
    return picture.astype(np.uint8).reshape(frames, rows, eye.width, 3)


@lru_cache(maxsize=4)
def _noise(size: int) -> F32:
    """A store of normal noise; each picture takes a piece from a random place."""
    rng = np.random.Generator(np.random.Philox(20240602))
    return rng.standard_normal(max(1 << 18, 4 * size), dtype=np.float32)


@lru_cache(maxsize=4)
def _streaks(rows: int, width: int) -> F32:
    """Falling drops, twice as high and wide as a picture: float32 [2·rows, 2·width], 0..1."""
    rng = np.random.Generator(np.random.Philox(20240603))
    start = (rng.random((2 * rows, 2 * width)) < 0.012) * rng.random((2 * rows, 2 * width))
    length = max(2, rows // 8)
    fall = sum(np.roll(start, (i, -(i // 4)), axis=(0, 1)) for i in range(length))
    return np.asarray(np.minimum(fall, 1), np.float32)
