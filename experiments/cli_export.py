"""`carpool export RUN`: the model for others. `carpool predict RUN PICTURES…`: what it says about them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carpool.experiments.cli_common import JsonOption, emit, err, say, table
from carpool.experiments.results import clean, find_run

if TYPE_CHECKING:
    from carpool.client.predict import Prediction
    from carpool.experiments.predictions import Sample

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's folder, or the start of its name under ./runs.")
]
PICTURE = "predictions.png"


def register(app: typer.Typer) -> None:
    """Add `export` and `predict`."""
    app.command(name="export")(export_command)
    app.command(name="predict")(predict_command)


def export_command(
    run: RunArgument,
    out: Annotated[Path | None, typer.Option(help="The folder to write into, by default RUN/export.")] = None,
    onnx: Annotated[bool, typer.Option(help="Write model.onnx as well.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Write a finished run's model as safetensors and ONNX, with a model card.

    The ONNX model takes camera bytes and gives probabilities; it is compared with the original before it is
    written. Examples: [cyan]carpool export quickstart[/] ·
    [cyan]carpool export runs/quickstart-1a2b3c --out model[/]
    """
    from carpool.experiments import export

    folder = find_run(run)
    exported = export.export(folder, out, onnx=onnx)
    if onnx and exported.onnx is None:
        err().print(f"no model.onnx: it needs more packages; {export.INSTALL}", markup=False)
    if as_json:
        emit(export.as_document(folder, exported))
        return
    say(f"model    {exported.model} (SHA-256 {exported.sha256})")
    if exported.onnx is not None:
        say(f"ONNX     {exported.onnx} (differs by at most {exported.difference:.1g} on random pictures)")
    say(f"card     {exported.card}")


def predict_command(
    run: RunArgument,
    pictures: Annotated[
        list[Path],
        typer.Argument(
            metavar="PICTURES...",
            help="Pictures, or folders of them; for several views folders with front.png, left.png, ...",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help=f"Also draw what the model sees into DIR/{PICTURE}.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a run's model makes of your pictures, and with --out where it looks.

    Examples: [cyan]carpool predict quickstart drive/[/] ·
    [cyan]carpool predict runs/gtsrb-1a2b3c sign.png --out seen[/]
    """
    from carpool.client.modelfile import open_model
    from carpool.experiments.pictures_in import read_pictures
    from carpool.experiments.predictions import as_document, draw, predict_all
    from carpool.experiments.runfolder import MODEL, existing_folder
    from carpool.privacy.storage import replacing

    folder = existing_folder(find_run(run))
    recipe, model = open_model(folder / MODEL)
    names, frames = read_pictures(pictures, recipe.schema)
    samples = predict_all(model, names, frames, recipe.schema)
    path = None if out is None else out / PICTURE
    drawn = 0
    if path is not None:
        picture, drawn = draw(model, samples, recipe.schema)
        with replacing(path) as temporary:
            picture.save(temporary, format="PNG")
    if as_json:
        emit(as_document(folder, samples, path))
        return
    show(samples)
    if path is not None:
        part = "" if drawn == len(samples) else f" (the first {drawn} of {len(samples)} samples)"
        say(f"picture  {path}{part}")


def show(samples: list[Sample]) -> None:
    """The table for people: a row a sample, a column a target."""
    targets = list(samples[0].answers)
    table(
        ("picture", *map(clean, targets)),
        [(clean(s.name), *(words(s.answers[name], s.top.get(name)) for name in targets)) for s in samples],
    )


def words(answer: Prediction, top: list[dict[str, Any]] | None) -> str:
    """The answer, and what else it might be where that has at least 10 %."""
    rest = [one for one in (top or [])[1:] if one["probability"] >= 0.1]
    also = ", ".join(f"{one['class']} {one['probability']:.0%}" for one in rest)
    return clean(f"{answer.text}, or {also}" if also else answer.text)
