"""Camera frames for a page: as data URIs, and placed as the cameras sit around the car."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FRAME_WIDTH = 256
RAW_WIDTH = 128


def frame_uri(frame: NDArray[np.uint8]) -> str:
    """A camera frame uint8 [h, w, 3] as a data URI: PNG up to 128 pixels a side, else a smaller JPEG."""
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
        raise ValueError(f"a sample frame must be uint8 (h, w, 3), not {frame.dtype} {frame.shape}")
    image = Image.fromarray(np.ascontiguousarray(frame))
    small = max(image.size) <= RAW_WIDTH
    image.thumbnail((FRAME_WIDTH, FRAME_WIDTH))
    buffer = io.BytesIO()
    if small:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=82)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def surround(views: Sequence[tuple[str, str]]) -> list[list[list[tuple[str, str]]]]:
    """Cameras as they sit around the car from above: rows front, sides, rear; columns left, middle, right.

    A name's words decide ("rear_left"); what has no such word goes to the middle. Empty rows are left out.

    >>> surround([("front", "a"), ("rear_left", "b")])
    [[[], [('front', 'a')], []], [[('rear_left', 'b')], [], []]]
    """
    grid: list[list[list[tuple[str, str]]]] = [[[], [], []] for _ in range(3)]
    for name, uri in views:
        low = name.lower()
        column = 0 if "left" in low else 2 if "right" in low else 1
        row = 0 if "front" in low else 2 if "rear" in low or "back" in low else 1
        grid[row][column].append((name, uri))
    return [row for row in grid if any(row)]
