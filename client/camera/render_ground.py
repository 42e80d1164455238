"""The road and what lies beside it, by table: one look-up a pixel gives colour and roughness.

The table has the colour across the road (u, 5 cm a bin) for each blur of the pixel's footprint and each state
along the road (dash off ... on, zebra crossing), so lines fade out with distance instead of flickering.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from carpool.client.camera.domains import F32, Domain
from carpool.client.camera.render_camera import Camera, box_blur, fixed_noise, footprint
from carpool.client.camera.render_light import Light

I32 = NDArray[np.int32]

_BINS, _STEP = 800, 0.05  # u from -20 m to 20 m
_ALONG, _REACH = 480, 400  # 0.25 m a bin: the pattern repeats after 120 m, z within ±100 m
_LEVELS, _DASHES, _ZEBRA = 7, 5, 4
_STATES = _DASHES + _ZEBRA

_ASPHALT = {"city": (92, 92, 95), "country": (104, 101, 97), "highway": (112, 113, 116)}
_WHITE, _YELLOW = (232, 232, 228), (225, 175, 45)
_PERIOD = {  # dash and period, m
    ("city", "EU"): (3.0, 8.0),
    ("country", "EU"): (4.0, 12.0),
    ("highway", "EU"): (6.0, 15.0),
    ("city", "US"): (3.0, 12.0),
    ("country", "US"): (3.0, 12.0),
    ("highway", "US"): (4.0, 12.0),
}


@dataclass(frozen=True)
class Surface:
    """Tables of one domain.

    colour: float32 [levels · states · bins, 4], grey levels and roughness. dash: int32 [levels · along],
    first row of the colour table for the state there.
    """

    colour: F32
    dash: I32


def _strip(u: F32, table: F32, low: float, high: float, colour: tuple[float, ...]) -> None:
    """Paint u in low..high."""
    table[(u >= low) & (u < high), : len(colour)] = colour


def _profile(domain: Domain) -> tuple[F32, F32, F32]:
    """Colour and roughness across the road (dashes off, on; zebra crossing): float32 [bins, 4] each."""
    w, setting = domain.lane_width, domain.setting
    u = ((np.arange(_BINS) + 0.5) * _STEP - _BINS * _STEP / 2).astype(np.float32)
    lanes = 2.5 if setting == "highway" else 1.5
    left, right = -lanes * w, w / 2
    table = np.zeros((_BINS, 4), np.float32)
    grass = ((92, 116, 58), (120, 122, 66), (84, 104, 62), (132, 124, 84))[domain.palette]
    _strip(u, table, -99, 99, (*grass, 0.22))
    if setting == "city":
        _strip(u, table, -99, 99, (150, 146, 140, 0.07))
        _strip(u, table, left - 2.6, right + 2.7, (188, 186, 182, 0.03))
        _strip(u, table, left - 2.3, right + 2.4, (112, 106, 102, 0.14))
    elif setting == "country":
        _strip(u, table, left - 1.1, right + 1.1, (146, 134, 112, 0.15))
    else:
        _strip(u, table, left - 1.2, right + 2.4, (122, 121, 120, 0.08))
    margin = 0.0 if setting == "city" else 0.35
    _strip(u, table, left - margin, right + margin, (*_ASPHALT[setting], 0.08))
    zebra = table.copy()
    for start in np.arange(left + 0.3, right - 0.4, 1.0):
        _strip(u, zebra, start, start + 0.55, (*_WHITE, 0.05))
    half, us = 0.11, domain.country == "US"
    if setting != "city":
        _strip(u, table, right - half, right + half, (*_WHITE, 0.04))
        edge = _YELLOW if us and setting == "highway" else _WHITE
        _strip(u, table, left - half, left + half, (*edge, 0.04))
    elif us:
        _strip(u, table, right - half, right + half, (*_WHITE, 0.04))
    if us and setting == "city":
        for line in (-w / 2 - 0.17, -w / 2 + 0.17):
            _strip(u, table, line - 0.09, line + 0.09, (*_YELLOW, 0.04))
    on = table.copy()
    for lane in range(1, 3 if setting == "highway" else 2):
        line = right - lane * w
        colour = _YELLOW if us and setting == "country" else _WHITE
        if not (us and setting == "city"):
            _strip(u, on, line - half, line + half, (*colour, 0.04))
    return table, on, zebra


@lru_cache(maxsize=64)
def surface(domain: Domain) -> Surface:
    """The tables of that domain's road."""
    off, on, zebra = _profile(domain)
    on_share = np.r_[np.linspace(0, 1, _DASHES), np.zeros(_ZEBRA)].astype(np.float32)[:, None, None]
    zebra_share = np.r_[np.zeros(_DASHES), np.linspace(1 / _ZEBRA, 1, _ZEBRA)].astype(np.float32)[
        :, None, None
    ]
    plain = np.stack([off, on, zebra])
    blurred = []
    for level in range(_LEVELS):
        off, on, zebra = box_blur(plain, 2**level, 1, wrap=False)
        blurred.append(off + on_share * (on - off) + zebra_share * (zebra - off))
    along = (np.arange(_ALONG) + 0.5) * 0.25
    dash, period = _PERIOD[domain.setting, domain.country]
    painted = (along % period < dash).astype(np.float32)
    crossing = ((along > 52) & (along < 56) & (domain.setting == "city")).astype(np.float32)
    # Frames stand at any of the 480 bins and see 400 bins to both sides: unrolled, so that no pixel needs %.
    unrolled = (np.arange(_ALONG + 2 * _REACH + 2) - _REACH) % _ALONG
    rows = []
    for level in range(_LEVELS):
        dashes = np.round(box_blur(painted, 2**level, 0, True) * (_DASHES - 1)).astype(np.int32)
        zebras = np.round(box_blur(crossing, 2**level, 0, True) * _ZEBRA).astype(np.int32)
        state = np.where(zebras > 0, _DASHES - 1 + zebras, dashes)
        rows.append(state[unrolled] * _BINS)
    return Surface(np.concatenate(blurred).reshape(-1, 4), np.concatenate(rows).astype(np.int32))


@lru_cache(maxsize=1)
def _grain() -> F32:
    """Roughness of all surfaces, the same for everyone: float32 [64 · unrolled]."""
    tile = fixed_noise((64, _ALONG), (1, 3, 9))
    unrolled = (np.arange(_ALONG + 2 * _REACH + 2) - _REACH) % _ALONG
    return np.ascontiguousarray(tile[:, unrolled]).reshape(-1)


_LENGTH = _ALONG + 2 * _REACH + 2


class Ground:
    """The ground as one camera of one vehicle sees it; light belongs to a drive, frames to `paint`."""

    def __init__(self, domain: Domain, camera: Camera) -> None:
        self.surface = surface(domain)
        x, z = camera.ground
        self.x, self.z = x.ravel(), z.ravel()
        self.distance = np.hypot(self.x - camera.mount[0], self.z - camera.mount[1])
        self.bend = (self.z * self.z / (2 * _STEP)).astype(np.float32)
        self.across = (self.x / _STEP + _BINS / 2).astype(np.float32)
        size_u, size_z = footprint(x).ravel(), footprint(z).ravel()
        level = np.clip(np.round(np.log2(size_u * 0.7 / _STEP)), 0, _LEVELS - 1)
        self.level = (level * _STATES * _BINS).astype(np.int32)
        along = np.clip(np.round(np.log2(size_z * 0.8 / 0.25)), 0, _LEVELS - 1).astype(np.int32)
        self.at = (np.clip(self.z * 4 + _REACH, 0, 2 * _REACH)).astype(np.int32)
        self.dash = along * _LENGTH + self.at
        self.fade = (1 / (1 + np.maximum(size_u / 0.4, size_z / 0.8))).astype(np.float32)

    def lit(self, light: Light) -> tuple[F32, F32]:
        """Factor and summand that turn surface colour into what the sensor sees: two float32 [pixels, 3]."""
        lamp = light.head_lamps(self.x, self.z, 18.0)[:, None]
        warm = np.array((1.0, 0.96, 0.86), np.float32)
        bright = light.ambient + lamp * warm
        clear = light.clear(self.distance)[:, None]
        wet = np.float32(1 - 0.35 * light.rain)
        mirror = np.float32(0.22 * light.rain) * light.horizon
        return bright * wet * clear, (light.veil * (1 - clear) + mirror * clear).astype(np.float32)

    def paint(self, curvature: F32, offset: F32, travelled: F32, lit: tuple[F32, F32]) -> F32:
        """Colours float32 [T, pixels, 3] for the T states of a drive."""
        base = (np.floor(travelled * 4).astype(np.int64) % _ALONG).astype(np.int32)
        u = curvature[:, None] * self.bend
        np.subtract(self.across, u, out=u)
        u += offset[:, None] / np.float32(_STEP)
        np.maximum(u, 0, out=u)
        np.minimum(u, _BINS - 1, out=u)
        column = u.astype(np.int32)
        place = self.dash + base[:, None]
        row = self.surface.dash.take(place)
        row += self.level
        row += column
        texel = self.surface.colour.take(row, axis=0)
        column >>= 2
        column &= 63
        column *= _LENGTH
        column += self.at
        column += base[:, None]
        grain = _grain().take(column)
        grain *= self.fade
        grain *= texel[..., 3]
        grain += 1
        colour = texel[..., :3] * lit[0]
        colour *= grain[..., None]
        colour += lit[1]
        return np.asarray(colour, np.float32)
