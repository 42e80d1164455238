"""Pictures that a user names on the command line, as samples of a model's schema.

One view: every picture is a sample, and a folder stands for those in it. Several views: a sample is a folder
with a picture for each, named by view (front.png, left.png); a folder of such folders is all of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ImageOps

from carpool.client.camera.pictures import BROKEN, decode, prepared
from carpool.client.camera.samples import Frames, Schema
from carpool.privacy.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".ppm")
MAX_FILE = 100 * 2**20
"""Bytes of a picture file; the pixels are limited by `camera.pictures.MAX_PIXELS`."""
MAX_SAMPLES = 10_000


def read_pictures(paths: Sequence[Path], schema: Schema) -> tuple[list[str], Frames]:
    """Names and frames uint8 [n, views, h, w, 3] of the samples that `paths` stand for, scaled to the schema.

    Raises DataError that names the file for what is missing, broken, huge, no picture or without a view.
    """
    find = single if len(schema.views) == 1 else several
    samples = [sample for path in paths for sample in find(path, schema.views)]
    if len(samples) > MAX_SAMPLES:
        raise DataError(f"{len(samples)} samples are too many at once; give at most {MAX_SAMPLES}")
    shape = (len(samples), len(schema.views), schema.height, schema.width, 3)
    frames = np.empty(shape, np.uint8)
    for row, (_, files) in enumerate(samples):
        for view, file in enumerate(files):
            frames[row, view] = read_picture(file, schema)
    return [name for name, _ in samples], frames


def single(path: Path, views: tuple[str, ...]) -> list[tuple[str, list[Path]]]:
    """The samples of a model with one view."""
    if not path.is_dir():
        return [(path.name, [path])]
    files = pictures_of(path)
    if not files:
        raise DataError(f"{path} has no pictures ({', '.join(SUFFIXES)}); name the folder they are in")
    return [(file.name, [file]) for file in files]


def several(path: Path, views: tuple[str, ...]) -> list[tuple[str, list[Path]]]:
    """The samples of a model with several views."""
    wanted = ", ".join(f"{view}.png" for view in views)
    if path.is_file():
        raise DataError(
            f"{path} is one picture, and this model looks at {len(views)}; give a folder with {wanted}"
        )
    if not path.is_dir():
        raise DataError(f"there is no {path}; give a folder with {wanted}")
    if any(file.stem in views for file in pictures_of(path)):
        return [(path.resolve().name, by_view(path, views))]
    folders = [
        inside
        for inside in listed(path)
        if inside.is_dir() and any(file.stem in views for file in pictures_of(inside))
    ]
    if not folders:
        raise DataError(f"{path} has no picture of a view, nor has a folder in it; it needs {wanted}")
    return [(folder.name, by_view(folder, views)) for folder in folders]


def by_view(folder: Path, views: tuple[str, ...]) -> list[Path]:
    """The picture of each view in a folder, in their order; pictures with other names are left aside."""
    found = {view: [file for file in pictures_of(folder) if file.stem == view] for view in views}
    for view, files in found.items():
        if not files:
            raise DataError(f"{folder} has no {view}.png; the model needs {', '.join(views)}")
        if len(files) > 1:
            both = " and ".join(file.name for file in files)
            raise DataError(f"{folder} has {both}, two pictures of one view; keep one")
    return [files[0] for files in found.values()]


def pictures_of(folder: Path) -> list[Path]:
    """Files with a picture's suffix, by name; hidden ones are left out."""
    return [file for file in listed(folder) if file.suffix.lower() in SUFFIXES and file.is_file()]


def listed(folder: Path) -> list[Path]:
    """What is in a folder, by name, without hidden entries; raises DataError."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"cannot look into {folder}: {(error.strerror or str(error)).lower()}") from error


def read_picture(file: Path, schema: Schema) -> Frames:
    """One picture, turned as its EXIF says, cropped as those in training, uint8 [height, width, 3].

    Raises DataError naming the file.
    """
    if not file.is_file():
        what = "is not a file" if file.exists() else "is missing"
        raise DataError(f"{file} {what}; name a picture ({', '.join(SUFFIXES)}) or a folder of them")
    if file.stat().st_size > MAX_FILE:
        raise DataError(f"{file} has more than {MAX_FILE // 2**20} MiB; replace it by a smaller picture")
    picture = decode(file, str(file))
    with contextlib.suppress(*BROKEN):  # an unreadable orientation is none
        picture = ImageOps.exif_transpose(picture)
    return prepared(np.asarray(picture), schema.pipeline, schema.width, schema.height, str(file))
