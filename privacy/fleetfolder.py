"""A fleet's folder: the CA, what it issued, what it took back, and the keys of members that are made here.

    fleet/                      mode 0700
        ca.key, ca.pub          the CA's key pair; ca.pub is what everybody has to know
        revoked.list            signed, with a counter (revocation.py); everybody may have it
        issued.jsonl            a line a certificate, a line a revocation: appended, never changed
        vehicle-7/              identity.key (unless the member keeps it elsewhere), identity.cert
        aggregator-0/           also sealing.key (X25519) and sealing.signed (sealing_key.py)

A certificate is in issued.jsonl before it is in a file, so that whatever exists can be revoked; a serial is
in revoked.list before issued.jsonl says so. A command that is killed half-way can be given again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from carpool.privacy import keyfiles, revocation, sealing_key
from carpool.privacy.enrolment import Request
from carpool.privacy.errors import PrivacyRefused, RunError, UsageError, VehicleError
from carpool.privacy.identity import MOST_DAYS, Certificate, Role, Trust, issue, public_bytes
from carpool.privacy.storage import append_line, refusals, write_text

CA_KEY, CA_PUBLIC, REVOKED, ISSUED = "ca.key", "ca.pub", "revoked.list", "issued.jsonl"
KEY, CERTIFICATE = "identity.key", "identity.cert"
SEALING, SIGNED = "sealing.key", "sealing.signed"
SKEW = 300
"""Seconds by which a certificate begins earlier: the clocks of members differ."""
ROTATED = "rotated"
"""Why a certificate is revoked whose member goes on with another one."""


@dataclass(frozen=True)
class Issued:
    """What the CA wrote down of a certificate. serial, key: hexadecimal; begins, ends: Unix seconds."""

    role: Role
    member: int
    serial: str
    key: str
    begins: int
    ends: int

    @property
    def name(self) -> str:
        """Such as vehicle-7: also the name of the member's folder."""
        return name_of(self.role, self.member)


def name_of(role: Role, member: int) -> str:
    """Such as vehicle-7."""
    return f"{role.name.lower()}-{member}"


class FleetFolder:
    """An open fleet. issued: certificates by serial, oldest first; gone: serial to why it was revoked."""

    def __init__(self, folder: Path) -> None:
        if not (folder / CA_PUBLIC).is_file():
            raise UsageError(f"{folder} is no fleet's folder; make one with `carpool keys init {folder}`")
        self.folder = folder
        self.ca = keyfiles.load_public(folder / CA_PUBLIC)
        self.revoked = load_revoked(folder / REVOKED, self.ca)
        self.issued: dict[str, Issued] = {}
        self.gone: dict[str, str] = {}
        self._owners: dict[str, str] = {}
        self._signer: Ed25519PrivateKey | None = None
        for number, line in enumerate(_whole_lines(folder / ISSUED), 1):
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise RunError(f"{folder / ISSUED} is damaged in line {number}: {error}") from error
        listed = {serial.hex() for serial in self.revoked.serials}
        for serial in self.gone.keys() - listed:
            if self.issued[serial].ends + revocation.KEPT > self.revoked.issued:  # it has not ended by itself
                raise PrivacyRefused(
                    f"{folder / REVOKED} lacks the serial {serial} that was revoked; it is an old copy: "
                    "restore the newest one"
                )
        for serial in listed:
            self.gone.setdefault(serial, "")

    def _take(self, line: dict[str, Any]) -> None:
        if line["event"] == "issued":
            fields = (str(line["serial"]), str(line["key"]), int(line["begins"]), int(line["ends"]))
            one = Issued(Role[line["role"].upper()], int(line["member"]), *fields)
            self.issued[one.serial] = one
            self._owners[one.key] = one.name
        elif line["event"] == "revoked" and line["serial"] in self.issued:
            self.gone[line["serial"]] = str(line["why"])
        else:
            raise ValueError(f"event {line['event']!r} of serial {line['serial']!r} is unknown")

    @property
    def trust(self) -> Trust:
        """What members believe."""
        return Trust(self.ca, self.revoked.serials)

    def present(self) -> list[Issued]:
        """The newest certificate of every member, by role and number."""
        newest = {(one.role, one.member): one for one in self.issued.values()}
        return [newest[key] for key in sorted(newest)]

    def state(self, one: Issued, now: float) -> str:
        """`valid`, `expired`, or `revoked` with the reason."""
        if one.serial in self.gone:
            return f"revoked: {self.gone[one.serial]}" if self.gone[one.serial] else "revoked"
        return "valid" if one.begins <= now < one.ends else "expired"

    def signer(self) -> Ed25519PrivateKey:
        """The CA's private key; raises UsageError, PrivacyRefused."""
        if self._signer is not None:
            return self._signer
        key = keyfiles.load_signing(self.folder / CA_KEY)
        if public_bytes(key) != self.ca:
            raise PrivacyRefused(
                f"{self.folder / CA_KEY} is not the key of {CA_PUBLIC}; restore the right one"
            )
        self._signer = key
        return key

    def ready(self, days: float) -> None:
        """Raise UsageError, PrivacyRefused where no certificate of so many days can be issued."""
        self.signer()
        if not 0 < days <= MOST_DAYS:
            raise UsageError(
                f"a certificate of {days:g} days is refused; give it more than 0, at most {MOST_DAYS}"
            )

    def key_of(self, role: Role, member: int) -> Path:
        """Where a member's private key is, if it was made here."""
        return self.folder / name_of(role, member) / KEY

    def certify(self, role: Role, member: int, key: bytes, *, now: int, days: float) -> Certificate:
        """Issue a certificate: written down first, then into the member's folder. Raises UsageError.

        An aggregator whose private key is here gets a key to seal to as well, a new one with a new identity.
        """
        name = name_of(role, member)
        if self._owners.get(key.hex(), name) != name:
            raise UsageError(f"this key is that of {self._owners[key.hex()]}; every member needs its own")
        try:
            certificate = issue(self.signer(), role, member, key, begins=max(0, now - SKEW), days=days)
        except ValueError as error:
            raise UsageError(str(error)) from error
        line = {
            "event": "issued",
            "role": role.name.lower(),
            "member": member,
            "serial": certificate.serial.hex(),
            "key": key.hex(),
            "begins": certificate.begins,
            "ends": certificate.ends,
        }
        self._write(line)
        keyfiles.private_folder(self.folder / name)
        keyfiles.save_certificate(self.folder / name / CERTIFICATE, certificate)
        if role is Role.AGGREGATOR:
            announce(self.folder / name, certificate)
        return certificate

    def revoke(self, serials: Sequence[str], why: str, now: int) -> list[str]:
        """Take certificates back, in one new list; what was revoked before or has ended is left out."""
        rows = [s for s in serials if s not in self.gone and self.issued[s].ends > now]
        if rows:
            ends = {bytes.fromhex(serial): self.issued[serial].ends for serial in rows}
            self.revoked = revocation.add(self.revoked, self.signer(), ends, now)
            save_revoked(self.folder / REVOKED, self.revoked)
        for serial in rows:
            self._write({"event": "revoked", "serial": serial, "why": why, "at": now})
        return rows

    def _write(self, line: dict[str, Any]) -> None:
        append_line(self.folder / ISSUED, json.dumps(line))
        self._take(line)


def create(folder: Path, now: int) -> FleetFolder:
    """A new fleet with a new CA key; raises UsageError where there is one, RunError."""
    if (folder / CA_KEY).exists() or (folder / CA_PUBLIC).exists():
        raise UsageError(
            f"{folder} has a fleet already; name another folder, a CA's key is never overwritten"
        )
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty; name a new folder")
    keyfiles.private_folder(folder)
    ca = Ed25519PrivateKey.generate()
    keyfiles.save_private(folder / CA_KEY, ca)
    save_revoked(folder / REVOKED, revocation.first(ca, now))
    keyfiles.save_public(folder / CA_PUBLIC, public_bytes(ca))  # last: a folder that has it is complete
    return FleetFolder(folder)


def announce(folder: Path, certificate: Certificate) -> None:
    """Have an aggregator sign its sealing key under this certificate; nothing where its own key is elsewhere.

    The key stays while the identity does; with another identity it is replaced, in the next epoch. Raises
    UsageError, PrivacyRefused for damaged or unguarded files, RunError.
    """
    if not (folder / KEY).exists():
        return
    key, path = keyfiles.load_signing(folder / KEY), folder / SEALING
    if public_bytes(key) != certificate.key:  # of a member that went elsewhere with a new one
        return
    known = load_sealing_key(folder / SIGNED) if (folder / SIGNED).is_file() else None
    old = keyfiles.load_sealing(path) if path.exists() else None
    epoch = known.epoch if known else 1
    theirs = (certificate.key, old.public_key().public_bytes_raw()) if old else ()
    if known and theirs != (known.certificate.key, known.public):
        old, epoch = None, epoch + 1
    if old is None:
        old = X25519PrivateKey.generate()
        keyfiles.save_private(path, old, replace=True)
    signed = sealing_key.announce_key(key, certificate, old.public_key(), epoch)
    write_text(folder / SIGNED, keyfiles.armour("SEALING KEY", signed.encode()))


def load_sealing_key(path: Path) -> sealing_key.SealingKey:
    """The aggregator's announcement in a file, unverified; raises UsageError."""
    try:
        return sealing_key.decode(keyfiles.unarmour("SEALING KEY", keyfiles.read_small(path)))
    except (ValueError, VehicleError) as error:
        raise UsageError(f"{path} is no signed sealing key of Carpool: {error}") from error


@contextmanager
def opened(folder: Path) -> Iterator[FleetFolder]:
    """A fleet that nobody else changes meanwhile; a torn last line of issued.jsonl is removed first."""
    if not (folder / CA_PUBLIC).is_file():
        raise UsageError(f"{folder} is no fleet's folder; make one with `carpool keys init {folder}`")
    with refusals(folder, "lock"):
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        path = folder / ISSUED
        if path.is_file():
            with refusals(path), path.open("r+b") as file:
                whole = file.read().rfind(b"\n") + 1
                file.truncate(whole)
        yield FleetFolder(folder)
    finally:
        os.close(handle)


def _whole_lines(path: Path) -> list[bytes]:
    if not path.is_file():
        return []
    with refusals(path, "read"):
        return path.read_bytes().split(b"\n")[:-1]


def save_revoked(path: Path, revoked: revocation.Revoked) -> None:
    """Write a list of revoked certificates, whole or not at all; raises RunError."""
    write_text(path, keyfiles.armour("REVOKED", revoked.encode()))


def load_revoked(path: Path, ca: bytes) -> revocation.Revoked:
    """The list in a file, signed by the CA (32 bytes); raises UsageError, PrivacyRefused."""
    data = keyfiles.read_small(path, most=1 << 26)
    try:
        found = revocation.decode(keyfiles.unarmour("REVOKED", data))
        found.check(ca)
    except (ValueError, VehicleError) as error:
        raise PrivacyRefused(f"{path} is no list of this fleet's CA: {error}; restore it") from error
    return found


def matches(request: Request, role: Role, member: int) -> bytes:
    """The key of a request that is for this member; raises UsageError for another one's."""
    if (request.role, request.member) != (role, member):
        raise UsageError(
            f"the request is of {name_of(request.role, request.member)}, not of {name_of(role, member)}"
        )
    return request.key
