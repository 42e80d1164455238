"""The pictures of a promise: epsilon over the rounds against its target, and the noise in each sum."""

from __future__ import annotations

from collections.abc import Sequence

from carpool.experiments.plots import COLORS, blank, drawing, to_svg
from carpool.experiments.promise import SUMS, thin
from carpool.experiments.results import Record, number, points


def epsilon_svg(records: Sequence[Record], target: float | None = None) -> str | None:
    """Epsilon spent after each round, as steps; None where no record has one.

    target: of the whole run, a dashed line.
    """
    x, y = points(records, "epsilon")
    if not x:
        return None
    with drawing():
        figure, axes = blank(4.4, 2.6)
        style = {"color": COLORS["accuracy"], "linewidth": 1.8}
        if len(x) <= 60:
            axes.plot(x, y, drawstyle="steps-post", marker="o", markersize=3.2, **style)  # type: ignore[arg-type]
        else:
            axes.plot(x, y, **style)  # type: ignore[arg-type]
        if target is not None:
            line = {"color": COLORS["ink"], "linewidth": 1.2, "linestyle": (0, (5, 2.5))}
            axes.axhline(target, **line)  # type: ignore[arg-type]
            axes.annotate(
                f"target {target:g}", (0.0, target), (4, -4), xycoords=("axes fraction", "data"),
                textcoords="offset points", va="top", color=COLORS["ink"],
            )  # fmt: skip
        axes.set_xlabel("round")
        axes.set_ylabel("privacy loss ε (no unit)")
        axes.set_ylim(0, 1.12 * max(*y, target or 0.0, 1e-3))
        return to_svg(figure, "curve-epsilon")


def noise_svg(records: Sequence[Record]) -> str | None:
    """Noise planned and realised in each sum, in clip norms; None where no sum has noise of its own."""
    rows = [(int(one["round"]), one["dp"]) for one in records if isinstance(one.get("dp"), dict)]
    rows = [(at, dp) for at, dp in rows if dp.get("mechanism") in SUMS]
    planned = [(at, number(dp.get("noise_multiplier"))) for at, dp in rows]
    real = [(at, number(dp.get("realised_noise"))) for at, dp in rows]
    planned, real = ([(at, z) for at, z in pairs if z == z] for pairs in (planned, real))
    if not planned:
        return None
    low = {int(one["round"]) for one in records if thin(one)}
    with drawing():
        figure, axes = blank(4.4, 2.6)
        line = {"color": COLORS["ink"], "linewidth": 1.3, "linestyle": (0, (5, 2.5))}
        axes.plot(*zip(*planned, strict=True), label="planned", **line)  # type: ignore[arg-type]
        for chosen, label, color in (
            ([one for one in real if one[0] not in low], "really there", COLORS["accuracy"]),
            ([one for one in real if one[0] in low], "too little: charged more", COLORS["loss"]),
        ):
            if chosen:
                marks = {"marker": "o", "markersize": 4, "linestyle": "none", "color": color}
                axes.plot(*zip(*chosen, strict=True), label=label, **marks)  # type: ignore[arg-type]
        axes.set_xlabel("round")
        axes.set_ylabel("noise in the sum (clip norms)")
        axes.set_ylim(0, 1.12 * max(z for _, z in planned + real))
        figure.legend(loc="outside upper center", ncols=3, frameon=False, handlelength=1.4, columnspacing=1.2)
        return to_svg(figure, "noise")
