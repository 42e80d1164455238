"""The file of a privacy ledger: checked as a whole, begun, locked, appended to, and its head beside it."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal

from carpool.privacy.dp.ledgerlines import FIRST, MOST_LINE, VERSION, Header, Line, facts, line, read_line
from carpool.privacy.dp.ledgerstate import State
from carpool.privacy.errors import PrivacyRefused, RunError, UsageError
from carpool.privacy.logentries import canonical, parse
from carpool.privacy.storage import refusals, sync_folder, write_bytes

LEDGER = "ledger.jsonl"
MENDED = "put a copy that holds in its place; nothing is released on the word of a damaged ledger"


def beside(path: Path) -> Path:
    """Where the head of a ledger stands."""
    return path.with_name(path.name + ".head")


@dataclass(frozen=True)
class Found:
    """A ledger that holds. lines: how many; end: bytes of them; torn: bytes behind them that do not count.

    head: whether the file beside it says the same, is an append behind, or is not there.
    """

    state: State
    lines: int
    end: int
    torn: int
    last: Line
    head: Literal["same", "behind", "missing"]


def read(path: Path) -> Found:
    """Check a ledger as a whole, without its lock; raises RunError (no such), PrivacyRefused (damaged)."""
    with refusals(path, "read"):
        if not path.is_file():
            raise RunError(f"there is no ledger {path}; name a run's folder, a fleet's folder or the file")
        with path.open("rb") as file:
            found = _replay(file, path)
    if found is None:
        raise RunError(f"the ledger {path} is empty; it was never begun, so nothing was charged in it")
    return found


def _replay(file: BinaryIO, path: Path) -> Found | None:
    """All lines of an open file; None where not even the first one was finished."""
    head = _head(path)
    state: State | None = None
    last: Line = {"number": -1, "at": 0, "hash": FIRST}
    end = torn = 0
    behind = head is not None
    while data := file.readline(MOST_LINE + 2):
        number = last["number"] + 1
        if not data.endswith(b"\n") and len(data) <= MOST_LINE:
            torn = len(data)
            break
        try:
            if len(data) > MOST_LINE + 1:
                raise ValueError(f"it is longer than {MOST_LINE} bytes")
            last = read_line(data[:-1], number=number, since=last["at"], before=last["hash"])
            if state is None:
                state = State(last)
            else:
                state.apply(last)
            if head is not None and head[0] == number:
                if head[1] != last["hash"]:
                    raise ValueError(f"{beside(path)} has another hash for it")
                behind = False
        except (ValueError, KeyError) as error:
            raise PrivacyRefused(f"line {number + 1} of {path} does not hold: {error}; {MENDED}") from error
        end += len(data)
    if behind and head is not None:
        raise PrivacyRefused(
            f"line {last['number'] + 2} of {path} is missing: it lost its end, {beside(path)} names line "
            f"{head[0] + 1} as the last; {MENDED}"
        )
    if state is None:
        return None
    same = None if head is None else head[0] == last["number"]
    word: Literal["same", "behind", "missing"] = "missing" if same is None else "same" if same else "behind"
    return Found(state, last["number"] + 1, end, torn, last, word)


def _head(path: Path) -> tuple[int, str] | None:
    """The last line's number and hash, as noted beside the ledger; raises PrivacyRefused."""
    place = beside(path)
    with refusals(place, "read"):
        if not place.exists():
            return None
        with place.open("rb") as file:
            data = file.read(256)
    try:
        document = parse(data.removesuffix(b"\n"))
        number, digest = document["number"], document["hash"]
        if document.keys() != {"number", "hash"} or type(number) is not int or not isinstance(digest, str):
            raise ValueError("it has a number and a hash")
    except (ValueError, KeyError) as error:
        raise PrivacyRefused(f"{place} does not hold: {error}; {MENDED}") from error
    return number, digest


def begun(path: Path, file: BinaryIO, header: Header | None, now: Callable[[], float]) -> Found:
    """Lock and check an open file, cut what was torn, write the first line of a new one."""
    with refusals(path, "lock"):
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise RunError(f"{path} is no regular file; name another place for the ledger")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"another process writes {path}; wait for it or end it") from error
    with refusals(path, "read"):
        found = _replay(file, path)
    if found is None:
        if header is None:
            raise RunError(f"the ledger {path} was never begun; begin it with a run that has [privacy.dp]")
        own = {**facts(header), "version": VERSION}
        try:
            first = line("ledger", own, number=0, at=int(now()), before=FIRST)
        except ValueError as error:
            raise UsageError(f"{path} cannot be begun: {error}; use another value") from error
        data = canonical(first) + b"\n"
        write_at(file, path, 0, data)
        with refusals(path):
            sync_folder(path.parent)
        note_head(path, first)
        return Found(State(first), 1, len(data), 0, first, "same")
    if found.head == "missing" and found.lines > 1:
        raise PrivacyRefused(f"{beside(path)} is gone, so that a lost end would not be seen; {MENDED}")
    kept = found.state.header
    if header is not None and replace(header, private=kept.private) != kept:
        raise UsageError(f"{path} counts for {_words(kept)}, not for {_words(header)}; name another ledger")
    if found.torn:
        with refusals(path, "mend"):
            file.truncate(found.end)
            os.fsync(file.fileno())
    if found.head != "same":
        note_head(path, found.last)
    return found


def _words(header: Header) -> str:
    return f"{header.scope} {header.name}, {header.unit}, {header.relation}, delta {header.delta:g}"


def note_head(path: Path, last: Line) -> None:
    """Write down beside the ledger which line is its last; raises RunError."""
    write_bytes(beside(path), canonical({"number": last["number"], "hash": last["hash"]}) + b"\n")


def write_at(file: BinaryIO, path: Path, end: int, data: bytes) -> None:
    """Behind the last line, in place of whatever an append that failed left there; synced."""
    with refusals(path, "append to"):
        try:
            file.truncate(end)
            file.seek(end)
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                file.truncate(end)
            raise
