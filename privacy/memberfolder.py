"""A member's own folder, as a vehicle has it: its key and certificate, whom it believes, what was revoked.

vehicle-7/
    identity.key, identity.cert     the member's, made by `carpool keys`
    ca.pub, revoked.list            copies of the fleet's; or in the folder above, as in a fleet's folder
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from carpool.privacy import keyfiles
from carpool.privacy.errors import PrivacyRefused, UsageError, VehicleError
from carpool.privacy.fleetfolder import CA_PUBLIC, CERTIFICATE, KEY, REVOKED, load_revoked
from carpool.privacy.identity import Role, Trust, public_bytes


@dataclass(frozen=True, repr=False)
class MemberKeys:
    """Who a member is and whom it believes. Secret: key (Ed25519); not printed.

    number: of the member; certificate: its bytes; folder: where these came from and a journal may lie.
    """

    number: int
    key: Ed25519PrivateKey
    certificate: bytes
    trust: Trust
    folder: Path

    def __repr__(self) -> str:
        return f"MemberKeys({self.number}, {str(self.folder)!r})"


def open_member(
    folder: Path, role: Role, now: float, *, ca: Path | str | None = None, revoked: Path | str | None = None
) -> MemberKeys:
    """The keys in a member's folder, if its certificate is of this CA and role and holds now (Unix seconds).

    ca, revoked: where these files are, if neither in the folder nor in the one above. Raises UsageError for
    what is missing or is another member's, PrivacyRefused for a key that others can read, or was revoked.
    """
    key = keyfiles.load_signing(folder / KEY)
    certificate = keyfiles.load_certificate(folder / CERTIFICATE)
    if certificate.key != public_bytes(key):
        raise UsageError(f"{folder / CERTIFICATE} is not the certificate of {KEY} beside it; restore both")
    public = keyfiles.load_public(Path(ca or _near(folder, CA_PUBLIC)))
    trust = Trust(public, load_revoked(Path(revoked or _near(folder, REVOKED)), public).serials)
    try:
        trust.check(certificate, role, now)
    except VehicleError as error:
        raise PrivacyRefused(f"{folder} cannot be used: {error}; `carpool keys rotate` renews it") from error
    return MemberKeys(certificate.member, key, certificate.encode(), trust, folder)


def _near(folder: Path, name: str) -> Path:
    """The file in the folder, else in the one above."""
    own = folder / name
    found = own if own.is_file() else folder.parent / name
    if not found.is_file():
        raise UsageError(f"there is no {name} in {folder} or above; copy it there from the fleet's folder")
    return found
