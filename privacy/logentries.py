"""What stands in a transparency log: the kinds of entries, their fields, and their one form as bytes.

    begin          run, version, secret        first entry; secret: SHA-256 of what pseudonyms are made with
    revoked        counter, hash               the CA's list of revoked certificates that the server goes by
    pool           epoch, nodes, hash          whom a committee is drawn from, before the beacon that draws it
    round          round, protocol, announcement, n_min, committee, beacon    before any vehicle answers
    task           round, version, task        the hash of everything that vehicles were sent
    keys           round, vehicles, hash       the ordered list of keys, before the graph's beacon
    beacon         source, position, value     a value from outside (beacon.py)
    participation  round, list, vehicles       who is in a released sum, by pseudonym, sorted
    transcript     round, transcript, released    hash of the round's messages, and whether it came to a sum

A round's `committee` is "" where there is none, its `beacon` where the randomness follows from a later entry.
A vehicle's pseudonym is the same in the whole log, whatever its key, so that differences between rounds can
be audited. Whoever has the log's secret (the server, enrolled vehicles) knows who is who; others do not.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Entry = dict[str, Any]
MOST_LINE = 1 << 23
"""Longest line of a log in bytes: a round of 131,072 vehicles fits."""
PSEUDONYM = 16
VERSION = 1
_LABEL = b"carpool/pseudonym/1"
_HEX16, _HEX32, _WORD = (
    re.compile(p, re.ASCII) for p in ("[0-9a-f]{32}", "[0-9a-f]{64}", "[\x21-\x7e]{1,64}")
)


def _matches(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _number(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _pseudonyms(value: Any) -> bool:
    one = _matches(_HEX16)
    return isinstance(value, list) and all(map(one, value)) and value == sorted(set(value))


_ID, _HASH, _NAME = _matches(_HEX16), _matches(_HEX32), _matches(_WORD)


def _hash_or_none(value: Any) -> bool:
    return value == "" or _HASH(value)


KINDS: Mapping[str, Mapping[str, Callable[[Any], bool]]] = {
    "begin": {"run": _NAME, "version": lambda value: value == VERSION and _number(value), "secret": _HASH},
    "revoked": {"counter": _number, "hash": _HASH},
    "pool": {"epoch": _number, "nodes": _number, "hash": _HASH},
    "round": {
        "round": _ID,
        "protocol": _NAME,
        "announcement": _HASH,
        "n_min": _number,
        "committee": _hash_or_none,
        "beacon": _hash_or_none,
    },
    "task": {"round": _ID, "version": _number, "task": _HASH},
    "keys": {"round": _ID, "vehicles": _number, "hash": _HASH},
    "beacon": {"source": _NAME, "position": _number, "value": _HASH},
    "participation": {"round": _ID, "list": _HASH, "vehicles": _pseudonyms},
    "transcript": {"round": _ID, "transcript": _HASH, "released": lambda value: isinstance(value, bool)},
}
"""Kind of entry -> its fields and what their values must be; every entry has number, at and kind, too."""


def canonical(document: Mapping[str, Any]) -> bytes:
    """The one form of a JSON object: sorted keys, no spaces, ASCII.

    >>> canonical({"b": [1, True], "a": "ü"})
    b'{"a":"\\\\u00fc","b":[1,true]}'
    """
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def parse(line: bytes) -> Entry:
    """A JSON object in its one form; raises ValueError for anything else."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is no JSON") from error
    if not isinstance(found, dict) or canonical(found) != line:
        raise ValueError("it is no JSON object in the canonical form")
    return found


def entry(kind: str, fields: Mapping[str, Any], *, number: int, at: int) -> Entry:
    """An entry; at: Unix seconds. Raises ValueError for an unknown kind or field, or a bad value."""
    if kind not in KINDS:
        raise ValueError(f"a log has no entries of kind {kind!r}; it has {', '.join(KINDS)}")
    if fields.keys() != KINDS[kind].keys():
        raise ValueError(f"an entry of kind {kind} has {', '.join(KINDS[kind])}, not {', '.join(fields)}")
    for name, fits in KINDS[kind].items():
        if not fits(fields[name]):
            raise ValueError(f"the field {name} of kind {kind} cannot be {str(fields[name])[:80]!r}")
    if not _number(number) or not _number(at):
        raise ValueError(f"an entry has a number and a time of 0 or more, not {number} and {at}")
    return {"kind": kind, "number": number, "at": at, **fields}


def read_entry(line: bytes, number: int, since: int) -> Entry:
    """Entry `number` of a log, not before `since` (Unix seconds); raises ValueError."""
    found = parse(line)
    fields = {name: value for name, value in found.items() if name not in ("kind", "number", "at")}
    made = entry(str(found.get("kind")), fields, number=number, at=found.get("at", -1))
    if canonical(made) != line:
        raise ValueError(f"entry {found.get('number')} stands where {number} should be")
    if made["at"] < since:
        raise ValueError(f"its time {made['at']} is before that of the line above, {since}")
    if (number == 0) != (made["kind"] == "begin"):
        raise ValueError("an entry of kind begin is the first one, and no other")
    return made


def commitment(secret: bytes) -> str:
    """What the first entry says of the log's secret (32 random bytes)."""
    if len(secret) != 32:
        raise ValueError(f"the secret of a log's pseudonyms has 32 bytes, not {len(secret)}")
    return hashlib.sha256(_LABEL + secret).hexdigest()


def pseudonym(secret: bytes, vehicle: int) -> str:
    """A vehicle's name in a log: HMAC-SHA256 under the log's secret, 32 hexadecimal digits."""
    commitment(secret)
    return hmac.digest(secret, _LABEL + vehicle.to_bytes(8, "big"), hashlib.sha256)[:PSEUDONYM].hex()


def pseudonyms(secret: bytes, vehicles: Iterable[int]) -> list[str]:
    """The field `vehicles` of an entry of kind participation."""
    return sorted(pseudonym(secret, vehicle) for vehicle in vehicles)
