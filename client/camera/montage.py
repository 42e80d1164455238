"""A sheet of samples to look at: a row a sample, a column a view, the targets in words under each row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from carpool.client.camera.samples import Pool, Rows, Target
from carpool.privacy.errors import DataError

_PAPER, _INK, _GAP, _TEXT = (255, 255, 255), (40, 40, 40), 4, 12


def words(target: Target, value: NDArray[np.generic], views: Sequence[str]) -> str:
    """One target of one sample for people, e.g. "sign stop", "obstacle front rear", "offset -0.31 m"."""
    if target.kind == "class":
        return f"{target.name} {target.classes[int(value)]}"
    if target.kind == "flags":
        labels = views if len(views) == target.width else [str(i) for i in range(target.width)]
        raised = [label for label, flag in zip(labels, np.atleast_1d(value), strict=True) if flag]
        return f"{target.name} {' '.join(raised) or 'nowhere'}"
    return f"{target.name} {float(value):+.3g} {target.unit}".rstrip()


def caption(pool: Pool, row: int) -> str:
    """Who recorded the sample, where, and all its targets."""
    parts = []
    if pool.vehicle is not None:
        vehicle = int(pool.vehicle[row])
        parts.append(
            f"vehicle {vehicle}" + (f" ({pool.domain[vehicle]})" if pool.domain.get(vehicle) else "")
        )
    parts += [words(t, pool.targets[t.name][row], pool.schema.views) for t in pool.schema.targets]
    return " · ".join(parts)


def montage(
    pool: Pool, rows: Rows | Sequence[int], *, scale: int = 3, captions: Sequence[str] | None = None
) -> Image.Image:
    """An RGB picture of the samples `rows` [n >= 1], each view enlarged `scale` times.

    captions: one a row, in place of the targets. Raises DataError on rows that the pool lacks.
    """
    if len(rows) == 0 or int(np.min(rows)) < 0 or int(np.max(rows)) >= len(pool):
        raise DataError(f"a montage needs rows from 0 to {len(pool) - 1}, not {list(map(int, rows))[:8]}")
    if scale < 1 or (captions is not None and len(captions) != len(rows)):
        raise DataError(f"a montage needs a scale of at least 1 and a caption a row, not scale {scale}")
    plan, font = pool.schema, ImageFont.load_default(_TEXT)
    texts = [caption(pool, int(row)) for row in rows] if captions is None else list(captions)
    tall, wide, line = plan.height * scale, plan.width * scale, _TEXT + 2 * _GAP
    width = _GAP + len(plan.views) * (wide + _GAP)
    lines = [_fold(text, font, width - 2 * _GAP) for text in texts]
    height = line + sum(tall + len(folded) * line + _GAP for folded in lines)
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, view in enumerate(plan.views):
        pen.text((_GAP + column * (wide + _GAP), _GAP), view, fill=_INK, font=font)
    top = line
    for row, folded in zip(rows, lines, strict=True):
        for column in range(len(plan.views)):
            picture = Image.fromarray(np.ascontiguousarray(pool.frames[int(row), column]))
            large = picture.resize((wide, tall), Image.Resampling.NEAREST)
            sheet.paste(large, (_GAP + column * (wide + _GAP), top))
        top += tall
        for text in folded:
            pen.text((_GAP, top + 2), text, fill=_INK, font=font)
            top += line
        top += _GAP
    return sheet


def _fold(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Break a caption at its blanks so that each line fits `width` pixels."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines or [""]
