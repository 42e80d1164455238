"""A folder a class: root/CLASS/... or root/train/CLASS/... with root/test (or val, valid, validation) beside.

Pictures right inside the class folder are groups of their own; deeper ones belong together if their folder is
the same (CLASS/drive_3/0001.jpg). Names are sorted with numbers as numbers. The layout is in docs/data.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from carpool.client.camera.film import PICTURES, Film, files_in, folder_of
from carpool.client.camera.layout import MAX_CLASSES
from carpool.client.camera.pictures import Progress
from carpool.client.camera.samples import Frames, Pool, Schema, Target
from carpool.client.camera.settings import DataSettings, Source
from carpool.privacy.errors import DataError

TRAIN = ("train", "training")
TEST = ("test", "testing", "val", "valid", "validation")


def load(settings: DataSettings, vehicles: int, progress: Progress | None = None) -> Source:
    """One view "front", one target "label" whose classes are the folders' names, in natural order.

    At the size of the first picture, which all others must have, where width and height are 0. Nobody knows
    who recorded what, so vehicle is None. Raises DataError for an unusable folder or picture, fewer than two
    classes, and a class of the test set that the training set lacks.
    """
    del vehicles
    root = folder_of(settings, "a folder for each class")
    names = [PurePosixPath(one.name) for one in files_in(root)]
    pictures = [name for name in names if name.suffix.lower() in PICTURES]
    first = [name.parts[0].lower() for name in pictures]
    # A class may be called "train" too: then there are folders beside it that are no split.
    split = next((word for word in TRAIN if word in first), None) if set(first) <= {*TRAIN, *TEST} else None
    tests = None if split is None else next((word for word in TEST if word in first), None)
    whole = [(name, PurePosixPath(*name.parts[split is not None :])) for name in pictures]
    parts = {
        word: [entry for entry, one in zip(whole, first, strict=True) if split is None or one == word]
        for word in (split, tests)
    }
    training, testing = parts[split], [] if tests is None else parts[tests]
    classes = classes_of(root, training)
    if extra := sorted({inner.parts[0] for _, inner in testing} - set(classes)):
        raise DataError(f"{root}/{tests} has the class {extra[0]!r}, which {split} lacks; make them agree")
    film = Film(len(training) + len(testing), 1, settings, str(root), progress)
    for row, (name, _) in enumerate([*training, *testing]):
        film.read(row, 0, root / name)
    frames = film.frames()
    train = pool_of(training, classes, frames[: len(training)])
    return Source(train, pool_of(testing, classes, frames[len(training) :]) if testing else None)


Entries = Sequence[tuple[PurePosixPath, PurePosixPath]]
"""Path below the root, and path that starts with the class."""


def classes_of(root: Path, entries: Entries) -> tuple[str, ...]:
    """The names of the class folders with pictures; raises DataError unless there are 2..MAX_CLASSES."""
    loose = next((name for name, inner in entries if len(inner.parts) < 2), None)
    if loose is not None:
        raise DataError(f"{root / loose} lies in no class folder; move it into one, or away")
    classes = tuple(dict.fromkeys(inner.parts[0] for _, inner in entries))
    if not 2 <= len(classes) <= MAX_CLASSES:
        raise DataError(
            f"{root} has {len(classes)} class folders with pictures ({', '.join(PICTURES)}) in them; "
            f"it needs 2 to {MAX_CLASSES}"
        )
    return classes


def pool_of(entries: Entries, classes: tuple[str, ...], frames: Frames) -> Pool:
    """The samples of one split, with frames uint8 [n, 1, h, w, 3]."""
    number = {name: index for index, name in enumerate(classes)}
    keys = [inner.parent if len(inner.parts) > 2 else inner for _, inner in entries]
    groups = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    return Pool(
        schema=Schema(("front",), frames.shape[2], frames.shape[3], (Target("label", "class", classes),)),
        frames=frames,
        targets={"label": np.array([number[inner.parts[0]] for _, inner in entries], np.int64)},
        group=np.array([groups[key] for key in keys], np.int64),
        order=np.arange(len(entries), dtype=np.int64),
    )
