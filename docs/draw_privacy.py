"""docs/privacy.png: accuracy and epsilon over the rounds, of the runs that privacy.md compares.

.venv/bin/python docs/draw_privacy.py NONE DISTRIBUTED MATRIX    folders of three finished runs
"""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from carpool.experiments.plots import COLORS, drawing
from carpool.experiments.results import points, read_run

HERE = Path(__file__).parent
ROWS = (
    ("none: no noise", COLORS["muted"], "-"),
    ("distributed: holds against the server, too", COLORS["accuracy"], "-"),
    ("matrix: the server is trusted with the sums", COLORS["loss"], "--"),
)


def draw(folders: list[Path], out: Path) -> None:
    """Two panels, a colour a run."""
    with drawing():
        figure = Figure(figsize=(9.2, 3.5), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        for folder, (label, color, style) in zip(folders, ROWS, strict=True):
            records = read_run(folder).records
            left.plot(*points(records, "accuracy"), style, color=color, label=label, marker="o", markersize=3)
            x, y = points(records, "epsilon")
            if x:
                right.plot(x, y, style, color=color, drawstyle="steps-post", marker="o", markersize=3)
        left.set_ylabel("accuracy")
        left.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        left.set_ylim(0, 0.8)
        right.set_ylabel("ε spent, for each vehicle (δ = 1e-5)")
        right.set_ylim(0, 9)
        for axes in (left, right):
            axes.set_xlabel("round")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", color=COLORS["grid"], linewidth=0.8)
        figure.legend(loc="outside upper center", ncols=3, frameon=False)
        figure.savefig(out, dpi=150, facecolor="white")


def main() -> None:
    """Draw what is asked for."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("runs", type=Path, nargs=3, help="finished runs: without noise, distributed, matrix")
    options.add_argument("--out", type=Path, default=HERE / "privacy.png")
    given = options.parse_args()
    draw(given.runs, given.out)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
