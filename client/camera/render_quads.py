"""Upright textured rectangles (signs, poles, faces of vehicles, people), drawn for many frames at once.

Loops run over the depth order inside a frame, never over frames or pixels: all rectangles that are the n-th
farthest of their frame are blended in one step, since no two of them share a pixel.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from carpool.client.camera.domains import F32
from carpool.client.camera.render_camera import Camera
from carpool.client.camera.render_light import Light
from carpool.client.camera.render_sprites import LEVELS, SIZE, atlas
from carpool.client.camera.render_things import Ints, Quads

NEAR = 0.4
"""What is nearer to the camera than this is cut off, m."""


@dataclass(frozen=True)
class Projected:
    """Rectangles in one picture, farthest first.

    lateral, depth: float32 [n, 2], m, at both ends. columns: int64 [n, 2], first and last. rank: int64 [n],
    how many things of the same frame are farther away.
    """

    quads: Quads
    lateral: F32
    depth: F32
    columns: Ints
    rank: Ints


def project(quads: Quads, camera: Camera) -> Projected:
    """Turn away what this camera cannot see, cut the rest at NEAR and sort it by frame order."""
    x, z = quads.ends[:, 0::2] - camera.mount[0], quads.ends[:, 1::2] - camera.mount[1]
    depth = z * camera.cos - x * camera.sin
    lateral = x * camera.cos + z * camera.sin
    outside = lateral[:, 0] * depth[:, 1] < lateral[:, 1] * depth[:, 0]
    keep = (depth.max(axis=1) > NEAR) & (outside | (quads.back >= 0))
    sprite = np.where(outside, quads.sprite, quads.back)
    # Columns from the ends, with the part behind NEAR cut off.
    share = np.clip((NEAR - depth) / np.where(depth != depth[:, ::-1], depth[:, ::-1] - depth, 1), 0, 1)
    share = np.where(depth < NEAR, share, 0).astype(np.float32)
    cut = depth + share * (depth[:, ::-1] - depth)
    screen = camera.width / 2 + camera.focal * (lateral + share * (lateral[:, ::-1] - lateral)) / np.maximum(
        cut, NEAR
    )
    first = np.ceil(np.clip(screen.min(axis=1), 0, camera.width) - 0.5).astype(np.int64)
    last = np.floor(np.clip(screen.max(axis=1), 0, camera.width) - 0.5).astype(np.int64)
    keep &= last >= first
    rows = np.nonzero(keep)[0]
    place = quads.order[:, :2] - camera.mount
    key = place[:, 1] * camera.cos - place[:, 0] * camera.sin - 0.3 * quads.order[:, 2]
    key += 0.02 * depth.mean(axis=1)  # faces of one box
    rows = rows[np.lexsort((-key[rows], quads.frame[rows]))]
    frame = quads.frame[rows]
    rank = np.arange(len(rows)) - np.searchsorted(frame, frame)
    order = np.argsort(rank, kind="stable")
    rows = rows[order]
    seen = Quads(**{**vars(quads), "sprite": sprite}).take(rows)
    return Projected(seen, lateral[rows], depth[rows], np.stack([first, last], 1)[rows], rank[order])


def _ragged(counts: Ints) -> tuple[Ints, Ints]:
    """For lengths c: owner and position of each of sum(c) items."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)


def draw(picture: F32, quads: Quads, camera: Camera, light: Light) -> F32:
    """Blend the rectangles into picture [T, H·W, 3] in place.

    Returns float32 [T]: pixels covered by other road users, each weighted by its opacity and by what the
    haze leaves of it.
    """
    frames, pixels = picture.shape[:2]
    seen = project(quads, camera)
    if not len(seen.rank):
        return np.zeros(frames, np.float32)
    owner, column = _ragged(seen.columns[:, 1] - seen.columns[:, 0] + 1)
    column += seen.columns[owner, 0]
    ray = (column + np.float32(0.5) - camera.width / 2) / camera.focal
    lateral, depth = seen.lateral[owner], seen.depth[owner]
    run = (lateral[:, 1] - lateral[:, 0]) - ray * (depth[:, 1] - depth[:, 0])
    u = np.clip((ray * depth[:, 0] - lateral[:, 0]) / np.where(run == 0, 1, run), 0, 1)
    away = np.maximum(depth[:, 0] + u * (depth[:, 1] - depth[:, 0]), NEAR)
    heights = seen.quads.heights[owner]
    bottom, top = (camera.horizon + camera.focal * (camera.height - heights[:, i]) / away for i in (0, 1))
    first = np.ceil(np.clip(top, 0, camera.rows) - 0.5).astype(np.int64)
    last = np.floor(np.clip(bottom, 0, camera.rows) - 0.5).astype(np.int64)
    bar, row = _ragged(np.maximum(last - first + 1, 0))
    row += first[bar]
    v = (row + np.float32(0.5) - top[bar]) / (bottom - top)[bar]
    spread = np.bincount(owner, minlength=len(seen.rank))
    tall = np.bincount(owner, bottom - top, minlength=len(seen.rank)) / np.maximum(spread, 1)
    detail = np.log2(SIZE / np.sqrt(np.maximum(tall * spread, 1.0)))
    level = np.clip(np.floor(detail + 0.35), 0, LEVELS - 1).astype(np.int64)
    thing = owner[bar]
    texel = _sample(seen.quads.sprite[thing], level[thing], u[bar].astype(np.float32), v.astype(np.float32))
    paint = seen.quads.paint[thing] * (texel[:, 4:5] / 255)
    shade, haze, veil = light.things(seen, camera)
    colour = (texel[:, :3] + paint) * shade[thing] + texel[:, 5:8] * light.lamps
    alpha = np.asarray(texel[:, 3:4] / 255, np.float32)
    clear = haze[thing][:, None]
    colour = colour * clear + alpha * (1 - clear) * veil
    weight = np.asarray(alpha[:, 0] * haze[thing] * seen.quads.user[thing], np.float32)
    where = seen.quads.frame[thing] * pixels + row * camera.width + column[bar]
    return _blend(picture, where, np.asarray(colour, np.float32), alpha, weight, seen.rank[thing])


def _blend(picture: F32, where: Ints, colour: F32, alpha: F32, weight: F32, rank: Ints) -> F32:
    """Lay texels over the picture, farthest first; returns the sum of `weight` that stays in sight, [T]."""
    frames, pixels = picture.shape[:2]
    flat, covered = picture.reshape(-1, 3), np.zeros(frames * pixels, np.float32)
    keep = 1 - alpha
    bounds = np.searchsorted(rank, np.arange(rank.max(initial=-1) + 2)).tolist()
    for start, stop in itertools.pairwise(bounds):
        part = slice(start, stop)
        at = where[part]
        flat[at] = flat[at] * keep[part] + colour[part]
        covered[at] = covered[at] * keep[part, 0] + weight[part]
    return np.asarray(covered.reshape(frames, pixels).sum(axis=1), np.float32)


def _sample(sprite: Ints, level: Ints, u: F32, v: F32) -> F32:
    """Bilinear texels float32 [n, 8] at u, v in 0..1; outside the sprite the edge goes on."""
    table = atlas()
    side = (SIZE >> level).astype(np.int64)
    x, y = np.clip(u * side - 0.5, 0, side - 1), np.clip(v * side - 0.5, 0, side - 1)
    x0, y0 = x.astype(np.int64), y.astype(np.int64)
    right, down = np.minimum(x0 + 1, side - 1) - x0, (np.minimum(y0 + 1, side - 1) - y0) * side
    corner = table.start[level] + (sprite * side + y0) * side + x0
    fx, fy = (x - x0).astype(np.float32)[:, None], (y - y0).astype(np.float32)[:, None]
    rows = table.texels
    above = rows[corner] * (1 - fx) + rows[corner + right] * fx
    below = rows[corner + down] * (1 - fx) + rows[corner + down + right] * fx
    return np.asarray(above * (1 - fy) + below * fy, np.float32)
