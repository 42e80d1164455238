"""What `carpool compare` prints: a table of runs, one of groups, one of differences, and notes."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from carpool.experiments.compare import Comparison
from carpool.experiments.results import percent, size
from carpool.experiments.seeds import Estimate, estimate


def screen(found: Comparison) -> RenderableType:
    """The comparison for people."""
    legend = f'"{_goal(found)}": rounds until that {found.metric}'
    if any(not line.run.complete for line in found.lines):
        legend += "; * not complete"
    parts: list[RenderableType] = [_runs(found), Text(legend, style="dim")]
    if any(len(members) > 1 for members in found.groups.values()):
        legend = "mean ± t·s/√n over seeds (Student's t); few seeds make a rough guide"
        parts += [Text(), _means(found), Text(legend, style="dim")]
    if found.pairs:
        legend = '"clear": the interval leaves out 0; among many pairs some do so by chance'
        parts += [Text(), _pairs(found), Text(legend, style="dim")]
    if found.notes:
        parts += [Text(), *(Text(f"note: {note}") for note in found.notes)]
    return Group(*parts)


def _goal(found: Comparison) -> str:
    return f"to {found.show(found.target)}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=Text(title), title_justify="left", box=None, header_style="dim", padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    return table


def _runs(found: Comparison) -> Table:
    goal = f"to {found.show(found.target)}"
    table = _table(
        "Runs", "run", "seed", "rounds", f"final {found.metric}", "best", goal, "sent", "lost", "void"
    )
    finals = [line.final for line in found.lines if line.final == line.final]
    leading = (max if found.metric == "accuracy" else min)(finals, default=None)
    for line in found.lines:
        lost = percent(line.lost / line.asked, 0) if line.asked else "–"
        table.add_row(
            Text(line.label),
            str(line.run.seed),
            str(len(line.run.records)) + ("" if line.run.complete else "*"),
            Text(
                found.show(line.final), style="bold" if line.final == leading and len(found.lines) > 1 else ""
            ),
            found.show(line.best),
            "–" if line.reached is None else f"{line.reached}",
            size(line.run.total("bytes_up") + line.run.total("bytes_down")),
            lost,
            str(line.void),
        )
    return table


def _interval(found: Comparison, value: Estimate, *, signed: bool = False) -> str:
    if value.half is None:
        return "– (one seed)"
    low, high = value.mean - value.half, value.mean + value.half
    return f"{found.show(low, signed=signed)} to {found.show(high, signed=signed)}"


def _means(found: Comparison) -> Table:
    table = _table("Over seeds", "group", "seeds", f"mean {found.metric}", "95 % interval")
    for group, members in found.groups.items():
        if not members:
            table.add_row(Text(group), "0", "–", "–")
            continue
        value = estimate([line.final for line in members])
        table.add_row(Text(group), str(value.n), found.show(value.mean), _interval(found, value))
    return table


def _pairs(found: Comparison) -> Table:
    table = _table("Differences, seed by seed", "second minus first", "seeds", "mean", "95 % interval", "")
    for pair in found.pairs:
        value = pair.difference
        table.add_row(
            Text(f"{pair.second} − {pair.first}"),
            str(value.n),
            found.show(value.mean, signed=True),
            _interval(found, value, signed=True),
            "clear" if value.clear else "may be chance",
        )
    return table
