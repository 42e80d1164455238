"""What stands in a privacy ledger: its kinds of lines and their one form as bytes.

    ledger     version, scope, name, unit, relation, delta, private     the first line, and no other
    charge     ticket and the facts of one release (class Release), before anything is released
    realised   charge, noise_multiplier, survived    the noise that is truly there, once the set is certified
    published  charge, round, digest                 the SHA-256 of what left under a charge
    void       charge, why                           nothing (more) leaves under it; nothing is refunded

Every line has number, at (Unix seconds), before (the hash of the line above) and hash (its own), too. Facts
only: no epsilon stands here, and every epsilon is computed from these lines alone. A chain shows damage, not
a forger who writes all of it anew: keep its last hash (the head) elsewhere.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args, get_type_hints

from carpool.privacy.dp.events import RELATIONS, UNITS, Event, Relation, Unit
from carpool.privacy.logentries import canonical, parse

Line = dict[str, Any]
Scope = Literal["run", "fleet"]
VERSION = 1
MOST_LINE = 1 << 13
"""Longest line in bytes, without its newline."""
MOST_TEXT = 128
FIRST = "0" * 64
"""What the first line names as the hash of the line above it."""
_ALWAYS = ("kind", "number", "at", "before", "hash")
_HINTS = get_type_hints(Event)
_MECHANISMS = get_args(_HINTS["mechanism"])
_HEX16, _HEX32 = (re.compile(pattern, re.ASCII) for pattern in ("[0-9a-f]{32}", "[0-9a-f]{64}"))


def _whole(least: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and least <= value < 1 << 53


def _real(value: Any) -> bool:
    return type(value) is float and math.isfinite(value) and value >= 0


def _share(value: Any) -> bool:
    return _real(value) and 0 < value < 1


def is_text(value: Any) -> bool:
    """Whether a value is 1 to MOST_TEXT printable ASCII characters, harmless on any screen."""
    return isinstance(value, str) and 0 < len(value) <= MOST_TEXT and value.isascii() and value.isprintable()


def _yes_or_no(value: Any) -> bool:
    return isinstance(value, bool)


def _one_of(*words: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in words


def _matches(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _event(value: Any) -> bool:
    try:
        event_of(value)
    except ValueError:
        return False
    return True


def event_of(document: Any) -> Event:
    """An event from its fields; raises ValueError for a missing, unknown or bad one."""
    if not isinstance(document, dict) or document.keys() != _EVENT.keys():
        raise ValueError(f"an event has the fields {', '.join(_EVENT)}")
    for name, fits in _EVENT.items():
        if not fits(document[name]):
            raise ValueError(f"an event's {name} cannot be {str(document[name])[:40]!r}")
    return Event(**document)


_OF_TYPE: Mapping[Any, Callable[[Any], bool]] = {float: _real, int: _whole(0), str: is_text}
_EVENT = {one.name: _OF_TYPE.get(_HINTS[one.name], _one_of(*_MECHANISMS)) for one in fields(Event)}


@dataclass(frozen=True)
class Header:
    """For whom a ledger counts. name: of the run or fleet; delta: at which its epsilon is read.

    private: False where noise may come from a seeded generator; such a ledger is NOT PRIVATE for good.
    """

    scope: Scope
    name: str
    unit: Unit
    relation: Relation
    delta: float
    private: bool = True


@dataclass(frozen=True)
class Release:
    """The facts of one release, as planned.

    run: the experiment's run; round: from 0; what: "model sum", "metrics", "clip bits", "early stopping",
    "trial", ...; mechanism: the configuration's word; event: what the accountant needs, the noise as PLANNED;
    delta: what the run promises; clip_norm: in weight units, 0 where nothing is clipped; cohort: vehicles
    planned; noise_from: who adds noise, "vehicles" where losses take it away (then nothing is published
    before the realised noise is charged); releases: how many rounds this one charge pays for, 1 but for a
    matrix mechanism, whose event is a whole training; separation, most: its participation schema, in rounds
    and times, 0 for none; private: False for noise from a seeded generator.
    """

    run: str
    round: int
    what: str
    mechanism: str
    event: Event
    unit: Unit
    relation: Relation
    delta: float
    clip_norm: float
    cohort: int
    noise_from: Literal["server", "vehicles"] = "server"
    releases: int = 1
    separation: int = 0
    most: int = 0
    private: bool = True


_OWN: Mapping[str, Callable[[Any], bool]] = {
    "unit": _one_of(*UNITS),
    "relation": _one_of(*RELATIONS),
    "delta": _share,
    "private": _yes_or_no,
}
KINDS: Mapping[str, Mapping[str, Callable[[Any], bool]]] = {
    "ledger": {
        **_OWN,
        "version": lambda value: type(value) is int and value == VERSION,
        "scope": _one_of("run", "fleet"),
        "name": is_text,
    },
    "charge": {
        **_OWN,
        "ticket": _matches(_HEX16),
        "run": is_text,
        "round": _whole(0),
        "what": is_text,
        "mechanism": is_text,
        "event": _event,
        "clip_norm": _real,
        "cohort": _whole(0),
        "noise_from": _one_of("server", "vehicles"),
        "releases": _whole(1),
        "separation": _whole(0),
        "most": _whole(0),
    },
    "realised": {"charge": _whole(1), "noise_multiplier": _real, "survived": _whole(0)},
    "published": {"charge": _whole(1), "round": _whole(0), "digest": _matches(_HEX32)},
    "void": {"charge": _whole(1), "why": is_text},
}
"""Kind of line -> its own fields and what their values must be."""


def facts(record: Header | Release) -> Line:
    """Its fields as a line has them: plain numbers, whichever kind of number the caller had."""
    return plain(asdict(record))


def plain(document: Line) -> Line:
    """The same with every fraction as a plain float, so that it has one form as bytes."""
    exact = {"delta", "clip_norm", *(name for name, kind in _HINTS.items() if kind is float)}
    return {
        name: plain(value) if isinstance(value, dict) else float(value) if name in exact else value
        for name, value in document.items()
    }


def line(kind: str, own: Mapping[str, Any], *, number: int, at: int, before: str) -> Line:
    """A line with its hash. number: from 0; at: Unix seconds; before: hash of the line above, or FIRST.

    Raises ValueError for an unknown kind or field, or a bad value.
    """
    if kind not in KINDS:
        raise ValueError(f"a ledger has no lines of kind {kind[:40]!r}; it has {', '.join(KINDS)}")
    if own.keys() != KINDS[kind].keys():
        names = ", ".join(sorted(own.keys() ^ KINDS[kind].keys()))
        raise ValueError(f"of a line of kind {kind} there is missing, or too many: {names[:80]}")
    for name, fits in KINDS[kind].items():
        if not fits(own[name]):
            raise ValueError(f"the field {name} of kind {kind} cannot be {str(own[name])[:80]!r}")
    if not _whole(0)(number) or not _whole(0)(at) or not _matches(_HEX32)(before):
        raise ValueError(f"number {number!r}, time {at!r} or the hash before it is malformed")
    made = {"kind": kind, "number": number, "at": at, "before": before, **own}
    return {**made, "hash": hashlib.sha256(canonical(made)).hexdigest()}


def read_line(data: bytes, *, number: int, since: int, before: str) -> Line:
    """Line `number` of a ledger, under one of hash `before` and time `since`; raises ValueError."""
    found = parse(data)
    own = {name: value for name, value in found.items() if name not in _ALWAYS}
    if found.get("number") != number:
        raise ValueError(f"line {str(found.get('number'))[:40]} stands where {number} should be")
    if found.get("before") != before:
        raise ValueError("it does not follow the line above it")
    made = line(str(found.get("kind")), own, number=number, at=found.get("at", -1), before=before)
    if canonical(made) != data:
        raise ValueError("its hash is not that of what it says")
    if made["at"] < since:
        raise ValueError(f"its time {made['at']} is before that of the line above, {since}")
    return made
