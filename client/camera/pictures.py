"""Pictures from outside: size looked at before any pixel is decoded, one sentence for every way to be broken.

Readers of data sets (gtsrb, npz) share this; nothing here knows what a sample means.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from carpool.client.camera.pipeline import Pipeline, cropped
from carpool.client.camera.samples import Frames
from carpool.privacy.errors import DataError

Progress = Callable[[int, int], None]
"""Told (done, total) while a source is read or rendered."""

MAX_PIXELS = 50_000_000
"""A picture above this many pixels is refused unread; the largest automotive cameras have about 8 million."""
MAX_BYTES = 8 * 2**30
"""Bytes of frames (or of one packed array) that a source may ask for; larger sets are split into files."""

FORMATS = ("PPM", "PNG", "JPEG")
BROKEN = (
    OSError,  # Pillow's UnidentifiedImageError and every truncated file
    ValueError,
    SyntaxError,
    IndexError,
    OverflowError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def allocate(n: int, views: int, height: int, width: int, where: str) -> Frames:
    """An uninitialised uint8 [n, views, height, width, 3]; raises DataError above MAX_BYTES."""
    size = n * views * height * width * 3
    if size > MAX_BYTES:
        raise DataError(
            f"{where} holds {n} samples of {views} x {width}x{height} pixels, {size / 2**30:.1f} GiB; the "
            f"limit is {MAX_BYTES // 2**30} GiB; set data.width and data.height lower, or split the data"
        )
    return np.empty((n, views, height, width, 3), np.uint8)


def decode(source: Path | bytes, where: str) -> Image.Image:
    """An RGB picture from a PPM, PNG or JPEG; raises DataError that names `where` if it is broken or huge."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            file = io.BytesIO(source) if isinstance(source, bytes) else source
            with Image.open(file, formats=FORMATS) as picture:
                width, height = picture.size
                if width * height > MAX_PIXELS:
                    raise DataError(
                        f"{where} is {width}x{height}; the limit is {MAX_PIXELS // 10**6} million pixels; "
                        "replace it by a smaller one"
                    )
                return picture.convert("RGB")
    except FileNotFoundError as error:
        raise DataError(f"{where} is missing; restore it or remove its line from the csv") from error
    except BROKEN as error:
        reason = str(error).replace("\n", " ") or type(error).__name__
        raise DataError(f"{where} is not a readable picture ({reason}); replace or remove it") from error


def resized(picture: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """uint8 [height, width, 3]: the whole picture, area-filtered where it shrinks; itself where it fits."""
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


def prepared(
    picture: NDArray[np.uint8], pipeline: Pipeline, width: int, height: int, where: str
) -> NDArray[np.uint8]:
    """uint8 [height, width, 3] of uint8 [h, w, 3]: cropped, then resized; 0 leaves that side as it is."""
    picture = cropped(picture, pipeline, where)
    return resized(picture, width or picture.shape[1], height or picture.shape[0])
