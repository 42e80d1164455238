"""The hand that writes a transparency log (transparency.py): one process at a time, synced."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from carpool.privacy import merkle
from carpool.privacy.errors import PrivacyRefused, RunError, UsageError, VehicleError
from carpool.privacy.identity import Role, Trust, decode, public_bytes
from carpool.privacy.logentries import VERSION, Entry, canonical, commitment, entry
from carpool.privacy.storage import refusals, sync_folder, write_bytes
from carpool.privacy.transparency import (
    Checkpoint,
    Frontier,
    grown,
    last_checkpoint,
    sign_checkpoint,
    verify,
)

Fields = Mapping[str, Any]


def beside(path: Path) -> Path:
    """Where the last checkpoint of a log stands once more."""
    return path.with_name(path.name + ".checkpoint")


@dataclass(frozen=True)
class Signer:
    """Who signs a log: an aggregator's certificate, its private key (not printed), and what it trusts.

    Raises ValueError for a certificate of another key or role.
    """

    certificate: bytes
    key: Ed25519PrivateKey = field(repr=False)
    trust: Trust

    def __post_init__(self) -> None:
        shown = decode(self.certificate)
        if shown.role is not Role.AGGREGATOR or shown.key != public_bytes(self.key):
            raise ValueError("a log is signed with the key of an aggregator's certificate")

    @property
    def history(self) -> Trust:
        """For older checkpoints: a key that was rotated since was good when it signed them."""
        return Trust(self.trust.ca)

    def sign(self, origin: bytes, tree: Frontier, at: int) -> Checkpoint:
        """A checkpoint; raises PrivacyRefused where the certificate does not hold (any more)."""
        try:
            self.trust.check(decode(self.certificate), Role.AGGREGATOR, at)
        except VehicleError as error:
            raise PrivacyRefused(
                f"the log cannot be signed: {error}; give the aggregator a new one"
            ) from error
        return sign_checkpoint(origin, tree, at, self.certificate, self.key)


def create(path: Path, run: str, secret: bytes, signer: Signer, now: float) -> Checkpoint:
    """Begin a log, whole or not at all. run: a word; secret: 32 random bytes for pseudonyms, not in the log.

    Raises UsageError where there is a log, PrivacyRefused, ValueError, RunError.
    """
    if path.exists() or beside(path).exists():
        raise UsageError(f"{path} or its checkpoint is there already; a log is never overwritten")
    begin = {"run": run, "version": VERSION, "secret": commitment(secret)}
    line = canonical(entry("begin", begin, number=0, at=int(now)))
    tree = Frontier()
    tree.push(merkle.leaf(line))
    signed = signer.sign(tree.root, tree, int(now))
    write_bytes(path, line + b"\n" + signed.encode() + b"\n")
    write_bytes(beside(path), signed.encode() + b"\n")
    return signed


class LogWriter:
    """An open log. checkpoint: the last; entries: all of them.

    On opening, the whole log is checked and an unfinished append removed. Raises PrivacyRefused where the log
    does not hold or lost its end, RunError where another process has it open or the machine refuses.
    """

    def __init__(self, path: Path, signer: Signer, now: Callable[[], float]) -> None:
        self._path, self._signer, self._now = path, signer, now
        with refusals(path, "open"):
            self._file = path.open("r+b", buffering=0)
        try:
            self._lock()
            found = verify(path, signer.history)
            if beside(path).is_file():
                grown(found, last_checkpoint(beside(path)))
        except BaseException:
            self._file.close()
            raise
        self.checkpoint, self.entries, self._end = found.checkpoint, found.entries, found.end
        self._leaves, self._tree = found.leaves, Frontier()
        for leaf in self._leaves:
            self._tree.push(leaf)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"another process writes {self._path}; wait for it or stop it") from error

    def append(self, entries: Sequence[tuple[str, Fields]]) -> Checkpoint:
        """Add entries (kind, fields) and a signed checkpoint; both are on disk when it returns.

        Raises ValueError for unknown entries, PrivacyRefused where the certificate ended, RunError; then
        nothing was added.
        """
        if not entries:
            raise ValueError("an append has at least one entry")
        at, size = max(int(self._now()), self.checkpoint.at), len(self._leaves)
        made: list[Entry] = [
            entry(kind, fields, number=size + i, at=at) for i, (kind, fields) in enumerate(entries)
        ]
        if any(one["kind"] == "begin" for one in made):
            raise ValueError("a log begins once")
        lines = [canonical(one) for one in made]
        leaves = [merkle.leaf(line) for line in lines]
        tree = self._tree.copy()
        for leaf in leaves:
            tree.push(leaf)
        signed = self._signer.sign(self.checkpoint.origin, tree, at)
        data = b"".join(line + b"\n" for line in (*lines, signed.encode()))
        self._write(data)
        self._leaves += leaves
        self.entries += made
        self._tree, self.checkpoint, self._end = tree, signed, self._end + len(data)
        write_bytes(beside(self._path), signed.encode() + b"\n")
        return signed

    def _write(self, data: bytes) -> None:
        """Behind the last checkpoint, in place of whatever an append that failed left there."""
        with refusals(self._path, "append to"):
            try:
                self._file.truncate(self._end)
                self._file.seek(self._end)
                view = memoryview(data)
                while view:
                    view = view[self._file.write(view) :]
                os.fsync(self._file.fileno())
            except OSError:
                with suppress(OSError):
                    self._file.truncate(self._end)
                raise
            sync_folder(self._path.parent)

    def renew(self, signer: Signer) -> None:
        """Sign with another certificate from now on, of the same CA."""
        self._signer = signer

    def state(self, size: int) -> Checkpoint:
        """What a checkpoint over the first `size` entries says, unsigned; ValueError if there are fewer."""
        if not 1 <= size <= len(self._leaves):
            raise ValueError(f"the log has {len(self._leaves)} entries; there is no state of {size}")
        root = merkle.root(self._leaves[:size])
        at = self.entries[size - 1]["at"]
        return Checkpoint(self.checkpoint.origin, size, root, at, certificate=b"", signature=b"")

    def inclusion(self, number: int) -> tuple[bytes, list[merkle.Hash]]:
        """An entry's line and the proof that it is in the log of the last checkpoint; raises ValueError."""
        proof = merkle.inclusion(self._leaves, number)
        return canonical(self.entries[number]), proof

    def consistency(self, old: int) -> list[merkle.Hash]:
        """The proof that the log continues the one of `old` entries; raises ValueError."""
        return merkle.consistency(self._leaves, old)

    def close(self) -> None:
        """Let others write it."""
        self._file.close()

    def __enter__(self) -> LogWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
