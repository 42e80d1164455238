"""Who saw what: what the server learned in each round, out of the records of a run, in words and numbers.

A record's `secagg` says how many vehicles got how far, and over how many of them each sum was that the server
opened. All sentences are computed from it: what a record does not show is not claimed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from carpool.experiments.results import Record, clean, count, number, size

ADVISED = 64
"""n_min below which the report warns."""
TOO_FEW = 2
BEFORE = {
    "advertise": "no answer to the task",
    "share": "left before sharing secrets",
    "send": "left before sending",
    "mask": "left before sending the update",
    "late": "sent for a buffer that had closed",
    "version": "of a version of too few",
    "certify": "sent, but not in the certified list",
}
"""Steps whose losers are not in the sum, in the order of time; protocols of one message: send and certify."""
AFTER = {"sign": "did not sign the list", "open": "did not help to open the sum"}
"""Steps whose losers are in the sum all the same."""
PLAIN_WARNING = (
    "No privacy protection in this run: the server saw every vehicle's update in the clear "
    '(privacy.channel = "plain"). Frames never left the vehicles. '
    'With privacy.channel = "secagg" the server sees sums of many updates, and not a single one.'
)
CHANNELS = {
    "plain": "The server saw every vehicle's update in the clear. Frames never left the vehicles.",
    "sealed": "Updates were encrypted from end to end; the aggregator opened each of them. "
    "Frames never left the vehicles.",
    "secagg": "Updates were masked; the server could open sums of many of them only. "
    "Frames never left the vehicles.",
}
STATUS = {
    "secagg+": "secagg+ follows a published proof (Bell et al. 2020); this implementation is unreviewed.",
    "one-shot": "one-shot is experimental: no proof of this very protocol, nobody has reviewed it.",
    "helpers": "helpers has no proof, and nobody has reviewed it; two of the three helpers together see all.",
}


@dataclass(frozen=True)
class Round:
    """What a round of secure aggregation came to.

    sums: vehicles in each sum that the server opened, of all passes; held: reasons of sums that it did not;
    parts: those asked, split into counted, after (counted, though they left before the end), a key of
    `BEFORE` each, and unused (the rest: no sum came of it); they add up to `asked`. masked: whether there
    were keys and masks, or the arithmetic alone. facts: the record's `secagg`.
    """

    round: int
    protocol: str
    asked: int
    n_min: int
    sums: tuple[int, ...]
    held: tuple[str, ...]
    parts: dict[str, int]
    void: bool
    why: str
    masked: bool
    transcript: str
    facts: Mapping[str, Any]


def read_round(record: Record) -> Round | None:
    """A record's `secagg`; None where it has none."""
    found = record.get("secagg")
    if not isinstance(found, Mapping):
        return None
    steps, dropped = _table(found.get("steps")), _table(found.get("dropped"))
    told = [one for one in found.get("sums") or () if isinstance(one, Mapping)]
    sums = tuple(count(one.get("vehicles")) for one in told if one.get("released"))
    held = tuple(clean(one.get("why") or "not opened") for one in told if not one.get("released"))
    asked = count(steps.get("asked", record.get("asked")))
    inside = sum(count(one.get("vehicles")) for one in _last_pass(told, found) if one.get("released"))
    after = min(sum(count(dropped.get(step)) for step in AFTER), inside)
    parts = {"counted": inside - after, "after": after}
    room = max(0, asked - inside)
    for step in BEFORE:
        parts[step] = min(count(dropped.get(step)), room)
        room -= parts[step]
    return Round(
        round=count(record.get("round")),
        protocol=clean(found.get("protocol") or "unknown"),
        asked=asked,
        n_min=count(found.get("n_min")),
        sums=sums,
        held=held,
        parts=parts | {"unused": room},
        void=bool(record.get("void")),
        why=clean(found.get("why") or ""),
        masked=found.get("cryptography") == "full",
        transcript=clean(found.get("transcript") or ""),
        facts=found,
    )


def _last_pass(told: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The sums of the last pass: a round of several has the sums of all, and the steps of the last."""
    if count(found.get("passes", 1)) <= 1:
        return told
    steps = _table(found.get("steps"))
    left, start = count(steps.get("masked", steps.get("certified"))), len(told)
    while start and left > 0:
        start -= 1
        left -= count(told[start].get("vehicles"))
    return told[start:]


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def read_rounds(records: Sequence[Record]) -> list[Round]:
    """All rounds that say what the server saw."""
    return [found for found in map(read_round, records) if found is not None]


def sentence(channel: str, records: Sequence[Record]) -> str:
    """What the server saw in the whole run, in one plain sentence."""
    if channel != "secagg":
        return CHANNELS.get(channel, f"The channel was {clean(channel)}.")
    rounds = read_rounds(records)
    sums = [one for found in rounds for one in found.sums]
    if not rounds:
        return "No record says what the server saw."
    if not sums:
        return "The server saw no sum, and no single update: every round was void before one was opened."
    plural, each = ("s", ", each over at least") if len(sums) > 1 else ("", " over")
    text = f"The server saw {len(sums):,} sum{plural}{each} {min(sums):,} vehicles"
    if min(sums) < TOO_FEW:
        return f"The server saw {len(sums):,} sum{plural}, and at least one of them was a single update."
    if len(rounds) < len(records) or not all(found.masked for found in rounds):
        return f"{text}, as far as the records say; see the warnings."
    return f"{text}, and no single update."


def warnings(channel: str, records: Sequence[Record]) -> list[str]:
    """What must not be overlooked, the worst first; empty where all is as it should be."""
    if channel != "secagg":
        return []
    rounds, told = read_rounds(records), []
    if few := [one for one in rounds if one.sums and min(one.sums) < max(one.n_min, TOO_FEW)]:
        worst = min(few, key=lambda one: min(one.sums))
        told.append(
            f"Broken promise: round {worst.round} opened a sum over {min(worst.sums)} vehicles, fewer than "
            f"the n_min of {worst.n_min}"
            + (f" (and {len(few) - 1} more rounds)" if len(few) > 1 else "")
            + "."
        )
    if missing := len(records) - len(rounds):
        told.append(f"{missing:,} of {len(records):,} rounds have no record of what the server saw.")
    if bare := [one for one in rounds if not one.masked]:
        told.append(
            f"In {len(bare):,} of {len(rounds):,} rounds only the protocol's arithmetic was run, without "
            "keys and masks: the sums are the same, but nothing kept this process from a single update."
        )
    least = min((one.n_min for one in rounds), default=ADVISED)
    if least < ADVISED:
        told.append(
            f"Small: a sum may be over as few as {least} vehicles (privacy.secagg.n_min). The fewer, the "
            f"more it says about each of them; {ADVISED} or more are advised. Only noise bounds it."
        )
    return told


def facts(rounds: Sequence[Round]) -> list[tuple[str, str]]:
    """How the sums were kept, as (what, value); of the last round that got so far."""
    if not rounds:
        return []
    last = rounds[-1]
    told = [("Protocol", last.protocol)]
    if last.protocol in STATUS:
        told.append(("Status", STATUS[last.protocol]))
    told.append(("Fewest vehicles in a sum (n_min)", f"{last.n_min:,}"))
    graph = next((r.facts for r in reversed(rounds) if number(r.facts.get("threshold")) > 0), None)
    if graph is not None:
        told.append(
            (
                "Shares",
                f"each vehicle shares its secrets with {count(graph.get('neighbours')):,} others; "
                f"{count(graph.get('threshold')):,} of them open one, fewer learn nothing",
            )
        )
    council = next((r.facts["committee"] for r in reversed(rounds) if _table(r.facts.get("committee"))), None)
    if council is not None:
        told.append(("Committee", committee(council)))
    vectors, protocol = (
        sum(count(_table(r.facts.get("bytes")).get(key)) for r in rounds) for key in ("vectors", "protocol")
    )
    told.append(
        ("Sent by vehicles", f"{size(vectors)} of masked updates, {size(protocol)} of the protocol's")
    )
    if clipped := sum(count(r.facts.get("clipped")) for r in rounds):
        told.append(("Clipped", f"{clipped:,} updates were longer than the clip norm, and shortened"))
    return told


def committee(found: Mapping[str, Any]) -> str:
    """A committee in words.

    >>> committee({"members": 60, "corrupt": 20, "quorum": 41, "answered": 58})
    '60 members, of whom 41 must agree and up to 20 may lie; 58 answered in the last round'
    """
    members, corrupt, quorum = (count(found.get(key)) for key in ("members", "corrupt", "quorum"))
    text = f"{members:,} members, of whom {quorum:,} must agree and up to {corrupt:,} may lie"
    answered = found.get("answered")
    return text if answered is None else f"{text}; {count(answered):,} answered in the last round"


def outcome(found: Round) -> str:
    """A round's sums in words.

    >>> outcome(read_round({"round": 1, "secagg": {"sums": [{"vehicles": 23, "released": True}]}}))
    'a sum over 23'
    """
    over = ", ".join(f"{one:,}" for one in found.sums)
    text = (
        "no sum" if not found.sums else f"a sum over {over}" if len(found.sums) == 1 else f"sums over {over}"
    )
    if found.held and found.sums:
        text += f"; {len(found.held)} not opened"
    return f"{text}; void" if found.void and found.sums else text


def document(channel: str, records: Sequence[Record]) -> dict[str, Any] | None:
    """The same for JSON; None where the channel is no `secagg`."""
    if channel != "secagg":
        return None
    rounds = read_rounds(records)
    sums = [one for found in rounds for one in found.sums]
    return {
        "says": sentence(channel, records),
        "warnings": warnings(channel, records),
        "protocol": rounds[-1].protocol if rounds else None,
        "n_min": min((found.n_min for found in rounds), default=None),
        "sums": len(sums),
        "smallest": min(sums, default=None),
        "void": [{"round": one.round, "why": one.why or None} for one in rounds if one.void],
        "lost": {step: sum(one.parts[step] for one in rounds) for step in BEFORE},
    }
