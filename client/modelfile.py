"""A trained model on disk: safetensors, with what is needed to use it again in one metadata entry.

The metadata has the model's name and options and the schema of its pictures and targets, never a sample.
The bytes depend on nothing but these and the weights, so equal models give equal files.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from carpool.client.camera.pipeline import DEFAULT, Pipeline
from carpool.client.camera.samples import Schema, Target
from carpool.client.flat import Buffers, FlatModel
from carpool.client.models import build
from carpool.privacy.errors import DataError, RunError
from carpool.privacy.storage import refusals, replacing
from carpool.privacy.vectors import Layout, Vector

FORMAT = 1
PIPELINE_FORMAT = 2
"""A file whose schema has a `pipeline` other than the default, which readers of format 1 would overlook."""


@dataclass(frozen=True)
class Recipe:
    """How to build the module again: `models.build(name, schema, options)` over a flat vector."""

    name: str
    options: Mapping[str, Any]
    buffers: Buffers
    schema: Schema


def write_model(path: Path, vector: Vector, layout: Layout, recipe: Recipe) -> None:
    """Write the named tensors of `vector` float32 [d] to `path`, whole or not at all; raises RunError."""
    facts = {"format": FORMAT, **dataclasses.asdict(recipe)}
    if recipe.schema.pipeline == DEFAULT:
        del facts["schema"]["pipeline"]
    else:
        facts["format"] = PIPELINE_FORMAT
    tensors = {name: tensor.copy() for name, tensor in layout.views(vector).items()}
    with replacing(path) as temporary, refusals(path):
        try:
            save_file(tensors, temporary, metadata={"carpool": json.dumps(facts, sort_keys=True)})
        except SafetensorError as error:
            raise OSError(str(error)) from error


def read_model(path: Path) -> tuple[Recipe, dict[str, Vector]]:
    """Recipe and named tensors of a file that `write_model` wrote; raises RunError for anything else."""
    if not path.is_file():
        raise RunError(f"there is no {path}; the run has not finished, or this is not a run's folder")
    try:
        with safe_open(path, framework="numpy") as file:
            facts = json.loads((file.metadata() or {})["carpool"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if facts["format"] not in (FORMAT, PIPELINE_FORMAT):
            raise RunError(
                f"{path} has format {facts['format']}; this version reads {FORMAT} and {PIPELINE_FORMAT}"
            )
        schema = facts["schema"]
        targets = tuple(Target(**{**t, "classes": tuple(t["classes"])}) for t in schema["targets"])
        steps: dict[str, Any] = schema.get("pipeline", {})
        listed = {key: tuple(value) for key, value in steps.items() if isinstance(value, list)}
        pipeline = Pipeline(**{**steps, **listed})
        pictures = Schema(tuple(schema["views"]), schema["height"], schema["width"], targets, pipeline)
        return Recipe(facts["name"], facts["options"], facts["buffers"], pictures), tensors
    except (SafetensorError, LookupError, TypeError, ValueError, AttributeError, OSError, DataError) as error:
        raise RunError(f"{path} is not a model that carpool wrote, or it is damaged: {error}") from error


def open_model(path: Path) -> tuple[Recipe, FlatModel]:
    """The model of a file, ready to be run; raises RunError, ConfigError (a user's factory is gone)."""
    recipe, tensors = read_model(path)
    module = build(recipe.name, recipe.schema, recipe.options, 0)
    model = FlatModel(module, buffers=recipe.buffers, pipeline=recipe.schema.pipeline)
    try:
        model.load(model.layout.flatten(tensors))
    except ValueError as error:
        raise RunError(f"{path} does not fit model {recipe.name}: {error}") from error
    return recipe, model
