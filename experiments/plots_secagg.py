"""The picture of who was in the sums: a bar a round, the line below which nothing may be opened."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from carpool.experiments.plots import COLORS, MOST_BARS, blank, drawing, to_svg
from carpool.experiments.whosaw import BEFORE, Round

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PARTS = {
    "counted": ("in a sum", "counted"),
    "after": ("in a sum, then left", "after"),
    "unused": ("not opened, so not in a sum", "refused"),
    "advertise": (BEFORE["advertise"], "stage1"),
    "send": (BEFORE["send"], "stage1"),
    "share": (BEFORE["share"], "stage2"),
    "mask": (BEFORE["mask"], "stage3"),
    "late": (BEFORE["late"], "stage3"),
    "version": (BEFORE["version"], "stage2"),
    "certify": (BEFORE["certify"], "stage4"),
}
"""Parts of `whosaw.Round` from the bottom up: what people read, and the colour."""


def sums_svg(rounds: Sequence[Round]) -> str | None:
    """Stacked bars of those asked (a bar a round, or the mean of several); None where there are no rounds.

    A dashed line: n_min; dots: the smallest sum, where a bar is not just one; crosses: void rounds.
    """
    if not rounds:
        return None
    step = math.ceil(len(rounds) / MOST_BARS)
    bins = [rounds[at : at + step] for at in range(0, len(rounds), step)]
    x = np.array([(rows[0].round + rows[-1].round) / 2 for rows in bins])
    with drawing():
        figure, axes = blank(9.6, 3.5)
        base = np.zeros(len(bins))
        width = step * (0.82 if len(bins) <= 60 else 1.0)
        for part, (label, color) in PARTS.items():
            height = np.array([np.mean([row.parts[part] for row in rows]) for rows in bins])
            if height.any():
                axes.bar(x, height, width, bottom=base, color=COLORS[color], label=label)
            base += height
        top = max(1.0, float(base.max()), *(float(row.n_min) for row in rounds))
        _marks(axes, bins, x, base + 0.045 * top, step)
        axes.set_xlabel("round" if step == 1 else f"round (a bar is the mean of {step} rounds)")
        axes.set_ylabel("vehicles asked")
        axes.set_ylim(0, top * 1.1)
        axes.margins(x=0.01)
        handles, labels = axes.get_legend_handles_labels()
        shown = dict(zip(labels, handles, strict=True))
        bars = [label for label, _ in PARTS.values() if label in shown]
        order = bars + [label for label in labels if label not in bars]
        figure.legend(
            [shown[label] for label in order], order, loc="outside upper center", ncols=4, frameon=False,
            handlelength=1.4, columnspacing=1.4,
        )  # fmt: skip
        return to_svg(figure, "sums")


def _marks(axes: Axes, bins: Sequence[Sequence[Round]], x: Any, above: Any, step: int) -> None:
    """n_min, smallest sums and void rounds."""
    least = np.array([max(row.n_min for row in rows) for rows in bins], np.float64)
    edges = np.concatenate([x - step / 2, x[-1:] + step / 2])
    numbers = sorted({int(one) for one in least})
    told = f"n_min: {numbers[0]} at least" if len(numbers) == 1 else "n_min"
    line: dict[str, Any] = {"color": COLORS["ink"], "linewidth": 1.5, "linestyle": (0, (5, 2.5))}
    axes.stairs(least, edges, baseline=None, label=told, **line)
    if step > 1 or any(len(row.sums) > 1 for rows in bins for row in rows):  # a bar is not one sum then
        smallest = np.array([min((s for row in rows for s in row.sums), default=np.nan) for rows in bins])
        dots: dict[str, Any] = {"marker": "o", "s": 20, "color": COLORS["ink"], "edgecolors": "white"}
        axes.scatter(x, smallest, **dots, linewidths=0.8, zorder=4, label="smallest sum")
    void = np.array([any(row.void for row in rows) for rows in bins])
    if void.any():
        style = {"marker": "x", "s": 26, "linewidths": 1.6, "color": COLORS["ink"], "clip_on": False}
        style["label"] = "void round" if step == 1 else "a void round among them"
        axes.scatter(x[void], above[void], **cast(Any, style))
