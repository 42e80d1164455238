"""A member's folder gives keys only where all of it fits together."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from carpool.privacy import keyfiles
from carpool.privacy.errors import PrivacyRefused, UsageError
from carpool.privacy.fleetfolder import FleetFolder, create
from carpool.privacy.identity import Role, public_bytes
from carpool.privacy.memberfolder import open_member

NOW = int(time.time())


def enrolled(folder: Path, number: int = 7) -> tuple[FleetFolder, Path]:
    fleet = create(folder, NOW)
    own = folder / f"vehicle-{number}"
    keyfiles.private_folder(own)
    key = Ed25519PrivateKey.generate()
    keyfiles.save_private(own / "identity.key", key)
    fleet.certify(Role.VEHICLE, number, public_bytes(key), now=NOW, days=7)
    return fleet, own


def test_a_folder_in_the_fleets_and_one_of_its_own_give_the_same(tmp_path: Path) -> None:
    fleet, own = enrolled(tmp_path / "fleet")
    found = open_member(own, Role.VEHICLE, NOW)
    assert (found.number, found.trust.ca, found.folder) == (7, fleet.ca, own)
    assert "key" not in repr(found).replace(str(own), "")
    apart = tmp_path / "etc" / "carpool"
    shutil.copytree(own, apart)
    with pytest.raises(UsageError, match=r"there is no ca.pub in .*carpool or above"):
        open_member(apart, Role.VEHICLE, NOW)
    shutil.copy(tmp_path / "fleet" / "ca.pub", apart)
    with pytest.raises(UsageError, match=r"there is no revoked.list"):
        open_member(apart, Role.VEHICLE, NOW)
    named = open_member(apart, Role.VEHICLE, NOW, revoked=tmp_path / "fleet" / "revoked.list")
    assert named.certificate == found.certificate


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    fleet, own = enrolled(tmp_path / "fleet")
    with pytest.raises(PrivacyRefused, match="for vehicle, not for aggregator"):
        open_member(own, Role.AGGREGATOR, NOW)
    with pytest.raises(PrivacyRefused, match="now is"):
        open_member(own, Role.VEHICLE, NOW + 8 * 86400)
    other, _ = enrolled(tmp_path / "other")
    with pytest.raises(PrivacyRefused, match="is no list of this fleet's CA"):
        open_member(own, Role.VEHICLE, NOW, ca=other.folder / "ca.pub")
    with pytest.raises(PrivacyRefused, match="signature"):
        open_member(own, Role.VEHICLE, NOW, ca=other.folder / "ca.pub", revoked=other.folder / "revoked.list")
    fleet.revoke(list(fleet.issued), "stolen", NOW)
    with pytest.raises(PrivacyRefused, match="was revoked"):
        open_member(own, Role.VEHICLE, NOW)
    shutil.copy(other.folder / "vehicle-7" / "identity.cert", own / "identity.cert")
    with pytest.raises(UsageError, match="is not the certificate of identity.key beside it"):
        open_member(own, Role.VEHICLE, NOW)
    (own / "identity.key").chmod(0o644)
    with pytest.raises(PrivacyRefused, match="mode 0644"):
        open_member(own, Role.VEHICLE, NOW)
