"""Pictures of signs, vehicles and people, drawn once with plain shapes into one mip-mapped table.

Every sprite is SIZE × SIZE texels of 8 bytes: premultiplied red, green, blue; opacity; paint (how much of
the vehicle's own colour is added); glowing red, green, blue (lamps, which shine at night).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from carpool.client.camera.domains import COUNTRIES, SIGNS

SIZE = 64
LEVELS = 7
_DRAWN = 256  # sprites are drawn larger and averaged down, which smooths their edges

RED, WHITE, BLACK = (200, 16, 30), (245, 245, 245), (20, 20, 20)
BLUE, YELLOW, GREEN = (15, 70, 180), (250, 195, 15), (185, 230, 30)
GLASS, TYRE, METAL = (60, 72, 84), (22, 22, 24), (135, 138, 140)

Colour = tuple[int, int, int]
Points = list[tuple[float, float]]


class Canvas:
    """Draws in units of the sprite's side, origin at the top left."""

    def __init__(self) -> None:
        self.base = Image.new("RGBA", (_DRAWN, _DRAWN), (0, 0, 0, 0))
        self.paint = Image.new("L", (_DRAWN, _DRAWN), 0)
        self.glow = Image.new("RGB", (_DRAWN, _DRAWN), (0, 0, 0))

    def shape(self, points: Points, colour: Colour | None) -> None:
        """A polygon; None is the vehicle's own paint."""
        scaled = [(x * _DRAWN, y * _DRAWN) for x, y in points]
        ImageDraw.Draw(self.base).polygon(scaled, fill=(*(colour or (0, 0, 0)), 255))
        ImageDraw.Draw(self.paint).polygon(scaled, fill=0 if colour else 255)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour | None) -> None:
        """An upright rectangle."""
        self.shape([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour | None) -> None:
        """A circle."""
        turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        self.shape([(x + radius * np.cos(a), y + radius * np.sin(a)) for a in turn], colour)

    def lamp(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        """A rectangle that glows at night."""
        self.box(x0, y0, x1, y1, colour)
        ImageDraw.Draw(self.glow).rectangle([v * _DRAWN for v in (x0, y0, x1, y1)], fill=colour)

    def texels(self) -> NDArray[np.uint8]:
        """uint8 [SIZE, SIZE, 8]."""
        base = np.asarray(self.base, np.float32)
        alpha = base[..., 3:]
        layers = (base[..., :3] * (alpha / 255), alpha, np.asarray(self.paint, np.float32)[..., None])
        full = np.concatenate([*layers, np.asarray(self.glow, np.float32)], axis=2)
        step = _DRAWN // SIZE
        return np.asarray(np.round(full.reshape(SIZE, step, SIZE, step, 8).mean(axis=(1, 3))), np.uint8)


def regular(sides: int, radius: float, turn: float = 0.0, x: float = 0.5, y: float = 0.5) -> Points:
    """Corners of a regular polygon."""
    angles = turn + np.arange(sides) * 2 * np.pi / sides
    return [(x + radius * float(np.sin(a)), y - radius * float(np.cos(a))) for a in angles]


def _triangle(scale: float, down: bool) -> Points:
    points = [(0.5, 0.5 - 0.46 * scale), (0.5 + 0.48 * scale, 0.5 + 0.38 * scale)]
    points.append((0.5 - 0.48 * scale, 0.5 + 0.38 * scale))
    return [(x, 1 - y) for x, y in points] if down else points


def _digits(c: Canvas, colour: Colour, left: float, top: float, height: float) -> None:
    """A bold "50"."""
    w, t = height * 0.5, height * 0.2
    for x0, y0, x1, y1 in (
        (0, 0, w, t),
        (0, 0, t, height / 2),
        (0, height * 0.4, w, height * 0.4 + t),
        (w - t, height * 0.4, w, height),
        (0, height - t, w, height),
    ):
        c.box(left + x0, top + y0, left + x1, top + y1, colour)
    second = left + w + t * 0.8
    c.box(second, top, second + w, top + height, colour)
    c.box(second + t, top + t, second + w - t, top + height - t, WHITE)


def _sign(c: Canvas, name: str, us: bool) -> None:
    if name == "stop":
        c.shape(regular(8, 0.5, np.pi / 8), WHITE)
        c.shape(regular(8, 0.46, np.pi / 8), RED)
        for i, x in enumerate((0.16, 0.34, 0.52, 0.70)):
            c.box(x, 0.38, x + 0.14, 0.62, WHITE)
            c.box(x + 0.04, 0.44 + 0.02 * (i % 2), x + 0.10, 0.56, RED)
    elif name == "yield":
        c.shape(_triangle(1.0, True), RED)
        c.shape([(x, y - 0.02) for x, y in _triangle(0.5, True)], WHITE)
    elif name == "speed_limit":
        if us:
            c.box(0.14, 0.02, 0.86, 0.98, BLACK)
            c.box(0.18, 0.06, 0.82, 0.94, WHITE)
            c.box(0.26, 0.14, 0.74, 0.20, BLACK)
            c.box(0.26, 0.26, 0.74, 0.32, BLACK)
            _digits(c, BLACK, 0.25, 0.42, 0.44)
        else:
            c.disc(0.5, 0.5, 0.48, RED)
            c.disc(0.5, 0.5, 0.36, WHITE)
            _digits(c, BLACK, 0.27, 0.31, 0.40)
    elif name == "no_entry":
        if us:
            c.box(0.02, 0.02, 0.98, 0.98, WHITE)
        c.disc(0.5, 0.5, 0.47, RED)
        c.box(0.14, 0.40, 0.86, 0.60, WHITE)
    elif name == "warning":
        if us:
            c.shape(regular(4, 0.5), BLACK)
            c.shape(regular(4, 0.45), (245, 140, 20))
            c.box(0.43, 0.22, 0.57, 0.78, BLACK)
        else:
            c.shape(_triangle(1.0, False), RED)
            c.shape([(x, y + 0.05) for x, y in _triangle(0.58, False)], WHITE)
            c.box(0.45, 0.36, 0.55, 0.74, BLACK)
    else:
        _more_signs(c, name, us)


def _more_signs(c: Canvas, name: str, us: bool) -> None:
    if name == "priority":
        c.shape(regular(4, 0.5), WHITE)
        c.shape(regular(4, 0.37), YELLOW)
    elif name == "keep_right":
        colour = BLACK if us else WHITE
        if us:
            c.box(0.14, 0.02, 0.86, 0.98, WHITE)
        else:
            c.disc(0.5, 0.5, 0.48, BLUE)
        c.shape([(0.24, 0.30), (0.33, 0.21), (0.65, 0.53), (0.56, 0.62)], colour)
        c.shape([(0.76, 0.40), (0.76, 0.74), (0.42, 0.74)], colour)
    elif name == "no_stopping":
        if us:
            c.box(0.02, 0.02, 0.98, 0.98, WHITE)
        c.disc(0.5, 0.5, 0.47, RED)
        c.disc(0.5, 0.5, 0.36, WHITE if us else BLUE)
        if us:
            c.box(0.38, 0.26, 0.47, 0.76, BLACK)
            c.disc(0.52, 0.39, 0.13, BLACK)
        c.shape([(0.20, 0.27), (0.27, 0.20), (0.80, 0.73), (0.73, 0.80)], RED)
        if not us:
            c.shape([(0.73, 0.20), (0.80, 0.27), (0.27, 0.80), (0.20, 0.73)], RED)
    elif name == "crossing":
        if us:
            c.shape([(0.5, 0.0), (0.98, 0.42), (0.98, 1.0), (0.02, 1.0), (0.02, 0.42)], GREEN)
            colour = BLACK
        else:
            c.box(0.02, 0.02, 0.98, 0.98, BLUE)
            c.shape([(0.5, 0.10), (0.92, 0.88), (0.08, 0.88)], WHITE)
            colour = BLACK
        c.disc(0.5, 0.38, 0.07, colour)
        c.shape([(0.5, 0.42), (0.66, 0.82), (0.56, 0.82), (0.5, 0.66), (0.44, 0.82), (0.34, 0.82)], colour)
    else:
        raise ValueError(f"no picture for the sign {name!r}")


def _rear(c: Canvas, kind: str, front: bool) -> None:
    lamp = (255, 250, 225) if front else (225, 20, 15)
    c.box(0.06, 0.86, 0.26, 1.0, TYRE)
    c.box(0.74, 0.86, 0.94, 1.0, TYRE)
    c.box(0.1, 0.84, 0.9, 0.94, (30, 30, 32))
    if kind == "car":
        c.box(0.02, 0.02, 0.98, 0.82, None)
        lamps, plate = (0.20, 0.42), 0.5
    elif kind == "van":
        c.box(0.03, 0.02, 0.97, 0.88, None)
        c.box(0.12, 0.10, 0.88, 0.42, GLASS)
        lamps, plate = (0.54, 0.68), 0.74
    else:
        c.box(0.0, 0.0, 1.0, 0.84, (215, 215, 210) if not front else None)
        c.box(0.08, 0.16, 0.92, 0.44, GLASS if front else (196, 196, 192))
        lamps, plate = (0.76, 0.83), 0.78
    c.lamp(0.05, lamps[0], 0.22, lamps[1], lamp)
    c.lamp(0.78, lamps[0], 0.95, lamps[1], lamp)
    c.box(0.38, plate, 0.62, plate + 0.07, (230, 225, 190))


def _side(c: Canvas, kind: str) -> None:
    """Nose to the right."""
    if kind == "car":
        c.shape([(0.01, 0.04), (0.70, 0.02), (0.97, 0.16), (0.99, 0.78), (0.01, 0.78)], None)
        c.box(0.30, 0.12, 0.31, 0.7, (40, 40, 40))
        wheel, axles = 0.30, [0.19, 0.80]
    elif kind == "van":
        c.shape([(0.01, 0.02), (0.76, 0.02), (0.90, 0.42), (0.99, 0.50), (0.99, 0.88), (0.01, 0.88)], None)
        c.shape([(0.64, 0.10), (0.74, 0.10), (0.85, 0.42), (0.64, 0.42)], GLASS)
        wheel, axles = 0.14, [0.20, 0.82]
    else:
        c.box(0.0, 0.0, 0.76, 0.82, (215, 215, 210))
        c.shape([(0.78, 0.16), (0.95, 0.16), (0.99, 0.45), (0.99, 0.86), (0.78, 0.86)], None)
        c.shape([(0.85, 0.22), (0.94, 0.22), (0.97, 0.44), (0.85, 0.44)], GLASS)
        c.box(0.0, 0.80, 0.98, 0.90, (45, 45, 48))
        wheel, axles = 0.12, [0.12, 0.28, 0.88]
    low, high = (0.2, 0.36) if kind == "car" else (0.52, 0.62)
    c.lamp(0.955, low, 0.985, high, (255, 250, 225))
    c.lamp(0.015, low, 0.04, high, (225, 20, 15))
    ratio = {"car": 0.205, "van": 0.45, "truck": 0.40}[kind]  # height over length: wheels stay round
    for x in axles:
        turn = np.linspace(0, 2 * np.pi, 32, endpoint=False)
        for size, colour in ((wheel, TYRE), (wheel * 0.5, METAL)):
            points = [(x + size * ratio * np.cos(a), 1 - wheel + size * np.sin(a)) for a in turn]
            c.shape([(float(px), float(min(py, 1.0))) for px, py in points], colour)


def _cabin(c: Canvas, side: bool) -> None:
    """A car's upper half: roof, windows; the lowest third lies inside the body. Nose to the right."""
    if side:
        c.shape([(0.02, 0.0), (0.90, 0.0), (1.0, 0.62), (1.0, 1.0), (0.0, 1.0), (0.0, 0.4)], None)
        c.shape([(0.09, 0.12), (0.42, 0.12), (0.42, 0.58), (0.06, 0.58)], GLASS)
        c.shape([(0.48, 0.12), (0.84, 0.12), (0.92, 0.58), (0.48, 0.58)], GLASS)
    else:
        c.shape([(0.03, 0.0), (0.97, 0.0), (1.0, 0.62), (1.0, 1.0), (0.0, 1.0), (0.0, 0.62)], None)
        c.shape([(0.10, 0.12), (0.90, 0.12), (0.94, 0.58), (0.06, 0.58)], GLASS)


def _person(c: Canvas) -> None:
    c.disc(0.5, 0.09, 0.08, (205, 160, 130))
    c.shape([(0.30, 0.20), (0.70, 0.20), (0.74, 0.56), (0.26, 0.56)], None)
    c.shape([(0.30, 0.55), (0.70, 0.55), (0.78, 1.0), (0.60, 1.0), (0.5, 0.66), (0.40, 1.0), (0.22, 1.0)],
            (45, 50, 75))  # fmt: skip


def _sign_back(c: Canvas) -> None:
    c.disc(0.5, 0.5, 0.48, (125, 128, 130))


def _pole(c: Canvas) -> None:
    c.box(0.0, 0.0, 1.0, 1.0, (120, 122, 124))


def _drawings() -> dict[str, Callable[[Canvas], None]]:
    table: dict[str, Callable[[Canvas], None]] = {}
    for country in COUNTRIES:
        for name in SIGNS[1:]:
            table[f"{country} {name}"] = partial(_sign, name=name, us=country == "US")
    table |= {"sign back": _sign_back, "pole": _pole, "person": _person}
    for kind in ("car", "van", "truck"):
        table[f"{kind} rear"] = partial(_rear, kind=kind, front=False)
        table[f"{kind} front"] = partial(_rear, kind=kind, front=True)
        table[f"{kind} right"] = partial(_side, kind=kind)
    for face in ("rear", "front", "right"):
        table[f"car cabin {face}"] = partial(_cabin, side=face == "right")
    return table


@dataclass(frozen=True)
class Atlas:
    """All sprites at all sizes, one texel a row.

    texels: uint8 [n, 8]. start: int64 [LEVELS], first row of each level. index: number of a sprite by name.
    """

    texels: NDArray[np.uint8]
    start: NDArray[np.int64]
    index: dict[str, int]


@lru_cache(maxsize=1)
def atlas() -> Atlas:
    """Draw every sprite once a process."""
    pictures: dict[str, NDArray[np.uint8]] = {}
    for name, draw in _drawings().items():
        canvas = Canvas()
        draw(canvas)
        pictures[name] = canvas.texels()
        if name.endswith(" right"):
            pictures[name.removesuffix("right") + "left"] = pictures[name][:, ::-1]
    level = np.stack(list(pictures.values())).astype(np.float32)
    rows, start = [], [0]
    for _ in range(LEVELS):
        rows.append(np.round(level).astype(np.uint8).reshape(-1, 8))
        start.append(start[-1] + len(rows[-1]))
        half = level.shape[1] // 2
        if half:
            level = level.reshape(len(level), half, 2, half, 2, 8).mean(axis=(2, 4))
    index = {name: i for i, name in enumerate(pictures)}
    return Atlas(np.concatenate(rows), np.array(start[:LEVELS], np.int64), index)
