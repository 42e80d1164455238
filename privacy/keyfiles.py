"""Private keys, public keys and certificates on disk.

    *.key   private key    PKCS8 PEM, as OpenSSL writes it, not encrypted; mode 0600 from its first byte on
    *.pub   public key     SubjectPublicKeyInfo PEM
    *.cert  certificate    PEM block CARPOOL CERTIFICATE around the bytes of identity.py
    *.ask   request        PEM block CARPOOL REQUEST, see enrolment.py
    *.secret               32 bytes in hexadecimal digits and a line's end; mode 0600 like a private key

A private key is read only from a regular file (no link) that is this user's or root's and that nobody else
can read or write; an access list shows in the group's mode bits. It is never part of a message, a repr or a
command line. Whoever is root, or has the disk, has the key: use an encrypted disk. Not covered: keys in
hardware, Windows.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from carpool.privacy.errors import PrivacyRefused, UsageError, VehicleError
from carpool.privacy.identity import Certificate, decode
from carpool.privacy.storage import refusals, sync_folder, write_text

PRIVATE_MODE = 0o600
FOLDER_MODE = 0o700
MOST_BYTES = 1 << 16
"""Nothing that belongs into these files is longer, but a list of revoked serials."""
PrivateKey = Ed25519PrivateKey | X25519PrivateKey
SECRET = 32
_SECRET = re.compile(rb"[0-9a-f]{64}\n")


def private_folder(folder: Path) -> None:
    """Make a folder that only its owner can enter; one that is there stays as it is. Raises RunError."""
    with refusals(folder, "make"):
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)


def save_private(path: Path, key: PrivateKey, *, replace: bool = False) -> None:
    """Write a private key, whole or not at all, never readable by others, not even for a moment.

    replace: whether a file that is there may go. Raises UsageError where it may not, RunError.
    """
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write_guarded(path, pem, replace=replace)


def save_secret(path: Path, secret: bytes) -> None:
    """Write 32 secret bytes as `save_private` does; raises UsageError where there is a file, RunError."""
    if len(secret) != SECRET:
        raise ValueError(f"a secret has {SECRET} bytes, not {len(secret)}")
    _write_guarded(path, secret.hex().encode() + b"\n", replace=False)


def load_secret(path: Path) -> bytes:
    """The 32 secret bytes in a file; UsageError if there are none, PrivacyRefused if others can read it."""
    text = _read_guarded(path)
    if not _SECRET.fullmatch(text):
        raise UsageError(f"{path} holds no secret of {SECRET} bytes; restore it")
    return bytes.fromhex(text.decode("ascii"))


def _write_guarded(path: Path, data: bytes, *, replace: bool) -> None:
    with refusals(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                os.fchmod(file.fileno(), PRIVATE_MODE)  # whatever the umask, and before there is a secret
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                temporary.replace(path)
            else:
                path.hardlink_to(temporary)  # unlike a rename, it never replaces a file
        except FileExistsError:
            raise UsageError(f"{path} is there already; a secret is never overwritten") from None
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def load_signing(path: Path) -> Ed25519PrivateKey:
    """The Ed25519 key in a file; UsageError if there is none, PrivacyRefused if others can read it."""
    key = _load_private(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{path} holds no Ed25519 key; name the file of a key that signs")
    return key


def load_sealing(path: Path) -> X25519PrivateKey:
    """The X25519 key in a file; UsageError if there is none, PrivacyRefused if others can read it."""
    key = _load_private(path)
    if not isinstance(key, X25519PrivateKey):
        raise UsageError(f"{path} holds no X25519 key; name the file of a key that opens sealed updates")
    return key


def _load_private(path: Path) -> object:
    pem = _read_guarded(path)
    try:
        return serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, NotImplementedError):  # the library's words may quote what it read
        raise UsageError(f"{path} is no unencrypted private key in PKCS8 PEM; restore it or rotate") from None


def _read_guarded(path: Path) -> bytes:
    """The bytes of a file that is nobody else's; what is checked is the open file, not its name."""
    if path.is_symlink():
        raise PrivacyRefused(f"{path} is a symbolic link; put the private key itself there")
    if not path.exists():
        raise UsageError(f"there is no private key {path}; `carpool keys` makes them")
    with refusals(path, "read"):
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe must not hang us
        descriptor = os.open(path, flags)
        with os.fdopen(descriptor, "rb") as file:
            fault = unguarded(os.fstat(descriptor))
            if fault:
                raise PrivacyRefused(f"the private key {path} {fault}")
            return file.read(MOST_BYTES)


def unguarded(found: os.stat_result) -> str:
    """What is wrong with the file of a private key, and the fix; empty if nothing is."""
    if not stat.S_ISREG(found.st_mode):
        return "is no regular file; put the key itself there"
    if found.st_uid not in (os.geteuid(), 0):
        return f"belongs to user {found.st_uid}, who can read it; give it to this user and rotate it"
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        return f"has mode {mode:04o}, so others can use it: rotate it, or chmod 600 if nobody did"
    return ""


def save_public(path: Path, key: bytes) -> None:
    """Write an Ed25519 public key (32 bytes), whole or not at all; raises RunError."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public = Ed25519PublicKey.from_public_bytes(key)
    write_text(path, public.public_bytes(serialization.Encoding.PEM, form).decode("ascii"))


def load_public(path: Path) -> bytes:
    """The Ed25519 public key in a file, 32 bytes; raises UsageError."""
    try:
        key = serialization.load_pem_public_key(read_small(path))
    except (ValueError, TypeError, NotImplementedError):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(f"{path} is no Ed25519 public key in PEM; name e.g. a fleet's ca.pub")
    return key.public_bytes_raw()


def save_certificate(path: Path, certificate: Certificate) -> None:
    """Write a certificate, whole or not at all; raises RunError."""
    write_text(path, armour("CERTIFICATE", certificate.encode()))


def load_certificate(path: Path) -> Certificate:
    """The certificate in a file, unverified; raises UsageError."""
    try:
        return decode(unarmour("CERTIFICATE", read_small(path)))
    except (ValueError, VehicleError) as error:
        raise UsageError(f"{path} is no certificate of Carpool: {error}") from error


def armour(kind: str, data: bytes) -> str:
    """Bytes as a PEM block (RFC 7468) of ours, such as CARPOOL CERTIFICATE."""
    text = base64.b64encode(data).decode("ascii")
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join((f"-----BEGIN CARPOOL {kind}-----", *lines, f"-----END CARPOOL {kind}-----", ""))


def unarmour(kind: str, data: bytes) -> bytes:
    """The bytes of exactly one block as `armour` writes it; raises ValueError for anything else."""
    lines = data.split(b"\n")
    try:
        found = base64.b64decode(b"".join(lines[1:-2]), validate=True)
    except binascii.Error:
        found = b""
    if not found or armour(kind, found).encode() != data:
        raise ValueError(f"it is not one PEM block CARPOOL {kind}")
    return found


def read_small(path: Path, most: int = MOST_BYTES) -> bytes:
    """The bytes of a file that is not secret; UsageError if it is not there or longer than `most`."""
    if not path.is_file():
        raise UsageError(f"there is no file {path}; name one that is there")
    with refusals(path, "read"), path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise UsageError(f"{path} has more than {most} bytes; it cannot be what it should be")
    return data
