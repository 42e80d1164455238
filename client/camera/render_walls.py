"""What stands along the road on both sides: facades, trees, noise barriers; one ray a pixel column.

A wall follows the road at a fixed lateral distance; its height and its look change along the road.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carpool.client.camera.domains import F32, STREAM_DOMAIN, Domain, generator
from carpool.client.camera.render_camera import Camera, fixed_noise
from carpool.client.camera.render_light import Light

Ints = NDArray[np.int64]

_ALONG, _STEP = 1024, 0.25  # m a bin along the road: repeats after 256 m
_UP, _RISE = 48, 1 / 3  # m a bin upwards: 16 m
_LEVELS, _COARSE = 6, 3  # halved along the road each time, upwards at most three times
_WIDE = np.array([_UP >> min(i, _COARSE) for i in range(_LEVELS)], np.int64)
_START = np.r_[0, np.cumsum([(_ALONG >> i) * w for i, w in enumerate(_WIDE)])][:_LEVELS]
FAR = 170.0

_FACADES = (
    ((196, 178, 150), (172, 120, 96), (205, 200, 190), (150, 140, 132)),
    ((140, 82, 66), (164, 104, 80), (118, 74, 62), (180, 150, 120)),
    ((214, 206, 186), (226, 196, 140), (190, 205, 205), (222, 170, 150)),
    ((150, 156, 164), (120, 128, 138), (178, 182, 188), (98, 106, 116)),
)
_TREES = ((58, 88, 44), (96, 92, 44), (44, 76, 52), (118, 86, 46))


@dataclass(frozen=True)
class Walls:
    """Walls of one vehicle's roads.

    height: float32 [along], m. texels: uint8 [n, 4], colour and how much of it is a window with light behind,
    level after level, each half as fine as the one before.
    left, right: lateral distance from the lane's centre, m.
    """

    height: F32
    texels: NDArray[np.uint8]
    left: float
    right: float


def _city(domain: Domain, rng: np.random.Generator) -> tuple[F32, F32]:
    height, picture = np.zeros(_ALONG, np.float32), np.zeros((_ALONG, _UP, 4), np.float32)
    here = 0
    while here < _ALONG:
        width = int(rng.integers(32, 80))
        part = slice(here, min(here + width, _ALONG))
        gap = rng.random() < 0.12
        floors = 1 if gap else int(rng.integers(2, 6))
        height[part] = 1.2 if gap else floors * 3.0 + 0.8
        colour = np.array(_FACADES[domain.palette][rng.integers(4)]) * rng.uniform(0.85, 1.1)
        picture[part, :, :3] = colour if not gap else _TREES[0]
        if not gap:
            _windows(picture[part], floors, rng)
        here += width
    return height, picture


def _windows(facade: F32, floors: int, rng: np.random.Generator) -> None:
    """Windows, doors and a darker ground floor onto float32 [along, up, 4]."""
    pitch, wide = int(rng.integers(10, 15)), int(rng.integers(5, 8))
    facade[:, :9, :3] *= 0.82
    facade[:2, :, :3] *= 0.7
    for floor in range(floors):
        low = floor * 9 + 3
        for start in range(3, len(facade) - wide, pitch):
            pane = facade[start : start + wide, low : low + 5]
            pane[..., :3] = (70, 82, 96)
            if rng.random() < 0.45:
                pane[..., 3] = rng.uniform(120, 255)
    door = int(rng.integers(3, max(4, len(facade) - 6)))
    facade[door : door + 5, :7] = (60, 48, 40, 0)


def _country(domain: Domain, rng: np.random.Generator) -> tuple[F32, F32]:
    turn = int(rng.integers(_ALONG))
    big, small = (np.roll(fixed_noise((_ALONG,), scales), turn) for scales in ((61,), (9, 3)))
    height = np.clip(4.5 + 3.2 * big + 0.9 * small, 0.7, 14.0).astype(np.float32)
    grain = np.roll(fixed_noise((_ALONG, _UP), (2, 7)), turn, axis=0)
    colour = np.array(_TREES[domain.palette], np.float32)
    shade = 0.72 + 0.5 * np.clip(np.arange(_UP) / 24, 0, 1)
    picture = colour * (shade[None, :] * (1 + 0.2 * grain))[..., None]
    trunk = (rng.random(_ALONG // 8) < 0.5).repeat(8) & (np.arange(_ALONG) % 8 < 2)
    picture[trunk, :6] = (58, 46, 36)
    return height, np.concatenate([picture, np.zeros((_ALONG, _UP, 1))], axis=2).astype(np.float32)


def _highway(domain: Domain, rng: np.random.Generator) -> tuple[F32, F32]:
    height, picture = _country(domain, rng)
    fence = np.repeat(rng.random(16) < 0.35, _ALONG // 16)
    height = np.where(fence, 3.6, np.clip(height * 0.8, 0.9, 9)).astype(np.float32)
    panel = np.array(((150, 152, 146), (138, 146, 134), (160, 150, 138), (142, 148, 156))[domain.palette])
    picture[fence, :, :3] = panel * (0.9 + 0.1 * (np.arange(_ALONG)[fence] // 16 % 2))[:, None, None]
    picture[:, :1, :3] = (70, 72, 70)
    picture[:, 1:3, :3] = (172, 175, 178)  # a guard rail in front of everything
    return height, picture


def make_walls(domain: Domain, seed: int, vehicle: int) -> Walls:
    """The walls of one vehicle."""
    rng = generator(seed, vehicle, STREAM_DOMAIN, 1)
    make = {"city": _city, "country": _country, "highway": _highway}[domain.setting]
    height, picture = make(domain, rng)
    levels, level = [], picture
    for i in range(_LEVELS):
        levels.append(np.clip(level, 0, 255).astype(np.uint8).reshape(-1, 4))
        up = 2 if i < _COARSE else 1
        level = level.reshape(level.shape[0] // 2, 2, level.shape[1] // up, up, 4).mean(axis=(1, 3))
    wide = 2.0 if domain.setting == "highway" else 1.0
    return Walls(height, np.concatenate(levels), domain.wall + wide * domain.lane_width, domain.wall)


def hit(walls: Walls, camera: Camera, curvature: F32, offset: F32) -> tuple[F32, NDArray[np.bool_]]:
    """Depth at which each column's ray meets a wall, and whether that is the right one: two [T, width].

    The wall is x = curvature z²/2 - offset ± distance: a quadratic in the depth, of which the smallest
    positive root counts; FAR where there is none.
    """
    dx, dz = camera.ray
    mx, mz = camera.mount
    c, o = curvature[:, None].astype(np.float64), offset[:, None].astype(np.float64)
    a = -c / 2 * dz * dz
    b = dx - c * mz * dz
    best = []
    for side in (walls.right, -walls.left):
        k = mx + o - c / 2 * mz * mz - side
        root = np.sqrt(np.maximum(b * b - 4 * a * k, 0))
        q = -(b + np.where(b < 0, -root, root)) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            depths = np.stack([q / a, k / q])
        good = (depths > 0.3) & (b * b >= 4 * a * k)
        best.append(np.where(good, depths, FAR).min(axis=0))
    right = best[0] < best[1]
    return np.minimum(np.minimum(best[0], best[1]), FAR).astype(np.float32), right


def draw(
    picture: F32, walls: Walls, camera: Camera, light: Light, curvature: F32, offset: F32, travelled: F32
) -> None:
    """Blend the walls into picture [T, H·W, 3] in place."""
    depth, right = hit(walls, camera, curvature, offset)
    depth, right = depth.ravel(), right.ravel()
    frames = len(curvature)
    along = camera.mount[1] + depth.reshape(frames, -1) * camera.ray[1] + travelled[:, None]
    place = (np.floor(along / _STEP).astype(np.int64).ravel() + np.where(right, 0, _ALONG // 2)) % _ALONG
    scale = camera.focal / depth
    top = camera.horizon + scale * (camera.height - walls.height[place])
    bottom = camera.horizon + scale * camera.height
    first = np.clip(np.floor(top), 0, camera.rows).astype(np.int64)
    last = np.clip(np.floor(bottom - 0.5), -1, camera.rows - 1).astype(np.int64)
    count = np.where(depth < FAR, np.maximum(last - first + 1, 0), 0)
    bar = np.repeat(np.arange(len(count)), count)
    row = np.arange(len(bar)) + (first - np.cumsum(count) + count)[bar]
    up = ((bottom[bar] - row - np.float32(0.5)) / scale[bar] * np.float32(1 / _RISE)).astype(np.int64)
    np.clip(up, 0, _UP - 1, out=up)
    jump = np.abs(np.diff(along, axis=1, append=along[:, -1:])).ravel()
    size = np.maximum(np.maximum(jump * 0.6, 0.6 / scale), 0.01) / _STEP
    level = np.clip(np.round(np.log2(size)), 0, _LEVELS - 1).astype(np.int64)
    start = _START[level] + (place >> level) * _WIDE[level]
    up >>= np.minimum(level, _COARSE)[bar]
    texel = walls.texels.take(start[bar] + up, axis=0).astype(np.float32)
    toward = np.where(right, -1.0, 1.0) * np.sin(light.sun)
    clear = light.clear(depth)
    face = clear * (0.86 + 0.14 * toward)
    x = camera.mount[0] + depth * np.tile(camera.ray[0], frames)
    z = camera.mount[1] + depth * np.tile(camera.ray[1], frames)
    shade = (light.ambient[None] + 0.5 * light.head_lamps(x, z, 20.0)[:, None]) * face[:, None]
    window = texel[:, 3:] * (np.float32(light.lamps * 0.8) * clear)[bar, None]
    colour = texel[:, :3] * shade.astype(np.float32)[bar]
    colour += window * np.array((1.0, 0.82, 0.48), np.float32)
    colour += ((1 - clear)[:, None] * light.veil)[bar]
    cover = np.clip(row + 1 - top[bar], 0, 1)[:, None]
    flat = picture.reshape(-1, 3)
    where = (bar // camera.width) * (camera.rows * camera.width) + row * camera.width + bar % camera.width
    flat[where] += cover * (colour - flat[where])
