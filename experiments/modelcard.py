"""MODEL_CARD.md: what a model is, what it learned from, how good it was, who is protected, its limits.

Every figure comes from the run's result.json, its configuration, or the model itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath, PureWindowsPath
from typing import Any

from carpool.client.camera.pipeline import DEFAULT
from carpool.client.camera.samples import Target
from carpool.client.deployed import INPUT, output_names
from carpool.client.modelfile import Recipe
from carpool.experiments import promise
from carpool.experiments.cardwords import OWN, SOURCES, steps
from carpool.experiments.config import Experiment
from carpool.experiments.results import STAGES, clean, count

MOST_CLASSES = 60

PRIVACY = {
    "plain": (
        "**None.** The channel was `plain`: the server received every vehicle's update in the clear. "
        "Pictures themselves are not part of an update, but an update can give away what was in them."
    ),
    "sealed": (
        "The channel was `sealed`: updates were encrypted to the aggregator, which opened each of them. "
        "Whoever relays messages saw ciphertext; the aggregator saw every vehicle's update."
    ),
    "secagg": "The channel was `secagg`: the server was given the sum of the updates, not a single one.",
}


@dataclass(frozen=True)
class Card:
    """What a card is made of. sha256, size: of model.safetensors, and its numbers; difference: ONNX's."""

    result: dict[str, Any]
    experiment: Experiment
    recipe: Recipe
    sha256: str
    size: int
    difference: float | None


def model_card(card: Card) -> str:
    """The card as Markdown."""
    parts = (head, data, training, metrics, privacy, limits, usage, licence)
    return "\n\n".join("\n".join(part(card)) for part in parts) + "\n"


def model_name(recipe: Recipe) -> str:
    r"""The model's name without the folder of a user's own file.

    >>> from carpool.client.camera.samples import Schema
    >>> model_name(Recipe("/home/me/net.py:build", {}, "refuse", Schema((), 1, 1, ())))
    'net.py:build'
    """
    return base(recipe.name)


def base(path: str) -> str:
    r"""The last part of a path; folders on somebody's machine are nobody's business.

    >>> base("/home/me/a.npz"), base("C:\\me\\a.npz"), base("cnn-small")
    ('a.npz', 'a.npz', 'cnn-small')
    """
    return PureWindowsPath(path).name if "\\" in path else PurePath(path).name


def plain(text: object) -> str:
    """Text that Markdown and terminals take as it is; names come from data files.

    >>> plain("a|b")
    'a\\\\|b'
    """
    escaped = clean(text)
    for character in "\\`*_[]<>|#":
        escaped = escaped.replace(character, f"\\{character}")
    return escaped


def head(card: Card) -> list[str]:
    """What it is."""
    schema, experiment = card.recipe.schema, card.experiment
    told = ", ".join(plain(t.name) for t in schema.targets)
    return [
        f"# Model card: {plain(experiment.experiment.name)}",
        "",
        f"A {plain(model_name(card.recipe))} network of {card.size} numbers that predicts {told} from "
        f"{len(schema.views)} camera view{'s' * (len(schema.views) > 1)} of {schema.width}x{schema.height} "
        "pixels. It was trained by federated learning with Carpool, on the engine "
        f"`{card.result['engine']}` with a simulated fleet.",
        "",
        f"SHA-256 of `model.safetensors`: `{card.sha256}`",
    ]


def data(card: Card) -> list[str]:
    """The data's categories."""
    settings, schema = card.experiment.data, card.recipe.schema
    source = settings.source
    kind = source if source in SOURCES else f"{base(source)} (own code)"
    file = f", file or folder {base(settings.path)}" if settings.path else ""
    return [
        "## Data",
        "",
        f"- Source: {plain(kind + file)}. {SOURCES.get(source, OWN)}",
        *([] if schema.pipeline == DEFAULT else [f"- Pictures are {plain(steps(schema.pipeline))}"]),
        f"- Split between vehicles: {settings.split}"
        + (f" (alpha {settings.alpha:g})" if settings.split == "dirichlet" else ""),
        f"- Views: {', '.join(plain(view) for view in schema.views)}; {schema.width}x{schema.height} pixels "
        "each, RGB, 8 bits",
        *(f"- Target {plain(target.name)}: {described(target)}" for target in schema.targets),
        "- Frames are personal data where they show public roads (faces, plates, where somebody lives). "
        "Federated training keeps them on the vehicle and sends model updates only. This run was simulated: "
        "the frames of all vehicles were on one computer from the start.",
    ]


def described(target: Target) -> str:
    """A target in words."""
    if target.kind == "class":
        shown = ", ".join(plain(name) for name in target.classes[:MOST_CLASSES])
        more = ", ..." if len(target.classes) > MOST_CLASSES else ""
        return f"one of {len(target.classes)} classes ({shown}{more})"
    if target.kind == "flags":
        return f"{target.width} yes-or-no answers"
    return f"a number{' in ' + plain(target.unit) if target.unit else ''}"


def training(card: Card) -> list[str]:
    """Fleet, rounds and settings."""
    result, experiment = card.result, card.experiment
    rounds, train = result["rounds"], experiment.train
    asked, lost, void = (sum(count(record[key]) for record in rounds) for key in ("asked", "dropped", "void"))
    left = {stage: sum(count((one.get("left") or {}).get(stage)) for one in rounds) for stage in STAGES}
    after = left.pop("after_upload")
    stages = [f"{STAGES[stage]}: {times}" for stage, times in left.items() if times]
    amount = f"{train.steps} steps" if train.steps else f"{train.epochs} epochs"
    options = ", ".join(f"{key} = {value}" for key, value in experiment.strategy.options.items())
    return [
        "## Training",
        "",
        f"- Fleet: {result['vehicles']} simulated vehicles, {len(rounds)} rounds "
        f"({void} void: too few replies, the model stayed as it was)",
        f"- Asked for an update {asked} times; {lost} updates were lost to vehicles that left, came too late "
        f"or were refused{' (' + '; '.join(stages) + ')' if stages else ''}; {after} vehicles left after the "
        "upload, and what they sent counts",
        f"- Strategy: {plain(base(result['strategy']))}{' (' + plain(options) + ')' if options else ''}; "
        f"cohort {experiment.selection.cohort}",
        f"- On the vehicle: {amount} of {train.optimizer}, batches of {train.batch_size}, learning rate "
        f"{train.lr:g} ({train.lr_schedule}), augmentation {train.augment}",
        f"- Seed {result['seed']}; traffic {result['totals']['bytes_up']} bytes up, "
        f"{result['totals']['bytes_down']} bytes down",
    ]


def metrics(card: Card) -> list[str]:
    """How good it was, and on what."""
    final, settings = card.result["final"], card.experiment.data
    rows = [("all", "loss", final["loss"]), ("first answer", "accuracy", final["accuracy"])]
    for name, figures in (final["targets"] or {}).items():
        rows += [(name, metric, value) for metric, value in figures.items()]
    held = (
        f"whole drives or tracks held back from training (data.holdout = {settings.holdout:g})"
        if settings.holdout
        else "the data's own test set"
    )
    where = held if settings.source == "procedural" or not settings.holdout else (
        f"the data's own test set, or, where it has none, {held}"
    )  # fmt: skip
    return [
        "## How good it was",
        "",
        f"Measured by the experimenter, in the last round that was evaluated, on {where}.",
        "",
        "| target | measure | value |",
        "|---|---|---|",
        *(f"| {plain(name)} | {plain(metric)} | {shown(value)} |" for name, metric, value in rows),
    ]


def shown(value: float | None) -> str:
    """Four significant digits.

    >>> shown(0.98765), shown(None)
    ('0.9877', 'not measured')
    """
    return "not measured" if value is None else f"{value:.4g}"


def privacy(card: Card) -> list[str]:
    """Who was protected from whom."""
    facts = card.result["privacy"]
    promised = promise.sentence(facts, card.result["rounds"])
    seen = PRIVACY.get(facts["channel"], f"Channel: {plain(facts['channel'])}.")
    if promised is None:
        return [
            "## Privacy", "", seen, "",
            "There is no differential privacy: the model may have memorised what single vehicles saw, and "
            "whoever has the model may find out.",
        ]  # fmt: skip
    found = promise.claim(facts)
    return [
        "## Privacy",
        "",
        seen.removeprefix("**None.** "),
        "",
        f"Differential privacy: {promised}" if promise.private(card.result["rounds"]) else f"**{promised}**",
        "",
        f"- Mechanism {plain(facts['mechanism'])}, neighbours {plain(facts['relation'])}; trusted: "
        f"{found.trusted if found else 'unknown'}",
        *(f"- {text}" for text in promise.warnings(facts, card.result["rounds"])),
        "- The run's ledger.jsonl has every charge; `carpool privacy ledger` computes epsilon anew from it.",
    ]


def limits(card: Card) -> list[str]:
    """What it must not be used for."""
    labels = {"procedural": "drawn pictures", "gtsrb": "a benchmark with hand labels"}
    source = labels.get(card.experiment.data.source, "one data set")
    return [
        "## Limits",
        "",
        "- Not for driving. Nothing here was validated for use in a vehicle, and nothing may depend on it "
        "for safety.",
        f"- It was trained and measured on {source}; it will be worse on cameras, roads, countries, light "
        "and weather that are not in it, and it does not say so: its probabilities are not calibrated.",
        "- The mean above hides the vehicles it serves badly; the run's report.html has the spread.",
        "- Nobody has looked for backdoors or for mislabelled data.",
    ]


def usage(card: Card) -> list[str]:
    """How to load it."""
    schema = card.recipe.schema
    shape = f"(1, {len(schema.views)}, {schema.height}, {schema.width}, 3)"
    views = ", ".join(clean(view) for view in schema.views)
    lines = [
        "## How to use it",
        "",
        f"Views in this order: {views}. Pictures are scaled as a whole to {schema.width}x{schema.height}.",
        "",
        "```python",
        "from pathlib import Path",
        "",
        "import numpy as np",
        "",
        "from carpool.client.modelfile import open_model",
        "from carpool.client.predict import predict",
        "",
        'recipe, model = open_model(Path("model.safetensors"))',
        f"frames = np.zeros({shape}, np.uint8)  # RGB: sample, view, row, column, colour",
        "[answers] = predict(model, frames, recipe.schema.targets, recipe.schema.views)",
        "for name, answer in answers.items():",
        "    print(name, answer.text)",
        "```",
    ]
    if ":" in card.recipe.name:
        lines += ["", f"The network's own code, {plain(model_name(card.recipe))}, has to be where it was."]
    if card.difference is None:
        return lines
    return [
        *lines,
        "",
        "Or without Carpool; probabilities for classes and flags, values in their unit. It differed from the "
        f"above by at most {card.difference:.1g} on random pictures.",
        "",
        "```python",
        "import numpy as np",
        "import onnxruntime",
        "",
        'session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])',
        f"frames = np.zeros({shape}, np.uint8)",
        f"answers = session.run({output_names(schema)!r}, {{{INPUT!r}: frames}})",
        "```",
    ]


def licence(card: Card) -> list[str]:
    """Whose business that is."""
    return [
        "## Licence",
        "",
        "None chosen yet. Whoever publishes this model states one here, after looking at the terms of the "
        "data. Carpool's own licence covers its code, not this model.",
    ]
