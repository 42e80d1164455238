"""Folders of Hugging Face data sets, offline: Parquet files, or the Arrow files of `save_to_disk`.

Read with pyarrow alone (the extra `parquet`); nothing is downloaded and no data set script is run. Pictures
are in the column, as {bytes, path} or as bytes. The layout is in docs/data.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carpool.client.camera.film import MAX_FILE, Film, files_in, folder_of
from carpool.client.camera.layout import KNOWN, MAX_CLASSES
from carpool.client.camera.npz import GROUPS, ORDERS
from carpool.client.camera.pictures import Progress, decode
from carpool.client.camera.samples import Frames, Pool, Schema, Target
from carpool.client.camera.settings import VIEWS, DataSettings, Source
from carpool.client.camera.tables import SUFFIXES, batches_of, count_of, pyarrow, schema_of
from carpool.privacy.errors import DataError

TRAIN = ("train", "training")
TEST = ("test", "testing", "val", "valid", "validation", "dev")
COLUMN = "label"
KEYS = (*GROUPS, *ORDERS, "vehicle")


@dataclass(frozen=True)
class Plan:
    """Which columns are pictures (view -> column), which are targets, which are keys."""

    views: Mapping[str, str]
    targets: tuple[Target, ...]
    keys: tuple[str, ...]

    @property
    def columns(self) -> list[str]:
        """Every column to be read."""
        return [*self.views.values(), *(target.name for target in self.targets), *self.keys]


def load(settings: DataSettings, vehicles: int, progress: Progress | None = None) -> Source:
    """Targets: columns that are ClassLabel, else `label`; and the driving values that npz knows too.

    At the size of the first picture, which all others must have, where width and height are 0. Raises
    UsageError where pyarrow is not installed, DataError naming file and row for anything unusable.
    """
    del vehicles
    root = folder_of(settings, "*.parquet or *.arrow files")
    names = [PurePosixPath(one.name) for one in files_in(root)]
    tables = [name for name in names if name.suffix in SUFFIXES and not name.name.startswith("cache-")]
    if not tables:
        raise DataError(f"{root} has no {' or '.join(SUFFIXES)} file in it; name the data set's folder")
    training = [name for name in tables if split_of(name) in TRAIN]
    testing = next((part for word in TEST if (part := [n for n in tables if split_of(n) == word])), [])
    if not training:
        training, testing = ([n for n in tables if split_of(n) is None], testing)
    if not training:
        raise DataError(f"{root} has only {', '.join(map(str, testing))}; it needs files of the split train")
    plan = plan_of(root / training[0])
    for name in (*training, *testing):
        if plan_of(root / name) != plan:
            raise DataError(f"{root / name} has other columns or classes than {training[0]}; make them agree")
    counts = [sum(count_of(root / name) for name in part) for part in (training, testing)]
    film = Film(sum(counts), len(plan.views), settings, str(root), progress)
    columns = read([root / name for name in (*training, *testing)], plan, film)
    plan = counted(plan, columns, root)
    cut = len(columns[plan.targets[0].name]) - counts[1]
    frames = film.frames()
    train = pool_of(plan, frames[:cut], {name: values[:cut] for name, values in columns.items()}, root)
    if not testing:
        return Source(train)
    held = {name: values[cut:] for name, values in columns.items()}
    return Source(train, pool_of(plan, frames[cut:], held, root))


def split_of(name: PurePosixPath) -> str | None:
    """The split that a file's name or folder says: train-00000-of-00002.parquet, train/data-00000.arrow."""
    for word in (name.name.split(".")[0].split("-")[0], *reversed(name.parts[:-1])):
        if word.lower() in (*TRAIN, *TEST):
            return word.lower()
    return None


def plan_of(file: Path) -> Plan:
    """The columns of a file by name, type and the data set's own metadata; raises DataError."""
    pa = pyarrow()
    schema = schema_of(file)
    features = features_of(schema.metadata)
    kinds = {field.name: field.type for field in schema}
    pictures = [name for name, kind in kinds.items() if is_picture(pa, kind)]
    views = {name: name for name in VIEWS if name in pictures}
    if not views:
        if not pictures:
            raise DataError(f"{file} has no column of pictures ({{bytes, path}} or bytes) in it; embed them")
        views = {VIEWS[0]: next((name for name in pictures if name in ("image", "img")), pictures[0])}
    targets = [
        Target(name, "class", classes=classes)
        for name, classes in features.items()
        if name in kinds and name.isidentifier()
    ]
    if not targets and COLUMN in kinds and pa.types.is_integer(kinds[COLUMN]):
        targets = [Target(COLUMN, "class")]  # its classes are counted when it is read
    numeric = [n for n, kind in kinds.items() if pa.types.is_integer(kind) or pa.types.is_floating(kind)]
    targets += [one for name, one in KNOWN.items() if one.kind == "value" and name in numeric]
    if not targets:
        raise DataError(
            f"{file} has no ClassLabel, no whole-number column {COLUMN} and none of "
            f"{', '.join(name for name, one in KNOWN.items() if one.kind == 'value')}; add what to predict"
        )
    keys = tuple(name for name in KEYS if name in kinds and pa.types.is_integer(kinds[name]))
    return Plan(views, tuple(targets), keys)


def features_of(metadata: Mapping[bytes, bytes] | None) -> dict[str, tuple[str, ...]]:
    """Column -> class names, of every ClassLabel in the metadata that `datasets` writes."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {
            str(name): tuple(str(one) for one in feature["names"])
            for name, feature in features.items()
            if isinstance(feature, dict)
            and feature.get("_type") == "ClassLabel"
            and isinstance(feature.get("names"), list)
            and 2 <= len(feature["names"]) <= MAX_CLASSES
        }
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def is_picture(pa: Any, kind: Any) -> bool:
    """Is this bytes, or a struct with bytes in it."""
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and is_picture(pa, kind.field(place).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def read(files: Sequence[Path], plan: Plan, film: Film) -> dict[str, list[Any]]:
    """Fill the film and give the other columns; raises DataError naming file and row."""
    columns: dict[str, list[Any]] = {name: [] for name in plan.columns[len(plan.views) :]}
    row = 0
    for file in files:
        first = row
        for part in batches_of(file, plan.columns):
            for name, values in columns.items():
                values += part[name]
            for view, name in enumerate(plan.views.values()):
                for index, cell in enumerate(part[name]):
                    place = f"{file} row {row + index - first}"
                    film.put(row + index, view, picture_of(cell, name, place), place)
            row += len(part[plan.columns[0]])
    return columns


def picture_of(cell: object, name: str, place: str) -> NDArray[np.uint8]:
    """uint8 [h, w, 3] out of bytes or {bytes, path}; raises DataError, also for a path without bytes."""
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(data, bytes) or not data:
        raise DataError(f"{place} has no bytes in {name!r}; save the data set with its pictures embedded")
    if len(data) > MAX_FILE:
        raise DataError(f"{place} has a picture above {MAX_FILE // 2**20} MiB; replace it by a smaller one")
    return np.asarray(decode(data, place))


def counted(plan: Plan, columns: Mapping[str, list[Any]], root: Path) -> Plan:
    """The plan in which a label without names has the classes "0", "1", ... that occur."""
    done = []
    for target in plan.targets:
        if target.kind == "class" and not target.classes:
            most = max((value for value in columns[target.name] if value is not None), default=0)
            if not 1 <= most < MAX_CLASSES:
                raise DataError(
                    f"{root}: the largest {target.name} is {most}; it must be 1 to {MAX_CLASSES - 1}"
                )
            target = replace(target, classes=tuple(str(one) for one in range(most + 1)))
        done.append(target)
    return replace(plan, targets=tuple(done))


def pool_of(plan: Plan, frames: Frames, columns: Mapping[str, list[Any]], root: Path) -> Pool:
    """One split; rows without a group are groups of their own. Raises DataError."""
    n = len(frames)
    rows = np.arange(n, dtype=np.int64)
    group, order = (first_of(plan, columns, names, root) for names in (GROUPS, ORDERS))
    vehicle = first_of(plan, columns, ("vehicle",), root)
    if vehicle is not None and group is None:
        raise DataError(
            f"{root} has a column vehicle and none of {', '.join(GROUPS)}; add one, so that near copies stay "
            "on one side of the validation split"
        )
    if vehicle is not None and group is not None:  # drive 0 of one vehicle is not drive 0 of another
        pairs = np.unique(np.stack([vehicle, group]), axis=1, return_inverse=True)[1]
        group = pairs.reshape(n).astype(np.int64)
    targets: dict[str, NDArray[np.generic]] = {}
    for target in plan.targets:
        if target.kind == "class":
            targets[target.name] = whole(columns[target.name], target.name, root)
        else:
            numbers = [np.nan if value is None else value for value in columns[target.name]]
            with np.errstate(over="ignore"):  # infinite, which the pool refuses by row
                targets[target.name] = np.array(numbers, np.float64).astype(np.float32)
    schema = Schema(tuple(plan.views), frames.shape[2], frames.shape[3], plan.targets)
    try:
        return Pool(
            schema,
            frames,
            targets,
            rows if group is None else group,
            rows if order is None else order,
            vehicle,
        )
    except DataError as error:
        raise DataError(f"{root}: {error}") from error


def first_of(
    plan: Plan, columns: Mapping[str, list[Any]], names: tuple[str, ...], root: Path
) -> NDArray[np.int64] | None:
    """The first of the key columns `names` that is there, int64 [n]."""
    name = next((name for name in names if name in plan.keys), None)
    return None if name is None else whole(columns[name], name, root)


def whole(values: Sequence[int | None], name: str, root: Path) -> NDArray[np.int64]:
    """int64 [n]; raises DataError for an empty cell or a number beyond 64 bits."""
    if None in values:
        raise DataError(f"{root}: column {name!r} is empty in row {values.index(None)}; fill it in")
    try:
        return np.array(values, np.int64)
    except OverflowError as error:
        raise DataError(f"{root}: column {name!r} has a number beyond 64 bits; make it smaller") from error
