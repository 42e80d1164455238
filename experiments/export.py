"""A trained model for others: safetensors, ONNX that takes camera bytes, and a model card.

Everything is made and checked first and written last, so that a failed export leaves nothing half-done.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from carpool.client.camera.pipeline import CROPS
from carpool.client.camera.samples import Frames, Schema
from carpool.client.deployed import INPUT, Deployed, output_names
from carpool.client.modelfile import Recipe, open_model
from carpool.experiments.load import load_experiment
from carpool.experiments.modelcard import Card, model_card, model_name
from carpool.experiments.runfolder import CONFIG, MODEL, RESULT, existing_folder, read_json
from carpool.privacy.errors import RunError, UsageError
from carpool.privacy.storage import refusals, write_bytes

if TYPE_CHECKING:
    from onnx import ModelProto

ONNX = "model.onnx"
CARD = "MODEL_CARD.md"
EXTRA = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4
INSTALL = "pip install 'carpool[export]'"


@dataclass(frozen=True)
class Exported:
    """What was written. `onnx` and `difference` are None where no ONNX file was asked for or possible.

    difference: largest distance between ONNX and torch on random pictures; a probability, or units of scale.
    """

    model: Path
    onnx: Path | None
    card: Path
    sha256: str
    difference: float | None


def can_onnx() -> bool:
    """Whether the packages of the extra `export` are here."""
    return all(importlib.util.find_spec(name) is not None for name in EXTRA)


def export(run: Path, out: Path | None = None, *, onnx: bool = True) -> Exported:
    """Write the model of a finished run with its card into `out`, by default RUN/export.

    onnx: False leaves model.onnx out; it is left out as well where `can_onnx()` is False.
    Raises UsageError (the run is not finished), RunError (damaged run, ONNX that computes something else).
    """
    existing_folder(run)
    if not (run / RESULT).is_file():
        raise UsageError(f"{run} is not finished; go on with it: carpool run --resume {run}")
    out = out or run / "export"
    recipe, model = open_model(run / MODEL)
    with refusals(run / MODEL, "read"):
        weights = (run / MODEL).read_bytes()
    graph, difference = None, None
    if onnx and can_onnx():
        deployed = Deployed(model.module, recipe.schema).eval()
        graph = to_onnx(deployed, recipe)
        difference = distance(deployed, graph, recipe)
    sha256 = hashlib.sha256(weights).hexdigest()
    card = Card(
        result=read_json(run / RESULT),
        experiment=load_experiment(run / CONFIG, check_files=False),
        recipe=recipe,
        sha256=sha256,
        size=model.layout.size,
        difference=difference,
    )
    text = model_card(card)
    write_bytes(out / MODEL, weights)
    if graph is not None:
        write_bytes(out / ONNX, graph)
    else:
        with refusals(out / ONNX, "remove"):  # that of an earlier export would belong to another model
            (out / ONNX).unlink(missing_ok=True)
    write_bytes(out / CARD, text.encode())
    return Exported(out / MODEL, out / ONNX if graph is not None else None, out / CARD, sha256, difference)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """The exporter's chatter off: prints, log lines about torchvision, one warning about its own code."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            # torch 2.13 deep-copies its own pytree specs, of which it deprecated the class.
            warnings.filterwarnings("ignore", message=".*treespec, LeafSpec", category=FutureWarning)
            yield
    finally:
        logger.setLevel(before)


def to_onnx(deployed: Deployed, recipe: Recipe) -> bytes:
    """The module as an ONNX model: `frames` uint8 [batch, views, h, w, 3] in, an output a target.

    Raises RunError where the module uses what ONNX does not have.
    """
    from onnx import checker

    frames = torch.from_numpy(noise(recipe.schema, 2))
    try:
        with quietly(), torch.no_grad():
            program = torch.onnx.export(
                deployed,
                (frames,),
                input_names=[INPUT],
                output_names=output_names(recipe.schema),
                dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
                dynamo=True,
                verbose=False,
            )
            if program is None:
                raise RuntimeError("torch gave no program")
            proto = program.model_proto
            describe(proto, recipe)
            checker.check_model(proto)
    except Exception as error:  # whatever a user's own module makes the exporter raise
        cause = error.__cause__ or error
        reason = next((line for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        raise RunError(
            f"model {model_name(recipe)} cannot be written as ONNX ({reason.strip().rstrip('.')}); "
            "leave it out with --no-onnx, or change the module"
        ) from error
    return bytes(proto.SerializeToString())


def describe(proto: ModelProto, recipe: Recipe) -> None:
    """Put in what a user needs, and take out the exporter's paths and stack traces of this machine."""
    from onnx import helper

    graph = proto.graph
    proto.doc_string = ""
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    schema = recipe.schema
    facts: dict[str, object] = {
        "views": list(schema.views),
        "targets": {
            name: {"kind": t.kind, "classes": list(t.classes), "unit": t.unit}
            for name, t in zip(output_names(schema), schema.targets, strict=True)
        },
    }
    if schema.pipeline.crops:  # the input is what is left after it
        facts["crop"] = {side: getattr(schema.pipeline, side) for side in CROPS}
    proto.producer_name, proto.producer_version = "carpool", ""
    helper.set_model_props(proto, {"carpool": json.dumps(facts, sort_keys=True)})


def distance(deployed: Deployed, graph: bytes, recipe: Recipe) -> float:
    """Largest difference between onnxruntime and torch on random pictures; raises RunError above TOLERANCE.

    A "value" counts in units of its scale.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in (1, 5):
        frames = noise(recipe.schema, batch)
        found = session.run(output_names(recipe.schema), {INPUT: frames})
        with torch.inference_mode():
            wanted = deployed(torch.from_numpy(frames))
        for target, ours, theirs in zip(recipe.schema.targets, wanted, found, strict=True):
            unit = target.scale if target.kind == "value" else 1.0
            gap = np.abs(ours.numpy().astype(np.float64) - theirs) / abs(unit)
            worst = max(worst, float(gap.max()) if np.isfinite(gap).all() else np.inf)
    if worst >= TOLERANCE:
        raise RunError(
            f"the ONNX file differs from the model by {worst:.2g} (limit {TOLERANCE:g}); leave it out with "
            "--no-onnx, and please report it"
        )
    return worst


def noise(schema: Schema, batch: int) -> Frames:
    """Random pictures uint8 [batch, views, h, w, 3], always the same."""
    generator = np.random.Generator(np.random.Philox(batch))
    shape = (batch, len(schema.views), schema.height, schema.width, 3)
    return generator.integers(0, 256, shape, np.uint8)


def as_document(run: Path, exported: Exported) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "run": str(run),
        "model": str(exported.model),
        "onnx": None if exported.onnx is None else str(exported.onnx),
        "card": str(exported.card),
        "sha256": exported.sha256,
        "onnx_difference": exported.difference,
    }
