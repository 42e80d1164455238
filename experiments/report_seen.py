"""The report's section "Who saw what": `whosaw` in the form that the template shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from carpool.experiments import whosaw
from carpool.experiments.logfacts import when
from carpool.experiments.results import Record, clean, count
from carpool.experiments.whosaw import AFTER, BEFORE, Round

MOST_VOID = 5
SIMULATED = ("inline", "ray")
"""Engines under which one program plays every part."""
SHORT = 16
"""Hexadecimal digits of a transcript in the table; rounds.jsonl has all of them."""


def section(
    channel: str,
    records: Sequence[Record],
    log: Mapping[str, Any] | None,
    most_rows: int,
    engine: str = "",
) -> dict[str, Any] | None:
    """What the template shows; None where the channel is no `secagg`. log: `logfacts.log_head`."""
    if channel != "secagg":
        return None
    rounds = whosaw.read_rounds(records)
    void = [(found.round, found.why or "too few replied") for found in rounds if found.void]
    steps = [step for step in BEFORE if any(found.parts[step] for found in rounds)]
    late = [step for step in AFTER if any(_late(found, step) for found in rounds)]
    return {
        "sentence": whosaw.sentence(channel, records),
        "warnings": whosaw.warnings(channel, records),
        "facts": whosaw.facts(rounds) + _log(log),
        "simulated": engine in SIMULATED,
        "verify": None if log is None else log["verify"],
        "void": void[-MOST_VOID:],
        "void_left_out": max(0, len(void) - MOST_VOID),
        "heads": ["round", "asked", "opened", *(BEFORE[step] for step in steps)]
        + [AFTER[step] for step in late]
        + ["transcript", "why not"],
        "rows": [_row(found, steps, late) for found in rounds[-most_rows:]],
        "rows_left_out": max(0, len(rounds) - most_rows),
    }


def _late(found: Round, step: str) -> int:
    dropped = found.facts.get("dropped")
    return count(dropped.get(step)) if isinstance(dropped, Mapping) else 0


def _row(found: Round, steps: Sequence[str], late: Sequence[str]) -> list[str]:
    why = found.why or "; ".join(dict.fromkeys(found.held))
    return [
        str(found.round),
        str(found.asked),
        whosaw.outcome(found),
        *(str(found.parts[step] or "") for step in steps),
        *(str(_late(found, step) or "") for step in late),
        found.transcript[:SHORT],
        why,
    ]


def _log(log: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if log is None:
        return [("Transparency log", "none in this run's folder")]
    if log["fault"] is not None:
        return [("Transparency log", f"damaged: {clean(log['fault'])}")]
    told = f"{log['entries']:,} entries, the last signed {when(log['at'])}"
    return [("Transparency log", told), ("Its last root", log["root"])]
