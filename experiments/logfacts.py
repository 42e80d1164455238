"""A run's folder beside its transparency log: what the log's head is, and whether the two say the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from carpool.experiments.results import count
from carpool.privacy.errors import CarpoolError

LOG = "log.jsonl"
CA = "ca.pub"
GROUPED = ("one-shot", "helpers")
"""Protocols in which each group is a round of the log."""


def log_head(folder: Path) -> dict[str, Any] | None:
    """The last signed checkpoint of the run's log, not checked; None where there is no log.

    `fault` says what is wrong with it, null for nothing.
    """
    path = folder / LOG
    if not path.is_file():
        return None
    from carpool.privacy import transparency
    from carpool.privacy.logwriter import beside

    head: dict[str, Any] = {"file": str(path), "verify": f"carpool log verify {folder}"}
    try:
        found = transparency.last_checkpoint(beside(path) if beside(path).is_file() else path)
    except CarpoolError as error:
        return head | {"entries": None, "root": None, "at": None, "fault": str(error)}
    return head | {"entries": found.size, "root": found.root.hex(), "at": found.at, "fault": None}


def contradictions(records: Sequence[Mapping[str, Any]], entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """Where a run's rounds say something else than its log, a sentence each.

    Rounds of the log that no record has are attempts that a kill cut off; those are not told.
    """
    held = list(entries)
    ends = {one["transcript"]: one for one in held if one["kind"] == "transcript"}
    everywhere: Counter[int] = Counter()
    sizes: dict[str, Counter[int]] = {}
    for one in held:
        if one["kind"] == "participation":
            everywhere[len(one["vehicles"])] += 1
            sizes.setdefault(one["round"], Counter())[len(one["vehicles"])] += 1
    told = []
    for record in records:
        seen = record.get("secagg")
        if not isinstance(seen, Mapping):
            continue
        end, where = ends.get(seen.get("transcript")), f"round {record['round']} of the run"
        sums = Counter(count(one.get("vehicles")) for one in seen.get("sums") or () if one.get("released"))
        # A round of several passes has the transcript of the last and the sums of all; the groups of
        # `one-shot` and `helpers` are rounds of their own in the log; the record's transcript is over all.
        alone = end is not None and count(seen.get("passes", 1)) <= 1
        logged = sizes.get(end["round"], Counter()) if end is not None and alone else everywhere
        if end is None and seen.get("protocol") not in GROUPED:
            told.append(f"{where} has a transcript that the log does not have")
        elif end is not None and end["released"] != bool(seen.get("released")):
            said = "a sum was opened" if end["released"] else "none was opened"
            told.append(f"{where} says the contrary, but by the log {said}")
        elif missing := sums - logged:
            few = next(iter(missing))
            told.append(f"{where} has a sum over {few} vehicles; the log counted no such sum")
    return told


def pool_hash(epoch: int, nodes: Sequence[int]) -> str:
    """What the log says of the nodes that the committee of an epoch is drawn from, in hexadecimal."""
    from carpool.privacy import signing

    ids = b"".join(int(node).to_bytes(8, "little") for node in nodes)
    return signing.digest("carpool/pool", 1, [epoch.to_bytes(8, "little"), ids]).hex()


def when(seconds: int) -> str:
    """Unix seconds as a date and time in UTC.

    >>> when(0)
    '1970-01-01 00:00:00 UTC'
    """
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
