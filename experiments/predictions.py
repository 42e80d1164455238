"""Predictions for a user's pictures: as rows, as JSON, and drawn beside what the model sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from carpool.client.camera.samples import Frames, Schema, Target
from carpool.client.deployed import finished
from carpool.client.flat import FlatModel
from carpool.client.predict import Prediction, predict
from carpool.client.saliency import occlusion
from carpool.experiments.results import clean

BATCH = 256
TOP = 3
MOST_DRAWN = 24

MARGIN, GAP, LINE = 16, 8, 19
INK, MUTED, PAPER, RULE = (27, 36, 49), (93, 107, 124), (255, 255, 255), (223, 228, 234)
BAR, HEAT = (11, 111, 184), (255, 122, 0)
TEXT_WIDTH = 300
LONGEST = 40


@dataclass(frozen=True)
class Sample:
    """One sample with its answers. frame: uint8 [views, h, w, 3]; top: by "class" target the likeliest."""

    name: str
    frame: Frames
    answers: dict[str, Prediction]
    top: dict[str, list[dict[str, Any]]]


def predict_all(model: FlatModel, names: Sequence[str], frames: Frames, schema: Schema) -> list[Sample]:
    """Answers for uint8 [n, views, h, w, 3], in batches."""
    samples = []
    for start in range(0, len(frames), BATCH):
        part = frames[start : start + BATCH]
        answers = predict(model, part, schema.targets, schema.views)
        tops = likeliest(model, part, schema.targets)
        for row, answer in enumerate(answers):
            samples.append(Sample(names[start + row], part[row], answer, tops[row]))
    return samples


def likeliest(
    model: FlatModel, frames: Frames, targets: tuple[Target, ...]
) -> list[dict[str, list[dict[str, Any]]]]:
    """For each sample and "class" target the TOP classes with their probabilities, the best first."""
    found: list[dict[str, list[dict[str, Any]]]] = [{} for _ in frames]
    with torch.inference_mode():
        outputs = model.module(model.floats(frames))
        for target in targets:
            if target.kind != "class":
                continue
            shares = finished(target, outputs[target.name]).cpu().numpy()
            for row, share in enumerate(shares):
                best = np.argsort(-share, kind="stable")[:TOP]
                found[row][target.name] = [
                    {"class": target.classes[i], "probability": float(share[i])} for i in best
                ]
    return found


def as_document(run: Path, samples: Sequence[Sample], picture: Path | None) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "run": str(run),
        "predictions": [
            {
                "picture": sample.name,
                "targets": {
                    name: {
                        "text": answer.text,
                        "value": answer.value,
                        "probability": answer.probability,
                        "top": sample.top.get(name),
                    }
                    for name, answer in sample.answers.items()
                },
            }
            for sample in samples
        ],
        "picture": None if picture is None else str(picture),
    }


def draw(model: FlatModel, samples: Sequence[Sample], schema: Schema) -> tuple[Image.Image, int]:
    """The first samples one below the other, and how many: what the model saw, used and said."""
    drawn = samples[:MOST_DRAWN]
    unit = "units of scale" if schema.targets[0].kind == "value" else "log-odds"
    cards = [card(sample, occlusion(model, sample.frame, schema.targets[0]), schema) for sample in drawn]
    note = (
        f"Orange: where covering a patch weakens the answer on {clean(schema.targets[0].name)!r}; brightest "
        f"is the strongest of the sample (its number: {unit})."
    )
    width = max(*(one.width for one in cards), round(font(12).getlength(note))) + 2 * MARGIN
    height = sum(one.height + MARGIN for one in cards) + LINE + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN // 2), note, MUTED, font(12))
    top = MARGIN // 2 + LINE + GAP
    for one in cards:
        sheet.paste(one, (MARGIN, top))
        top += one.height + MARGIN
        pen.line([(MARGIN, top - MARGIN // 2), (width - MARGIN, top - MARGIN // 2)], RULE)
    return sheet, len(drawn)


def card(sample: Sample, heat: NDArray[np.float32], schema: Schema) -> Image.Image:
    """One sample: pictures as the model got them, the same with heat, the answers to the right."""
    scale = max(1, round(160 / schema.height))
    wide, high = schema.width * scale, schema.height * scale
    views = len(schema.views)
    beside = views == 1  # one view: heat to the right of it; several: below them
    columns, rows = (2, 1) if beside else (views, 2)
    left = columns * (wide + GAP)
    lines = answer_lines(sample)
    tall = LINE + rows * (high + GAP) + LINE
    picture = Image.new("RGB", (left + TEXT_WIDTH, max(tall, LINE * (len(lines) + 2))), PAPER)
    pen = ImageDraw.Draw(picture)
    pen.text((0, 0), shortened(sample.name), INK, font(14))
    peak = float(heat.max())
    strongest = f"strongest patch {max(peak, 0):.2g}"
    for view, name in enumerate(schema.views):
        x = view * (wide + GAP)
        seen = sample.frame[view]
        picture.paste(enlarged(seen, scale), (x, LINE))
        place = (wide + GAP, LINE) if beside else (x, LINE + high + GAP)
        picture.paste(enlarged(overlay(seen, heat[view], peak), scale), place)
        caption = name if beside or view else f"{name}; {strongest}"
        pen.text((x, tall - LINE + 2), clean(caption), MUTED, font(12))
    if beside:
        pen.text((wide + GAP, tall - LINE + 2), strongest, MUTED, font(12))
    for number, (text, share, strong) in enumerate(lines):
        y = LINE * (number + 1)
        if share is not None:
            pen.rectangle((left + GAP, y + 3, left + GAP + round(60 * share), y + LINE - 6), BAR)
        x = left + GAP + (0 if share is None else 68)
        pen.text((x, y), shortened(text), INK if strong else MUTED, font(14 if strong else 13))
    return picture


def answer_lines(sample: Sample) -> list[tuple[str, float | None, bool]]:
    """Lines of text, the length of their bar (0..1) or None, and whether the line is an answer."""
    lines: list[tuple[str, float | None, bool]] = []
    for name, answer in sample.answers.items():
        if name in sample.top:
            lines.append((f"{name}:", None, False))
            lines += [
                (f"{one['class']}  {one['probability']:.0%}", one["probability"], rank == 0)
                for rank, one in enumerate(sample.top[name])
            ]
        else:
            lines += [(f"{name}:", None, False), (answer.text, None, True)]
    return lines


def overlay(frame: Frames, heat: NDArray[np.float32], peak: float) -> Frames:
    """The picture in dim grey, orange where `heat` [h, w] is near `peak`; uint8 [h, w, 3]."""
    grey = frame.mean(2, keepdims=True) * 0.75
    strength = np.clip(heat / peak, 0, 1)[:, :, None] * 0.85 if peak > 0 else np.zeros_like(grey)
    return np.asarray(np.rint(grey * (1 - strength) + np.array(HEAT) * strength), np.uint8)


def enlarged(frame: Frames, scale: int) -> Image.Image:
    """Every pixel as a square, so that what the model really gets is seen."""
    picture = Image.fromarray(np.ascontiguousarray(frame))
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def shortened(text: str) -> str:
    """One line that fits.

    >>> shortened("a" * 50)[-2:]
    'a…'
    """
    line = clean(text)
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Pillow's own font."""
    return ImageFont.load_default(size)
