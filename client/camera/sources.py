"""The catalogue of camera data: from a name, or `path/to/file.py:factory`, to a `Source`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from carpool.client.camera import comma2k19, decoded, gtsrb, imagefolder, npz, parquet, udacity
from carpool.client.camera.archive import Archive
from carpool.client.camera.pictures import Progress
from carpool.client.camera.pipeline import cropped
from carpool.client.camera.samples import Pool
from carpool.client.camera.settings import DataSettings, Source
from carpool.privacy.errors import CarpoolError, DataError

Loader = Callable[[DataSettings, int, Progress | None], Source]


def load_procedural(settings: DataSettings, vehicles: int, progress: Progress | None) -> Source:
    """The renderer, imported late: it is large, and only needed here."""
    from carpool.client.camera import procedural

    return procedural.load(settings, vehicles, progress)


SOURCES: dict[str, Loader] = {
    "procedural": load_procedural,
    "gtsrb": gtsrb.load,
    "npz": npz.load,
    "udacity": udacity.load,
    "imagefolder": imagefolder.load,
    "comma2k19": comma2k19.load,
    "parquet": parquet.load,
}
"""The sources that have a name of their own."""
FILES = frozenset(SOURCES) - {"procedural"}
"""Those that read files. They crop whole pictures before they resize; frames of the others are cropped."""


def load_source(settings: DataSettings, vehicles: int, progress: Progress | None = None) -> Source:
    """Read or render what `settings.source` names, narrowed to `settings.views` and `settings.targets`.

    A name of SOURCES, or "file.py:factory" with `factory(settings, vehicles) -> Source`, which is the
    user's own code and runs as such. Raises DataError with the known names, or what is wrong in that file.
    """
    if settings.width < 0 or settings.height < 0:
        raise DataError(f"data.width x data.height is {settings.width} x {settings.height}; use 0 or more")
    if settings.source in SOURCES:
        load = SOURCES[settings.source]
        if settings.source in FILES and is_packed(settings.path):
            source = decoded.kept(settings, lambda: load(settings, vehicles, progress))
        else:
            source = load(settings, vehicles, progress)
    elif ".py:" in settings.source:
        source = from_file(settings, vehicles)
    else:
        raise DataError(
            f"data.source {settings.source!r} is not known; use {', '.join(SOURCES)} or file.py:factory"
        )
    train = narrowed(source.train, settings)
    test = None if source.test is None else narrowed(source.test, settings)
    if test is not None and test.schema != train.schema:
        raise DataError(
            f"{settings.source}: the test set's schema is not that of the training set; make them equal"
        )
    return Source(train, test)


def is_packed(path: Path | None) -> bool:
    """Is there something to decode: not so in an .npz with raw frames, of which a copy would be no gain."""
    if path is None or path.suffix.lower() != ".npz":
        return True
    return path.is_file() and any(name.endswith("jpeg") for name in Archive(path).headers)


def from_file(settings: DataSettings, vehicles: int) -> Source:
    """Call the user's factory; raises DataError naming the file and what it did wrong."""
    place, _, name = settings.source.rpartition(":")
    path = Path(place).expanduser()
    if not path.is_file():
        raise DataError(f"data.source names {path}, which is not a file; give the path of a .py file")
    spec = importlib.util.spec_from_file_location(f"carpool_source_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise DataError(f"data.source names {path}, which Python cannot load; give the path of a .py file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's file does
        raise DataError(f"{path} fails when it is loaded ({describe(error)}); repair it") from error
    factory = getattr(module, name, None)
    if not callable(factory):
        raise DataError(f"{path} has no function {name!r}; define {name}(settings, vehicles) -> Source")
    try:
        source = factory(settings, vehicles)
    except CarpoolError:
        raise
    except Exception as error:  # whatever the user's function does
        raise DataError(f"{path}: {name}(settings, vehicles) fails ({describe(error)}); repair it") from error
    if not isinstance(source, Source):
        raise DataError(f"{path}: {name} gives {type(source).__name__}; it must give a Source")
    return source


def describe(error: Exception) -> str:
    """The error's kind and the first line of its text."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def narrowed(pool: Pool, settings: DataSettings) -> Pool:
    """The pool with only the chosen views and targets, in their order, and what the pipeline says.

    Itself where nothing is chosen and the pipeline is the default.
    """
    schema, frames = pool.schema, pool.frames
    if settings.source not in FILES and settings.pipeline.crops:
        frames = cropped(frames, settings.pipeline, f"a frame of {settings.source}")
        schema = replace(schema, height=frames.shape[2], width=frames.shape[3])
    schema = replace(schema, pipeline=settings.pipeline)
    if settings.targets:
        repeated = len(set(settings.targets)) < len(settings.targets)
        if repeated:
            raise DataError(f"data.targets {list(settings.targets)} has a name twice; name each once")
        schema = replace(schema, targets=tuple(schema.target(name) for name in settings.targets))
    if settings.views and settings.views != schema.views:
        unknown = [view for view in settings.views if view not in schema.views]
        if unknown or len(set(settings.views)) < len(settings.views):
            raise DataError(
                f"data.views is {list(settings.views)}; name different ones of {', '.join(schema.views)}, "
                "the views of this data"
            )
        frames = np.ascontiguousarray(frames[:, [schema.views.index(view) for view in settings.views]])
        schema = replace(schema, views=settings.views)
    if schema == pool.schema and len(pool.targets) == len(schema.targets):
        return pool
    targets = {target.name: pool.targets[target.name] for target in schema.targets}
    return replace(pool, schema=schema, frames=frames, targets=targets)
