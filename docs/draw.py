"""The pictures of the documentation.

.venv/bin/python docs/draw.py              docs/round.svg and docs/round.png: one round, with trust boundaries
.venv/bin/python docs/draw.py --run RUN    docs/run.png: what a finished run came to, for the README
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

from carpool.experiments.plots import COLORS, PARTS
from carpool.experiments.results import attendance

HERE = Path(__file__).parent
INK, MUTED, BLUE, RED, PAPER = COLORS["ink"], COLORS["muted"], COLORS["accuracy"], COLORS["stage4"], "#f5f7f9"


@dataclass(frozen=True)
class Step:
    """A box: what is done, where in the code, at which height."""

    y: float
    title: str
    where: str


# Both columns are read along the arrows: the vehicle's downwards, the server's upwards.
SERVER = (
    Step(6.05, "choose and ask", "server/selection.py · strategy.task"),
    Step(5.05, "checkpoint, then the round's line", "server/checkpoint.py"),
    Step(4.05, "evaluate", "on the experimenter's validation frames"),
    Step(3.05, "strategy.update", "strategies/"),
    Step(2.05, "fold, or unmask the sum; charge", "strategies/fold.py · server/secure.py"),
    Step(1.05, "verify: who, which round, whole?", "server/round.py · privacy/wire.py"),
)
VEHICLE = (
    Step(6.05, "decode the task", "privacy/wire.py"),
    Step(4.8, "strategy.local: train", "client/step.py · client/trainer.py"),
    Step(3.55, "delta = local model - global model", "strategies/shared.py"),
    Step(2.3, "clip · quantise · noise · mask, or seal", "client/protect.py · client/secure.py"),
    Step(1.05, "encode the contribution", "privacy/wire.py"),
)
LEAVES = (
    (9.75, 5.42, "1", "before training"),
    (8.28, 4.8, "2", "during training: lost"),
    (9.75, 2.92, "3", "before upload: lost"),
    (7.2, 1.05, "4", "during upload: the part is refused"),
    (4.85, 1.05, "5", "after upload: it counts"),
)
"""x, y, number and words of the five stages at which a vehicle may leave."""


def figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches, drawn without a screen."""
    made = Figure(figsize=(width, height))
    FigureCanvasAgg(made)
    return made


def box(axes: Axes, x: float, width: float, step: Step) -> None:
    """One step of a column; x is its middle."""
    look = "round,pad=0.02,rounding_size=0.08"
    patch = FancyBboxPatch((x - width / 2, step.y - 0.3), width, 0.6, boxstyle=look)
    patch.set(fc="white", ec=INK, lw=1.1)
    axes.add_patch(patch)
    axes.text(x, step.y + 0.1, step.title, ha="center", va="center", fontsize=10, color=INK)
    axes.text(x, step.y - 0.15, step.where, ha="center", va="center", fontsize=7.6, color=MUTED)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str = INK) -> None:
    """A straight arrow."""
    look = {"arrowstyle": "-|>", "mutation_scale": 13, "lw": 1.6, "color": color, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=look)


def boundary(axes: Axes, x: float, width: float, title: str, color: str) -> None:
    """A side that trusts itself only: what crosses its dashed line is what the picture is about."""
    axes.add_patch(Rectangle((x, 0.35), width, 6.75, fc=PAPER, ec=color, lw=1.8, ls=(0, (5, 3))))
    axes.text(x + 0.15, 6.82, title, fontsize=12, weight="bold", color=color, va="center")


def wire(axes: Axes) -> None:
    """What goes over the network, and how the round is closed."""
    arrow(axes, (4.13, 6.05), (8.25, 6.05), BLUE)
    axes.text(6.2, 6.5, "task", ha="center", fontsize=11, weight="bold", color=BLUE)
    axes.text(6.2, 6.23, "model, round, facts", ha="center", fontsize=8.5, color=BLUE)
    arrow(axes, (8.25, 1.05), (4.13, 1.05), RED)
    axes.text(6.1, 1.78, "contribution", ha="center", fontsize=11, weight="bold", color=RED)
    text = "delta, run, round, version, vehicle and\nupload ids, examples, steps, training loss"
    axes.text(6.1, 1.36, text, ha="center", fontsize=8, color=RED, linespacing=1.15)
    text = (
        'channel = "secagg": the server\nsees sums of contributions;\n'
        '"sealed": it alone sees each;\n"plain": everybody does.\n\n'
        "The round ends when all have\nanswered, at the adaptive\n"
        "deadline with a quorum,\nor at the latest time.\n\n"
        "Below the quorum it is void:\nthe model stays as it was."
    )
    axes.text(6.2, 4.0, text, ha="center", va="center", fontsize=8.8, color=INK, linespacing=1.35)


def leaving(axes: Axes) -> None:
    """The five stages at which a vehicle may leave, as numbers on its way, and what they mean."""
    for x, y, number, _ in LEAVES:
        axes.add_patch(Circle((x, y), 0.15, fc=RED, ec="white", lw=1, zorder=5))
        mark = axes.text(x, y, number, color="white", fontsize=9, weight="bold", zorder=6)
        mark.set(ha="center", va="center")
    axes.text(0.2, 0.02, "A vehicle may leave:", fontsize=9, weight="bold", color=RED, va="center")
    x = 2.0
    for _, _, number, words in LEAVES:
        axes.text(x, 0.02, f"{number}  {words}", fontsize=8.4, color=INK, va="center")
        x += 0.5 + 0.06 * len(words)


def draw_round(folder: Path) -> None:
    """Write round.svg and round.png into `folder`."""
    with mpl.rc_context({"svg.hashsalt": "round", "svg.fonttype": "path", "font.family": "DejaVu Sans"}):
        made = figure(12.4, 7.6)
        axes = made.add_axes((0.005, 0.005, 0.99, 0.99))
        axes.set(xlim=(0, 12.4), ylim=(-0.25, 7.25))
        axes.axis("off")
        boundary(axes, 0.2, 4.3, "aggregation server", BLUE)
        boundary(axes, 7.75, 4.45, "vehicle", RED)
        for step in SERVER:
            box(axes, 2.3, 3.6, step)
        for step in VEHICLE:
            box(axes, 9.75, 2.95, step)
        for below, above in pairwise(reversed(SERVER)):
            arrow(axes, (2.3, below.y + 0.33), (2.3, above.y - 0.33))
        for above, below in pairwise(VEHICLE):
            arrow(axes, (9.75, above.y - 0.33), (9.75, below.y + 0.33))
        frames(axes)
        wire(axes)
        leaving(axes)
        made.savefig(folder / "round.svg", facecolor="white", metadata={"Date": None})
        made.savefig(folder / "round.png", dpi=110, facecolor="white", metadata={"Software": None})


def frames(axes: Axes) -> None:
    """The camera data: beside the training, with no way out of the vehicle."""
    axes.add_patch(Rectangle((11.42, 3.95), 0.68, 1.7, fc="#e3eef7", ec=BLUE, lw=1.1))
    text = "camera frames\nand labels:\nthey stay here"
    axes.text(11.76, 4.8, text, rotation=90, ha="center", va="center", fontsize=7.6, color=INK)
    arrow(axes, (11.42, 4.8), (11.26, 4.8), BLUE)


def draw_run(run: Path, target: Path) -> None:
    """Write run.png: accuracy, who left, and what the model said to a few frames of a finished run."""
    from carpool.experiments.runfolder import RESULT, read_json

    result = read_json(run / RESULT)
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 9.5, "axes.edgecolor": MUTED}):
        made = figure(12.4, 8.2)
        made.text(0.03, 0.965, headline(result), fontsize=13, weight="bold", color=INK, va="center")
        made.text(0.03, 0.933, remark(result), fontsize=9.5, color=MUTED, va="center")
        curve(made.add_axes((0.06, 0.56, 0.35, 0.31)), result["rounds"])
        bars(made.add_axes((0.48, 0.56, 0.49, 0.31)), result["rounds"])
        shown = samples(run)
        for place, sample in enumerate(shown):
            surround(made, 0.03 + place * 0.2425, sample)
        text = "What the eight cameras saw, and what the model said. It sees only the outlined ones."
        made.text(0.03, 0.46, text, fontsize=10.5, weight="bold", color=INK)
        look: dict[str, Any] = {"facecolor": "white", "bbox_inches": "tight", "pad_inches": 0.15}
        made.savefig(target, dpi=110, metadata={"Software": None}, **look)


def headline(result: dict[str, Any]) -> str:
    """What was trained, and how good it became."""
    accuracy, first = result["final"]["accuracy"], next(iter(result["final"]["targets"] or {}), "")
    good = "" if accuracy is None else f": {accuracy:.1%} right on {first}"
    return f"{result['experiment']}{good} after {len(result['rounds'])} rounds"


def remark(result: dict[str, Any]) -> str:
    """The facts that a reader needs to judge the headline."""
    rounds = result["rounds"]
    asked, lost = sum(r["asked"] for r in rounds), sum(r["dropped"] for r in rounds)
    return (
        f"{result['vehicles']} simulated vehicles, {result['strategy']}, seed {result['seed']}; "
        f"validation drives that nobody trained on; {lost / asked:.0%} of {asked} replies lost; "
        f"no privacy protection: channel {result['privacy']['channel']}"
    )


def curve(axes: Axes, rounds: Sequence[dict[str, Any]]) -> None:
    """Accuracy where it was measured."""
    points = [(r["round"], r["accuracy"]) for r in rounds if r["accuracy"] is not None]
    axes.plot(*zip(*points, strict=True), color=BLUE, lw=2, marker="o", ms=3.5)
    axes.set(ylim=(0, 1), xlabel="round", title="accuracy on the validation data")
    axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, symbol=" %"))
    tidy(axes)


def bars(axes: Axes, rounds: Sequence[dict[str, Any]]) -> None:
    """A bar a round: who replied and who left at which stage; the parts add up to those asked."""
    rows, base = [attendance(r) for r in rounds], [0] * len(rounds)
    x = [row.round for row in rows]
    for part, (label, color) in PARTS.items():
        height = [row.parts[part] for row in rows]
        if any(height):
            axes.bar(x, height, 0.82, bottom=base, color=COLORS[color], label=label)
        base = [below + more for below, more in zip(base, height, strict=True)]
    void = [row.round for row in rows if row.void]
    if void:
        axes.scatter(void, [max(base) + 1] * len(void), marker="x", color=INK, s=24, label="void round")
    axes.set(xlabel="round", title="vehicles asked in each round")
    axes.set_ylim(0, 1.3 * max(base))
    axes.legend(loc="upper center", ncols=4, frameon=False, fontsize=8, handlelength=1.1, columnspacing=1.2)
    tidy(axes)


def tidy(axes: Axes) -> None:
    """Few lines, whole rounds."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=COLORS["grid"], lw=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(nbins=8, integer=True))
    axes.title.set(fontsize=10.5, color=INK)


def samples(run: Path) -> list[Any]:
    """Up to four validation samples, the wrong ones last, with the names of the cameras that trained."""
    from carpool.client.modelfile import read_model
    from carpool.experiments.evidence import sample_frames
    from carpool.experiments.load import load_experiment
    from carpool.experiments.runfolder import CONFIG, MODEL, run_identity
    from carpool.experiments.workshop import Workshop

    workshop = Workshop(load_experiment(run / CONFIG), run_identity(run))
    _, tensors = read_model(run / MODEL)
    found = sample_frames(workshop, workshop.model.layout.flatten(tensors))
    wrong = [one for one in found if one.correct is False]
    chosen = [one for one in found if one.correct is not False][: 4 - bool(wrong)]
    chosen += wrong[: 4 - len(chosen)]
    return [(one, workshop.data.schema.views) for one in chosen]


def surround(made: Figure, left: float, sample: tuple[Any, Sequence[str]]) -> None:
    """Eight frames as the cameras sit around the car, what the model said in words below."""
    frame, trained = sample
    width, height = 0.0725, 0.0805
    for name, pixels in frame.views:
        column = 0 if "left" in name else 2 if "right" in name else 1
        row = 0 if "front" in name else 2 if "rear" in name else 1
        corner = (left + column * (width + 0.002), 0.36 - row * (height + 0.003), width, height)
        axes = made.add_axes(corner)
        axes.imshow(pixels, interpolation="bicubic", aspect="auto")
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(color=BLUE if name in trained else "white", linewidth=2.4 if name in trained else 0)
    for line, (name, truth) in enumerate(frame.truth.items()):
        said = frame.prediction.get(name, "")
        mark = "" if line or frame.correct is None else ("  ✓" if frame.correct else "  ✗")
        text = f"{name}: {said}{mark}" + (f"   truth: {truth}" if line or not frame.correct else "")
        color = INK if line or frame.correct else RED
        made.text(
            left,
            0.165 - 0.03 * line,
            text,
            fontsize=8.2 * min(1, 48 / len(text)),
            color=color,
            weight="normal" if line else "bold",
        )
    vehicle, _, domain = frame.caption.partition(": ")
    words = "\n".join([vehicle, *domain.split(", ")])
    middle = (left + 1.5 * width + 0.002, 0.277 + height / 2)
    made.text(*middle, words, fontsize=7.4, color=MUTED, ha="center", va="center", linespacing=1.25)


def main() -> None:
    """Draw what is asked for."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--run", type=Path, help="a finished run's folder")
    options.add_argument("--out", type=Path, default=HERE, help="folder for the pictures")
    given = options.parse_args()
    if given.run is None:
        draw_round(given.out)
        print(f"wrote {given.out / 'round.svg'} and {given.out / 'round.png'}")
    else:
        draw_run(given.run, given.out / "run.png")
        print(f"wrote {given.out / 'run.png'}")


if __name__ == "__main__":
    main()
