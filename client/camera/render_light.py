"""Light and air of one drive: sky, haze, sun, our own head lamps.

Colours are grey levels 0..255 as the sensor would give them, mixed as they are (no gamma).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from carpool.client.camera.domains import F32, Conditions, Domain
from carpool.client.camera.render_camera import Camera, fixed_noise

if TYPE_CHECKING:
    from carpool.client.camera.render_quads import Projected

# zenith, horizon, light on things, haze by time of day; then the same under rain or fog.
_CLEAR = {
    "day": ((88, 140, 215), (190, 212, 235), (1.0, 0.98, 0.94), (196, 210, 225)),
    "dusk": ((62, 70, 120), (240, 150, 90), (0.66, 0.55, 0.52), (185, 130, 105)),
    "night": ((8, 10, 22), (26, 28, 44), (0.16, 0.17, 0.23), (24, 26, 38)),
}
_GREY = {
    "day": ((168, 174, 182), (196, 200, 205), (0.74, 0.76, 0.78), (192, 197, 202)),
    "dusk": ((92, 90, 104), (140, 122, 118), (0.44, 0.41, 0.43), (128, 114, 114)),
    "night": ((20, 21, 27), (38, 38, 44), (0.15, 0.15, 0.18), (36, 36, 42)),
}


@dataclass(frozen=True)
class Light:
    """How bright and how hazy a drive is.

    zenith, horizon, veil: float32 [3], grey levels. ambient: float32 [3], about 1 by day. haze: 1/m.
    rain: 0..1. lamps: how strongly lamps and lit windows shine, 0..1. beam: strength of our head lamps.
    sun: azimuth, rad. glow: strength of the sun's glow in the sky, grey levels.
    """

    zenith: F32
    horizon: F32
    veil: F32
    ambient: F32
    haze: float
    rain: float
    lamps: float
    beam: float
    sun: float
    glow: float

    def head_lamps(self, x: F32, z: F32, reach: float) -> F32:
        """What our lamps add at a place in the car's frame; falls to 1/e at `reach` m ahead."""
        ahead = np.maximum(z - 1.0, 0)
        cone = np.exp(-np.square(x / (1.3 + 0.28 * ahead)))
        return np.asarray(
            self.beam * cone * np.exp(-ahead / reach) * np.minimum(ahead / 2.5, 1.0), np.float32
        )

    def clear(self, distance: F32) -> F32:
        """Share of a thing's light that the haze lets through."""
        return np.asarray(np.exp(-self.haze * distance), np.float32)

    def things(self, seen: Projected, camera: Camera) -> tuple[F32, F32, F32]:
        """Light on each rectangle [n, 3], share that the haze lets through [n], colour of the haze [3]."""
        ends = seen.quads.ends
        half = np.float32(0.5)
        x, z = (ends[:, 0] + ends[:, 2]) * half, (ends[:, 1] + ends[:, 3]) * half
        lamp = self.head_lamps(x, z, 26.0) * (0.55 + 2.2 * seen.quads.shine)
        across = np.abs(ends[:, 2] - ends[:, 0]) / np.maximum(
            np.hypot(ends[:, 2] - ends[:, 0], ends[:, 3] - ends[:, 1]), 1e-3
        )
        side = 0.86 + 0.14 * across
        shade = self.ambient * side[:, None] + np.minimum(lamp, 0.8)[:, None]
        distance = np.hypot(x - camera.mount[0], z - camera.mount[1])
        return np.asarray(shade, np.float32), self.clear(distance), self.veil


def make_light(conditions: Conditions, domain: Domain) -> Light:
    """The light of a drive under these conditions; a city's nights are brighter."""
    table = _CLEAR if conditions.weather == "clear" else _GREY
    zenith, horizon, ambient, veil = (np.array(c, np.float32) for c in table[conditions.time])
    exposure = np.float32(conditions.brightness)
    if conditions.time == "night" and domain.setting == "city":
        ambient = ambient + np.array((0.16, 0.13, 0.08), np.float32)
        horizon, veil = horizon + np.float32(12), veil + np.float32(10)
    return Light(
        zenith=zenith * exposure,
        horizon=horizon * exposure,
        veil=veil * exposure,
        ambient=ambient * exposure,
        haze=conditions.haze,
        rain=conditions.rain,
        lamps={"day": 0.0, "dusk": 0.7, "night": 1.0}[conditions.time],
        beam={"day": 0.0, "dusk": 0.22, "night": 1.25}[conditions.time],
        sun=conditions.sun,
        glow={"day": 26.0, "dusk": 60.0, "night": 0.0}[conditions.time]
        * (1.0 if conditions.weather == "clear" else 0.0),
    )


def sky(camera: Camera, light: Light, domain: Domain, rng: np.random.Generator) -> F32:
    """The still background of a drive: sky, clouds, glow of the sun, hills; float32 [rows, width, 3].

    `rng` is that of the drive, not of the view, so that neighbouring cameras see the same hills.
    """
    clouds = np.roll(fixed_noise((128, 32), (17, 7)), rng.integers((128, 32)), axis=(0, 1))
    ridge = np.roll(fixed_noise((360,), (31, 9)), rng.integers(360))
    height = np.maximum(0.035 + 0.022 * ridge, 0.004)
    tangent = camera.elevation[:, None]
    bearing = (camera.azimuth / (2 * np.pi)) % 1.0
    rise = np.clip(tangent / 0.55, 0, 1) ** np.float32(0.7)
    picture = light.horizon + rise[..., None] * (light.zenith - light.horizon)
    column, row = (bearing * 128).astype(int) % 128, np.clip(tangent[:, 0] * 40, 0, 31).astype(int)
    cover = np.clip(clouds[column[None, :], row[:, None]] * 0.5, 0, 1) * np.clip(tangent * 4, 0, 1)
    white = light.horizon * np.float32(1.06)
    picture = picture + (0.75 * cover * (light.glow > 0))[..., None] * (white - picture)
    turn = np.angle(np.exp(1j * (camera.azimuth - light.sun)))
    halo = np.exp(-np.square(turn / 0.5))[None, :] * np.exp(-np.square(tangent / 0.25))
    picture = picture + light.glow * halo[..., None] * np.array((1.0, 0.85, 0.5), np.float32)
    hill = height[(bearing * 360).astype(int) % 360]
    cover = np.clip((hill[None, :] - tangent) * camera.focal + 0.5, 0, 1)
    green = np.array((70, 92, 78) if domain.setting != "city" else (98, 102, 110), np.float32)
    far = green * light.ambient * np.float32(0.45) + light.veil * np.float32(0.55)
    picture = picture + cover[..., None] * (far - picture)
    # In thick haze there is nothing but haze near the horizon.
    thick = min(1.0, light.haze / 0.02)
    murk = thick * np.exp(-np.maximum(tangent, 0) / 0.5)[..., None]
    return np.asarray(picture + murk * (light.veil - picture), np.float32)
