"""Whether, by its transparency log, a server kept its rules: small sums, doubled rounds, differences.

A finding is a sentence. None of it needs a secret: the log's entries are enough (logentries.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from carpool.privacy.logentries import Entry

MOST_COMPARED = 200
"""Releases that are compared with each other: the last ones."""


def breaches(entries: Sequence[Entry]) -> list[str]:
    """What an honest server never does: sums below n_min, steps of a round out of order, or twice."""
    announced = {one["round"]: one for one in entries if one["kind"] == "round"}
    tasks, counted = _first(entries, "task"), _first(entries, "participation")
    over = _first(entries, "transcript")
    told = _doubled(entries)
    for one in entries:
        if one["kind"] not in AFTER:
            continue
        name, number = one["round"], one["number"]
        where, begun = f"entry {number}: round {name[:8]}", announced.get(name)
        if begun is None or begun["number"] > number:
            told.append(f"{where} was {AFTER[one['kind']]}, but not announced before")
        elif one["kind"] == "participation" and len(one["vehicles"]) < begun["n_min"]:
            held, least = len(one["vehicles"]), begun["n_min"]
            told.append(f"{where} counted {held} vehicles, announced were at least {least}")
        elif one["kind"] != "task" and tasks.get(name, 0) > number:
            told.append(f"{where} was {AFTER[one['kind']]} before its task was logged")
        elif one["kind"] == "keys" and counted.get(name, number) < number:
            told.append(f"{where} got its list of keys after its vehicles were counted")
        elif one["kind"] == "transcript" and one["released"] and counted.get(name, number) >= number:
            told.append(f"{where} was released, but nobody was counted before")
        elif one["kind"] == "participation" and over.get(name, number) < number:
            told.append(f"{where} counted vehicles after it was over")
    return told


AFTER = {
    "task": "given a task",
    "keys": "given a list of keys",
    "participation": "released",
    "transcript": "said to be over",
}
"""Kinds of entries that come after their round's announcement, and what then happened to the round."""


def _first(entries: Sequence[Entry], kind: str) -> dict[str, int]:
    """By round: the number of its first entry of a kind."""
    return {one["round"]: one["number"] for one in reversed(entries) if one["kind"] == kind}


def _doubled(entries: Sequence[Entry]) -> list[str]:
    """What may be there once: a round, its end, a list of keys, and a vehicle in the sums of its round."""
    told: list[str] = []
    seen: set[tuple[str, str]] = set()
    counted: dict[str, set[str]] = {}
    for one in entries:
        kind, where = one["kind"], f"entry {one['number']}"
        if kind in ("round", "transcript", "keys"):
            key = (kind, one["hash"] if kind == "keys" else one["round"])
            if key in seen:
                told.append(f"{where}: a second {kind} of round {one['round'][:8]}")
            seen.add(key)
        if kind == "participation":
            before = counted.setdefault(one["round"], set())
            if twice := before.intersection(one["vehicles"]):
                told.append(
                    f"{where}: a second participation of {len(twice)} vehicles in round {one['round'][:8]}"
                )
            before.update(one["vehicles"])
    return told


def unfinished(entries: Sequence[Entry]) -> list[str]:
    """What a server may do and people should know: rounds without an end, and graphs drawn without a list."""
    over, keyed = _first(entries, "transcript"), _first(entries, "keys")
    counted = _first(entries, "participation")
    begun = [one for one in entries if one["kind"] == "round"]
    told = []
    if lapsed := [one for one in begun if one["round"] not in over and one["round"] not in counted]:
        told.append(f"{_rounds(lapsed)} announced, and nothing came of it; each is one more draw of a graph")
    if opened := [one for one in begun if one["round"] in counted and one["round"] not in over]:
        told.append(f"{_rounds(opened)} counted, and the log does not say whether a sum came of it")
    bare = [one for one in begun if one["protocol"] == "secagg+" and one["beacon"] == ""]
    if bare := [one for one in bare if one["round"] in counted and one["round"] not in keyed]:
        told.append(f"{_rounds(bare)} counted without a list of keys in the log; nobody can redraw the graph")
    return told


def _rounds(entries: Sequence[Entry]) -> str:
    more = f" and {len(entries) - 3} more" if len(entries) > 3 else ""
    return ("round " if len(entries) == 1 else "rounds ") + (
        ", ".join(one["round"][:8] for one in entries[:3]) + more + (" was" if len(entries) == 1 else " were")
    )


def differences(entries: Sequence[Entry]) -> list[str]:
    """Two sums over almost the same vehicles: their difference is a sum over the few that differ.

    Chance brings such pairs about, too. Only sets of which one holds the other are compared, not sums of
    three or more rounds; noise (differential privacy) is the answer, not this list.
    """
    fewest = {one["round"]: one["n_min"] for one in entries if one["kind"] == "round"}
    releases = [one for one in entries if one["kind"] == "participation"][-MOST_COMPARED:]
    told = []
    for (one, here), (two, there) in combinations([(one, frozenset(one["vehicles"])) for one in releases], 2):
        few, least = abs(len(here) - len(there)), fewest.get(two["round"], 0)
        if 0 < few < least and (here < there or there < here):
            told.append(
                f"entries {one['number']} and {two['number']}: the sums differ by {few} vehicles, fewer than "
                f"the n_min of {least}; if the others sent alike in both rounds, the sum of these can be told"
            )
    return told
