"""What the columns of an .npz mean: its own `schema` (JSON), or column names that are known without one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from carpool.client.camera.archive import Archive
from carpool.client.camera.pictures import decode
from carpool.client.camera.samples import Target
from carpool.client.camera.settings import VIEWS
from carpool.client.camera.signs import SIGN
from carpool.privacy.errors import DataError

KNOWN: Mapping[str, Target] = {
    "label": SIGN,
    "steering": Target("steering", "value", unit="of full lock, right positive"),
    "throttle": Target("throttle", "value", unit="of full"),
    "brake": Target("brake", "value", unit="of full"),
    "speed_mph": Target("speed_mph", "value", unit="mph", scale=30.0),
}
"""Columns that need no schema, and what they are."""
LOG_VIEWS = ("front_left", "front", "front_right")
"""The three side-by-side cameras of a driving log: left, centre, right."""
MAX_SCHEMA = 1_000_000
MAX_CLASSES = 10_000


@dataclass(frozen=True)
class Layout:
    """Views, targets, the column that each target comes from, and a few words a vehicle."""

    views: tuple[str, ...]
    targets: tuple[Target, ...]
    columns: Mapping[str, str]
    domain: Mapping[int, str]


def read_layout(archive: Archive, prefix: str) -> Layout:
    """The layout of a file; raises DataError that names the file and the key or the missing column."""
    if "schema" in archive:
        return from_schema(archive)
    found = {name: target for name, target in KNOWN.items() if prefix + name in archive}
    if not found:
        raise DataError(
            f"{archive.path} has no target: none of {', '.join(prefix + name for name in KNOWN)} is there; "
            "add one, or a schema (docs/data.md)"
        )
    return Layout(
        guessed_views(archive, prefix, "steering" in found),
        tuple(found.values()),
        {target.name: name for name, target in found.items()},
        {},
    )


def guessed_views(archive: Archive, prefix: str, log: bool) -> tuple[str, ...]:
    """Names of the views where no schema says: front, or a driving log's left, centre, right."""
    if prefix + "frames" in archive:
        shape = archive.headers[prefix + "frames"].shape
        views = shape[1] if len(shape) == 5 else 1
        if views not in (1, 3) or (views == 3 and not log):
            raise DataError(f"{archive.path} has {views} views without names; add a schema (docs/data.md)")
        return LOG_VIEWS if views == 3 else VIEWS[:1]
    if not log or prefix + "count" in archive or prefix + "jpeg" not in archive:
        return VIEWS[:1]
    offsets = next((prefix + name for name in ("offsets", "jpeg_offsets") if prefix + name in archive), None)
    cuts = archive.integers(offsets) if offsets else np.zeros(0, np.int64)
    if len(cuts) < 2 or archive.headers[prefix + "jpeg"].dtype != np.uint8:
        return VIEWS[:1]  # the reader of the pictures says what is wrong
    first = archive.read(prefix + "jpeg")[cuts[0] : cuts[1]].tobytes()
    width, height = decode(first, f"{archive.path}: picture 0 of {prefix}jpeg").size
    return LOG_VIEWS if width % 3 == 0 and width >= 4 * height else VIEWS[:1]


def from_schema(archive: Archive) -> Layout:
    """The layout in the text array `schema`."""
    header = archive.headers["schema"]
    if header.dtype.kind != "U" or math.prod(header.shape) != 1 or header.dtype.itemsize > 4 * MAX_SCHEMA:
        raise DataError(f"{archive.path}: schema is {header.dtype} {header.shape}; it must be one JSON text")
    try:
        document = json.loads(str(archive.read("schema").reshape(())))
        views = tuple(str(view) for view in document.get("views", VIEWS[:1]))
        entries = document["targets"]
        targets = tuple(one_target(entry) for entry in entries)
        columns = {one["name"]: str(one.get("column", one["name"])) for one in entries}
        domain = {int(key): str(text) for key, text in document.get("domain", {}).items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{archive.path}: schema does not fit docs/data.md ({type(error).__name__}: {error}); repair it"
        ) from error
    if not views or len(set(views)) != len(views) or not set(views) <= set(VIEWS):
        raise DataError(
            f"{archive.path}: schema has views {list(views)}; they must be different ones of {VIEWS}"
        )
    if not targets or len(columns) != len(targets):
        raise DataError(f"{archive.path}: schema must have at least one target, and each name once")
    return Layout(views, targets, columns, domain)


def one_target(entry: Mapping[str, object]) -> Target:
    """A target from its JSON object; raises ValueError, KeyError or TypeError for what does not fit."""
    unknown = set(entry) - {"name", "kind", "classes", "width", "unit", "scale", "column"}
    if unknown:
        raise ValueError(f"unknown key {min(unknown)!r}")
    name, kind = entry["name"], entry["kind"]
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"the name {name!r} is not a plain word")
    if kind == "class":
        classes = entry["classes"]
        if not isinstance(classes, list) or not 2 <= len(classes) <= MAX_CLASSES:
            raise ValueError(f"target {name!r} needs a list of 2 to {MAX_CLASSES} classes")
        return Target(name, "class", classes=tuple(str(one) for one in classes))
    if kind == "flags":
        width = entry["width"]
        if not isinstance(width, int) or not 1 <= width <= MAX_CLASSES:
            raise ValueError(f"target {name!r} has width {width}; it must be 1 to {MAX_CLASSES}")
        return Target(name, "flags", width=width)
    if kind == "value":
        scale = float(str(entry.get("scale", 1.0)))
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"target {name!r} has scale {scale}; it must be above 0")
        return Target(name, "value", unit=str(entry.get("unit", "")), scale=scale)
    raise ValueError(f"target {name!r} has kind {kind!r}; it must be class, flags or value")
