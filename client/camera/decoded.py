"""Decoded data sets on disk: the pictures of a file or folder are decoded once, then read as a memory map.

An entry is found by the source, the settings that change a frame, and path, name, size and time of change of
every file of the data set; so an edited file is read anew. A file that is changed with its size and its time
kept is not noticed. How entries are written, and why a killed writer leaves nothing, is in cache.py. Entries
stay until they are removed by hand; they can be, at any time.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import PIL
import platformdirs
from numpy.typing import NDArray

from carpool.client.camera import cache
from carpool.client.camera.film import files_in
from carpool.client.camera.pipeline import CROPS
from carpool.client.camera.samples import Frames, Pool, Schema, Target
from carpool.client.camera.settings import DataSettings, Source
from carpool.privacy.errors import DataError

VERSION = 1
"""Of the readers: whatever changes what they give for the same files must change it."""
PARTS = ("train", "test")
STEP = 256


def cache_folder(settings: DataSettings) -> Path:
    """Where decoded frames are kept: below `settings.cache`, else below the user's cache folder."""
    return (settings.cache or platformdirs.user_cache_path("carpool")) / "decoded"


def kept(settings: DataSettings, load: Callable[[], Source]) -> Source:
    """What `load` gives, from the disk if it was given before; kept there if not.

    The frames are then a read-only memory map. Where the cache folder refuses, they stay in memory. Whatever
    `load` raises goes through, and nothing is kept.
    """
    facts = fingerprint(settings)
    if facts is None:
        return load()  # which says what is wrong with data.path
    folder = cache_folder(settings)
    keys = [cache.key_of({**facts, "part": part}) for part in PARTS]
    if (found := stored(folder, keys)) is not None:
        return found
    source = load()
    if fingerprint(settings) != facts:
        return source  # somebody is writing there: what was read fits no list of files
    # The training part says whether there is a test part, so it is written last.
    if source.test is not None and write(folder, keys[1], source.test, False) is None:
        return source
    if write(folder, keys[0], source.train, source.test is not None) is None:
        return source
    return stored(folder, keys) or source


def fingerprint(settings: DataSettings) -> dict[str, object] | None:
    """Everything that decides what the frames are; None where data.path is not there."""
    path = settings.path
    if path is None or not path.exists():
        return None
    if path.is_dir():
        gtsrb = settings.source == "gtsrb"  # it follows links, and finds the test set beside "Images"
        root = path.parent.parent if gtsrb and path.name == "Images" else path
        files = [[one.name, one.size, one.changed] for one in files_in(root, links=gtsrb)]
    else:
        facts = path.stat()
        files = [["", facts.st_size, facts.st_mtime_ns]]
    return {
        "version": VERSION, "pillow": PIL.__version__, "source": settings.source, "path": str(path.resolve()),
        "width": settings.width, "height": settings.height, "files": files,
        "crop": [getattr(settings.pipeline, side) for side in CROPS],
    }  # fmt: skip


def stored(folder: Path, keys: list[str]) -> Source | None:
    """The entry of that key as a source; None where there is none or it is damaged."""
    entry = cache.read(folder, keys[0])
    if entry is None:
        return None
    try:
        train, has_test = pool_of(entry)
        if not has_test:
            return Source(train)
        entry = cache.read(folder, keys[1])
        return None if entry is None else Source(train, pool_of(entry)[0])
    except (DataError, LookupError, TypeError, ValueError, AttributeError):
        return None


def write(folder: Path, key: str, pool: Pool, has_test: bool) -> cache.Entry | None:
    """Put a pool under its key; None where the disk refuses."""
    facts = {
        "schema": dataclasses.asdict(dataclasses.replace(pool.schema, pipeline=Schema.pipeline)),
        "domain": dict(pool.domain),
        "has_test": has_test,
    }
    columns: dict[str, NDArray[np.generic]] = {f"target_{name}": pool.targets[name] for name in pool.targets}
    columns |= {"group": pool.group, "order": pool.order, "facts": np.array(json.dumps(facts))}
    if pool.vehicle is not None:
        columns["vehicle"] = pool.vehicle
    return cache.write(folder, key, pool.frames.shape, parts(pool.frames), lambda: columns)


def parts(frames: Frames) -> Iterator[Frames]:
    """The frames, some at a time."""
    for start in range(0, len(frames), STEP):
        yield frames[start : start + STEP]


def pool_of(entry: cache.Entry) -> tuple[Pool, bool]:
    """The pool of an entry and whether there is a test part; raises what a damaged one makes it raise."""
    columns = entry.columns
    facts = json.loads(str(columns["facts"]))
    schema = facts["schema"]
    targets = tuple(Target(**{**one, "classes": tuple(one["classes"])}) for one in schema["targets"])
    pool = Pool(
        schema=Schema(tuple(schema["views"]), schema["height"], schema["width"], targets),
        frames=entry.frames,
        targets={target.name: columns[f"target_{target.name}"] for target in targets},
        group=columns["group"].astype(np.int64),
        order=columns["order"].astype(np.int64),
        vehicle=columns["vehicle"].astype(np.int64) if "vehicle" in columns else None,
        domain={int(key): str(words) for key, words in facts["domain"].items()},
    )
    return pool, bool(facts["has_test"])
