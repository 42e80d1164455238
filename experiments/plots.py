"""Curves, bars and histograms of a run: inline SVG for the report, a file for a comparison.

matplotlib is imported inside the functions that draw (a second that `carpool show` need not pay), and only
Figure objects are used: no pyplot, no state between two pictures. The SVG carries text as text and colours as
CSS variables, so that the page around it decides on font, light and dark.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from carpool.experiments.results import STAGES, Record, attendance, points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Blue against an orange ramp holds for every colour vision; the ramp darkens from the first stage on.
COLORS = {
    "ink": "#1b2431",
    "muted": "#5d6b7c",
    "grid": "#dfe4ea",
    "accuracy": "#0b6fb8",
    "loss": "#c2540a",
    "counted": "#0b6fb7",
    "after": "#7cc0ea",
    "stage1": "#fdd49e",
    "stage2": "#fda15f",
    "stage3": "#e2622b",
    "stage4": "#9c2f0d",
    "refused": "#8656a5",
    "other": "#a9b2bd",
}
"""Theme of the light page: name -> hex; in SVG each becomes `var(--c-<name>, hex)`."""

LINES = ("#0b6fb8", "#c2540a", "#1a8a63", "#b0458f", "#7a6a00", "#3aa0d8", "#5b4bb3", "#545f6b")
"""Colours of compared groups."""
MOST_BARS = 120


@dataclass(frozen=True)
class Curve:
    """One run in a comparison: `x` rounds, `y` values; runs of one `group` share a colour."""

    label: str
    group: str
    x: Sequence[int]
    y: Sequence[float]


@contextmanager
def drawing() -> Iterator[None]:
    """The settings under which a figure is made and saved; restored afterwards."""
    import matplotlib as mpl

    settings = {
        "svg.fonttype": "none",
        "text.parse_math": False,  # a run may be called "$x$"
        "font.size": 9.5,
        "text.color": COLORS["ink"],
        "axes.edgecolor": COLORS["muted"],
        "axes.labelcolor": COLORS["muted"],
        "xtick.color": COLORS["muted"],
        "ytick.color": COLORS["muted"],
        "axes.linewidth": 0.8,
        "path.simplify": True,
    }
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*[Gg]lyph.*")  # names in scripts that the font lacks
        mpl.rcParams.update(settings)  # type: ignore[arg-type]
        yield


def blank(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of that size in inches with one plain pair of axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=COLORS["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=3)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    return figure, axes


def _percent(axes: Axes, which: str) -> None:
    from matplotlib.ticker import PercentFormatter

    (axes.yaxis if which == "y" else axes.xaxis).set_major_formatter(PercentFormatter(1.0, symbol=" %"))


def to_svg(figure: Figure, name: str) -> str:
    """The figure as an `<svg>` element for inside a page; `name` keeps its ids apart from other pictures'."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = text.replace("xlink:href=", "href=")
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r"(<svg[^>]*?) width=\"[^\"]*\"", r"\1", text, count=1)
    text = re.sub(r"(<svg[^>]*?) height=\"[^\"]*\"", r"\1", text, count=1)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    for color, value in COLORS.items():
        text = text.replace(value, f"var(--c-{color}, {value})")
    return text.strip()


def curve_svg(records: Sequence[Record], key: str, label: str, *, percent: bool = False) -> str | None:
    """One metric over rounds, or None where no round measured it."""
    x, y = points(records, key)
    if not x:
        return None
    with drawing():
        figure, axes = blank(4.4, 2.6)
        color = COLORS.get(key, COLORS["accuracy"])
        axes.plot(x, y, color=color, linewidth=1.8, marker="o" if len(x) <= 40 else None, markersize=3.2)
        axes.set_xlabel("round")
        axes.set_ylabel(label)
        if percent:
            _percent(axes, "y")
            axes.set_ylim(0, 1.02)
        else:
            low, high = min(0.0, *y), max(y)
            axes.set_ylim(low, high + 0.06 * (high - low) or 1.0)
        return to_svg(figure, f"curve-{key}")


PARTS = {
    "counted": ("replied", "counted"),
    "after_upload": ("replied, then left", "after"),
    "before_training": (STAGES["before_training"], "stage1"),
    "during_training": (STAGES["during_training"], "stage2"),
    "before_upload": (STAGES["before_upload"], "stage3"),
    "during_upload": (STAGES["during_upload"], "stage4"),
    "refused": ("reply refused", "refused"),
    "other": ("too late, or not known", "other"),
}
"""Parts of `Attendance`: what people read, and the colour."""


def attendance_svg(records: Sequence[Record]) -> str | None:
    """Stacked bars of those asked, a bar a round (or the mean of several); void rounds marked."""
    rows = [attendance(record) for record in records]
    if not rows:
        return None
    step = math.ceil(len(rows) / MOST_BARS)
    bins = [rows[start : start + step] for start in range(0, len(rows), step)]
    x = np.array([(part[0].round + part[-1].round) / 2 for part in bins])
    with drawing():
        figure, axes = blank(9.6, 3.3)
        base = np.zeros(len(bins))
        width = step * (0.82 if len(bins) <= 60 else 1.0)
        for part, (label, color) in PARTS.items():
            height = np.array([np.mean([row.parts[part] for row in rows_]) for rows_ in bins])
            if height.any():
                axes.bar(x, height, width, bottom=base, color=COLORS[color], label=label)
            base += height
        void = np.array([any(row.void for row in rows_) for rows_ in bins])
        if void.any():
            style = {"marker": "x", "s": 26, "linewidths": 1.6, "color": COLORS["ink"], "clip_on": False}
            style["label"] = "void round" if step == 1 else "a void round among them"
            axes.scatter(x[void], base[void] + 0.045 * base.max(), **cast(Any, style))
        axes.set_xlabel("round" if step == 1 else f"round (a bar is the mean of {step} rounds)")
        axes.set_ylabel("vehicles asked")
        axes.set_ylim(0, max(1.0, base.max()) * 1.1)
        axes.margins(x=0.01)
        handles, labels = axes.get_legend_handles_labels()
        order = sorted(range(len(labels)), key=lambda index: "void" in labels[index])  # bars first
        figure.legend(
            [handles[index] for index in order], [labels[index] for index in order],
            loc="outside upper center", ncols=5, frameon=False, handlelength=1.1, columnspacing=1.4,
        )  # fmt: skip
        return to_svg(figure, "attendance")


def histogram_svg(accuracy: NDArray[np.float64], own: NDArray[np.float64] | None = None) -> str:
    """How many vehicles have which accuracy: `accuracy` float64 [n], 0..1, n >= 1, of the fleet's model.

    own: float64 [n], of the vehicles' own models beside it; None or empty: there are none.
    """
    with drawing():
        figure, axes = blank(4.4, 2.6)
        bins = np.linspace(0, 1, 21).tolist()
        both, median_is = False, "median"
        if own is not None and own.size:
            both, median_is = True, "median, fleet's"
            colors, names = [COLORS["accuracy"], COLORS["loss"]], ["the fleet's model", "the vehicle's own"]
            axes.hist([accuracy, own], bins=bins, color=colors, label=names, rwidth=0.92)
            figure.legend(loc="outside upper center", ncols=2, frameon=False, handlelength=1.1)
        else:
            axes.hist(accuracy, bins=bins, color=COLORS["accuracy"], rwidth=0.92)
        median = float(np.median(accuracy))
        axes.axvline(median, color=COLORS["ink"], linewidth=1.4, linestyle=(0, (4, 2)))
        side = {"ha": "right", "x": -5} if median > 0.5 else {"ha": "left", "x": 5}
        axes.annotate(
            median_is, (median, 1.0), (cast(float, side["x"]), 2), xycoords=("data", "axes fraction"),
            textcoords="offset points", ha=cast(Any, side["ha"]), color=COLORS["ink"],
        )  # fmt: skip
        axes.set_xlim(0, 1)
        axes.set_xlabel("accuracy on one vehicle" if both else "accuracy of the final model on one vehicle")
        axes.set_ylabel("vehicles")
        axes.xaxis.set_major_locator(_tenths())
        _percent(axes, "x")
        return to_svg(figure, "histogram")


def _tenths() -> Any:
    from matplotlib.ticker import MultipleLocator

    return MultipleLocator(0.2)


def comparison(curves: Sequence[Curve], label: str, *, percent: bool, kind: str) -> bytes:
    """All runs' curves in one picture, a colour a group; the bytes of a `kind` "png" or "svg" file."""
    groups = list(dict.fromkeys(curve.group for curve in curves))
    with drawing():
        figure, axes = blank(8.5, 4.8)
        for index, group in enumerate(groups):
            style = ("-", "--", ":", "-.")[index // len(LINES) % 4]
            members = [curve for curve in curves if curve.group == group]
            for position, curve in enumerate(members):
                name = f" {group}" + (f" ({len(members)} runs)" if len(members) > 1 else "")
                axes.plot(
                    curve.x, curve.y, style, color=LINES[index % len(LINES)], linewidth=1.7,
                    alpha=1.0 if len(members) == 1 else 0.75, label=name if position == 0 else "_",
                )  # fmt: skip
        axes.set_xlabel("round")
        axes.set_ylabel(label)
        if percent:
            _percent(axes, "y")
            axes.set_ylim(0, 1.02)
        figure.legend(loc="outside lower center", ncols=1 if len(groups) < 3 else 2, frameon=False)
        buffer = io.BytesIO()
        figure.savefig(
            buffer, format=kind, dpi=150, facecolor="white", metadata={"Date": None} if kind == "svg" else {}
        )
        return buffer.getvalue()
