"""Members of a fleet as the command line names and shows them: vehicle:0-99, a row each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from carpool.privacy.errors import UsageError

if TYPE_CHECKING:
    from carpool.privacy.fleetfolder import FleetFolder, Issued
    from carpool.privacy.identity import Role

    Member: TypeAlias = tuple[Role, int]
MOST_MEMBERS = 10_000
"""Most members that one command takes."""
REVOKED = "revoked.list"


def document(found: FleetFolder, one: Issued) -> dict[str, Any]:
    """A member's row of the JSON document."""
    return {
        "name": one.name,
        "role": one.role.name.lower(),
        "member": one.member,
        "serial": one.serial,
        "key": one.key,
        "begins": one.begins,
        "ends": one.ends,
        "state": found.state(one, time.time()),
        "private_key": "here" if found.key_of(one.role, one.member).exists() else "elsewhere",
    }


def day(seconds: int) -> str:
    """Unix seconds as a date and time in UTC.

    >>> day(0)
    '1970-01-01 00:00 UTC'
    """
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def parse(words: Sequence[str]) -> list[Member]:
    """Members of words such as vehicle:0-99,120; sorted, each once. Raises UsageError.

    >>> [(role.name, member) for role, member in parse(["vehicle:2,0-1", "aggregator:0"])]
    [('VEHICLE', 0), ('VEHICLE', 1), ('VEHICLE', 2), ('AGGREGATOR', 0)]
    """
    from carpool.privacy.identity import Role

    found: set[Member] = set()
    for word in words:
        name, _, numbers = word.partition(":")
        if name.upper() not in Role.__members__:
            roles = ", ".join(role.name.lower() for role in Role)
            raise UsageError(
                f"{word!r} names no role; write ROLE:NUMBERS, such as vehicle:0-99, with {roles}"
            )
        for part in numbers.split(","):
            low, dash, high = part.partition("-")
            if not (
                low.isdecimal() and low.isascii() and (not dash or (high.isdecimal() and high.isascii()))
            ):
                raise UsageError(f"{word!r} has no numbers; write e.g. {name}:7 or {name}:0-99,120")
            first, last = int(low[:20]), int((high or low)[:20])
            if last < first or last >= 1 << 63 or len(found) + last - first >= MOST_MEMBERS:
                raise UsageError(f"{word!r} is empty, too large, or more than {MOST_MEMBERS} members at once")
            found |= {(Role[name.upper()], number) for number in range(first, last + 1)}
    return sorted(found)


def name(role: Role, member: int) -> str:
    """Such as vehicle-7."""
    from carpool.privacy.fleetfolder import name_of

    return name_of(role, member)


def asked_key(path: Path, role: Role, member: int) -> bytes:
    """The public key in the file of a request of this very member, 32 bytes; raises UsageError."""
    from carpool.privacy import keyfiles
    from carpool.privacy.enrolment import decode_request
    from carpool.privacy.errors import VehicleError
    from carpool.privacy.fleetfolder import matches

    try:
        request = decode_request(keyfiles.unarmour("REQUEST", keyfiles.read_small(path)))
    except (ValueError, VehicleError) as error:
        raise UsageError(f"{path} is no request for a certificate: {error}") from error
    return matches(request, role, member)


def faults(found: FleetFolder) -> list[str]:
    """Private keys in the folder that others can read, a sentence each."""
    from carpool.privacy.fleetfolder import CA_KEY, SEALING
    from carpool.privacy.keyfiles import unguarded

    keys = [found.key_of(one.role, one.member) for one in found.present()]
    paths = [found.folder / CA_KEY, *keys, *(path.with_name(SEALING) for path in keys)]
    seen = [(path, unguarded(path.lstat())) for path in paths if path.exists() or path.is_symlink()]
    return [f"{path} {fault}" for path, fault in seen if fault]
