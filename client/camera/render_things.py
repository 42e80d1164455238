"""Signs, poles, vehicles and people of a drive as upright rectangles in the car's frame; no pixels here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carpool.client.camera.domains import F32, SIGNS, Domain
from carpool.client.camera.render_sprites import atlas
from carpool.client.camera.scene import KINDS, RANGE, SIZES, Drive, Users, sign_range

Ints = NDArray[np.int64]

# Part, kinds that have it, its ends along the vehicle and its breadth (shares of length and width), its
# bottom and top (shares of the height). A cabin reaches down into the body, which hides the gap that
# a bonnet fills.
_BOXES: tuple[tuple[str, tuple[str, ...], tuple[float, ...]], ...] = (
    ("cabin", ("car",), (0.14, -0.44, 0.88, 0.35, 1.0)),
    ("", ("car",), (0.5, -0.5, 1.0, 0.015, 0.6)),
    ("", ("van", "truck"), (0.5, -0.5, 1.0, 0.015, 1.0)),
)
# Corners a and b of each face as (end, side); seen from outside, a is on the left.
_FACES = {
    "rear": ((-1, -1), (-1, 1)),
    "front": ((1, 1), (1, -1)),
    "right": ((-1, 1), (1, 1)),
    "left": ((1, -1), (-1, -1)),
}


@dataclass(frozen=True)
class Quads:
    """Rectangles of one drive in the car's frame, [n] each.

    frame: int64. ends: float32 [n, 4] = (xa, za, xb, zb), m: a on the left as seen from outside. heights:
    float32 [n, 2], bottom and top, m. sprite: int64; back: int64, the sprite from behind, -1 for none.
    paint: float32 [n, 3]. user: bool, belongs to another road user. shine: float32, how strongly it throws
    head lamps back. order: float32 [n, 3] = (x, z, layer) by which rectangles hide each other: the place of
    the thing they belong to, m; a higher layer hides a lower one.
    """

    frame: Ints
    ends: F32
    heights: F32
    sprite: Ints
    back: Ints
    paint: F32
    user: NDArray[np.bool_]
    shine: F32
    order: F32

    def take(self, rows: Ints | NDArray[np.bool_]) -> Quads:
        """Some of the rectangles."""
        return Quads(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class _Spots:
    """Where things stand, [n] each: frame, number of the thing, x and z in m, heading in rad."""

    frame: Ints
    which: Ints
    x: F32
    z: F32
    turn: F32

    def take(self, rows: NDArray[np.bool_]) -> _Spots:
        return _Spots(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def quads(
        self,
        ends: Sequence[F32],
        heights: tuple[F32 | float, F32 | float],
        sprite: Ints,
        *,
        back: int = -1,
        users: Users | None = None,
        shine: float = 0.0,
        layer: int = 0,
    ) -> Quads:
        """One rectangle for each place."""
        n = len(self.frame)
        return Quads(
            frame=self.frame,
            ends=np.stack(ends, axis=1).astype(np.float32),
            heights=np.stack([np.broadcast_to(np.float32(h), (n,)) for h in heights], axis=1),
            sprite=sprite,
            back=np.full(n, back),
            paint=np.zeros((n, 3), np.float32) if users is None else users.paint[self.which],
            user=np.full(n, users is not None),
            shine=np.full(n, shine, np.float32),
            order=np.stack([self.x, self.z, np.full(n, layer)], axis=1).astype(np.float32),
        )


def build(domain: Domain, drive: Drive) -> Quads:
    """Every rectangle of a drive that is near enough to be drawn, ordered by frame."""
    parts = [*_signs(domain, drive), *_users(drive)]
    whole = Quads(*(np.concatenate([getattr(p, n) for p in parts]) for n in Quads.__dataclass_fields__))
    return whole.take(np.argsort(whole.frame, kind="stable"))


def _signs(domain: Domain, drive: Drive) -> list[Quads]:
    index, size = atlas().index, drive.sign_size
    frame, which = np.nonzero((drive.sign_z < sign_range(size)) & (drive.sign_z > -14.0))
    z = drive.sign_z[frame, which]
    x = drive.sign_u + drive.centre(drive.sign_z)[frame, which]
    spots = _Spots(frame, which, x, z, np.zeros_like(x))
    names = np.array([index[f"{domain.country} {name}"] for name in SIGNS[1:]])
    half, low, high = size / 2, 2.15 - size / 2, 2.15 + size / 2
    pole = np.full(len(z), index["pole"])
    return [
        spots.quads([x - 0.09, z, x + 0.09, z], (0.0, low + 0.2), pole, back=index["pole"], shine=0.2),
        spots.quads(
            [x - half, z, x + half, z],
            (low, high),
            names[drive.sign_class[which] - 1],
            back=index["sign back"],
            shine=1.0,
            layer=1,
        ),
    ]


def _users(drive: Drive) -> list[Quads]:
    """Boxes of four faces for vehicles, one rectangle towards us for people."""
    users = drive.users
    if not len(users.kind):
        return []
    frame, which = np.nonzero(np.abs(users.z) < RANGE)
    z = users.z[frame, which]
    x = (users.u + drive.centre(users.z))[frame, which]
    # Heading of the road there; whoever comes towards us is turned around.
    turn = np.arctan(drive.curvature[frame] * z) + np.where(users.away[which], 0, np.pi)
    spots = _Spots(frame, which, x, z, turn.astype(np.float32))
    parts = []
    for layer, (part, kinds, shape) in enumerate(_BOXES):
        some = spots.take(np.isin(users.kind[which], [KINDS.index(kind) for kind in kinds]))
        parts += _box(some, users, part, shape, layer)
    return [*parts, _people(spots.take(users.kind[which] == KINDS.index("person")), users)]


def _box(spots: _Spots, users: Users, part: str, shape: tuple[float, ...], layer: int) -> list[Quads]:
    index = atlas().index
    fore, aft, narrow, bottom, top = shape
    kind = users.kind[spots.which]
    length, width, height = SIZES[kind].T
    ahead = np.stack([np.sin(spots.turn), np.cos(spots.turn)]) * length
    right = np.stack([np.cos(spots.turn), -np.sin(spots.turn)]) * (width * narrow / 2)
    middle = np.stack([spots.x, spots.z])
    quads = []
    for face, corners in _FACES.items():
        sprite = np.array([index.get(" ".join(filter(None, (name, part, face))), 0) for name in KINDS])[kind]
        a, b = (middle + (fore if end > 0 else aft) * ahead + side * right for end, side in corners)
        heights, shine = (bottom * height, top * height), 0.35 if face == "rear" else 0.15
        quads.append(spots.quads([*a, *b], heights, sprite, users=users, shine=shine, layer=layer))
    return quads


def _people(spots: _Spots, users: Users) -> Quads:
    _, width, height = SIZES[users.kind[spots.which]].T
    x, z = spots.x, spots.z
    away = np.maximum(np.hypot(x, z), 0.5)
    px, pz = width / 2 * z / away, -width / 2 * x / away
    sprite = np.full(len(x), atlas().index["person"])
    return spots.quads([x - px, z - pz, x + px, z + pz], (0.0, height), sprite, users=users, shine=0.3)
