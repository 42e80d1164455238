"""A fleet's folder: every certificate can be revoked, no list is forgotten, a kill does no harm."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from carpool.privacy import fleetfolder, keyfiles
from carpool.privacy.enrolment import ask
from carpool.privacy.errors import PrivacyRefused, RunError, UsageError, VehicleError
from carpool.privacy.identity import Role, public_bytes

NOW = 1_800_000_000
KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in range(4)]


@pytest.fixture
def fleet(tmp_path):
    fleetfolder.create(tmp_path / "fleet", NOW)
    with fleetfolder.opened(tmp_path / "fleet") as found:
        yield found


def enrol(fleet, member, key=0, days=10.0):
    return fleet.certify(Role.VEHICLE, member, public_bytes(KEYS[key]), now=NOW, days=days)


def again(fleet):
    return fleetfolder.FleetFolder(fleet.folder)


def test_a_fleet_is_made_once(tmp_path):
    made = fleetfolder.create(tmp_path / "fleet", NOW)
    assert made.revoked.counter == 1
    assert (tmp_path / "fleet").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "fleet" / "ca.key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match="a fleet already"):
        fleetfolder.create(tmp_path / "fleet", NOW)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").touch()
    with pytest.raises(UsageError, match="not empty"):
        fleetfolder.create(tmp_path / "other", NOW)
    with pytest.raises(UsageError, match="no fleet's folder"):
        fleetfolder.FleetFolder(tmp_path / "other")


def test_what_is_issued_holds_is_written_down_and_begins_a_little_earlier(fleet):
    certificate = enrol(fleet, 7)
    assert fleet.trust.check(certificate, Role.VEHICLE, NOW - fleetfolder.SKEW) == public_bytes(KEYS[0])
    assert keyfiles.load_certificate(fleet.folder / "vehicle-7" / "identity.cert") == certificate
    found = again(fleet)
    assert [one.serial for one in found.present()] == [certificate.serial.hex()]
    assert found.state(found.present()[0], NOW) == "valid"
    assert found.state(found.present()[0], NOW + 10 * 86400) == "expired"


def test_revoking_makes_a_new_list_and_is_done_once(fleet):
    one, two = enrol(fleet, 1, key=0), enrol(fleet, 2, key=1)
    assert fleet.revoke([one.serial.hex()], "stolen", NOW) == [one.serial.hex()]
    assert fleet.revoke([one.serial.hex()], "stolen", NOW) == []
    for found in (fleet, again(fleet)):
        assert found.revoked.counter == 2
        with pytest.raises(VehicleError, match="was revoked"):
            found.trust.check(one, Role.VEHICLE, NOW)
        assert found.trust.check(two, Role.VEHICLE, NOW)
        assert [found.state(x, NOW) for x in found.present()] == ["revoked: stolen", "valid"]


def test_an_old_copy_of_the_list_is_noticed(fleet):
    old = (fleet.folder / "revoked.list").read_bytes()
    fleet.revoke([enrol(fleet, 1).serial.hex()], "stolen", NOW)
    (fleet.folder / "revoked.list").write_bytes(old)
    with pytest.raises(PrivacyRefused, match="an old copy"):
        again(fleet)


def test_a_kill_between_the_list_and_the_record_loses_nothing(fleet, monkeypatch):
    serial = enrol(fleet, 1).serial.hex()
    monkeypatch.setattr(fleet, "_write", lambda line: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fleet.revoke([serial], "stolen", NOW)
    found = again(fleet)
    assert found.state(found.present()[0], NOW) == "revoked"


def test_a_kill_between_the_record_and_the_certificate_can_be_revoked(fleet, monkeypatch):
    monkeypatch.setattr(keyfiles, "save_certificate", lambda path, one: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        enrol(fleet, 1)
    found = again(fleet)
    assert len(found.present()) == 1
    assert len(found.revoke([found.present()[0].serial], "lost", NOW)) == 1


def test_a_torn_line_of_the_record_is_removed_by_the_next_change(tmp_path):
    folder, path = tmp_path / "fleet", tmp_path / "fleet" / "issued.jsonl"
    fleetfolder.create(folder, NOW)
    with fleetfolder.opened(folder) as found:
        enrol(found, 1)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"event": "issu')
    assert len(fleetfolder.FleetFolder(folder).present()) == 1
    assert path.read_bytes() != whole  # looking changes nothing
    with fleetfolder.opened(folder) as found:
        assert path.read_bytes() == whole
        enrol(found, 2, key=1)
    assert len(fleetfolder.FleetFolder(folder).present()) == 2


@pytest.mark.parametrize("line", ["{}", "[1]", "x", '{"event": "revoked", "serial": "00", "why": "x"}'])
def test_any_other_damage_of_the_record_is_refused(fleet, line):
    enrol(fleet, 1)
    path = fleet.folder / "issued.jsonl"
    path.write_text(line + "\n" + path.read_text())
    with pytest.raises(RunError, match="damaged in line 1"):
        again(fleet)


def test_one_key_is_one_member(fleet):
    enrol(fleet, 1)
    enrol(fleet, 1)  # again, for the same member: a renewal
    with pytest.raises(UsageError, match="this key is that of vehicle-1"):
        enrol(fleet, 2)
    with pytest.raises(UsageError, match="this key is that of vehicle-1"):
        again(fleet).certify(Role.COMMITTEE, 1, public_bytes(KEYS[0]), now=NOW, days=1)


def test_a_lifetime_out_of_range_is_refused_and_nothing_written(fleet):
    for days in (0, 401):
        with pytest.raises(UsageError, match="days is refused"):
            enrol(fleet, 1, days=days)
    assert again(fleet).present() == []


def test_another_ca_key_is_refused(fleet):
    keyfiles.save_private(fleet.folder / "ca.key", KEYS[3], replace=True)
    with pytest.raises(PrivacyRefused, match="is not the key of ca.pub"):
        enrol(again(fleet), 1)


def test_a_list_of_another_ca_is_refused(fleet, tmp_path):
    fleetfolder.create(tmp_path / "other", NOW)
    (fleet.folder / "revoked.list").write_bytes((tmp_path / "other" / "revoked.list").read_bytes())
    with pytest.raises(PrivacyRefused, match="no list of this fleet's CA"):
        again(fleet)


def test_a_request_is_for_its_member():
    asked = ask(Role.VEHICLE, 7, KEYS[0])
    assert fleetfolder.matches(asked, Role.VEHICLE, 7) == public_bytes(KEYS[0])
    with pytest.raises(UsageError, match="the request is of vehicle-7, not of vehicle-8"):
        fleetfolder.matches(asked, Role.VEHICLE, 8)
    with pytest.raises(UsageError, match="not of committee-7"):
        fleetfolder.matches(asked, Role.COMMITTEE, 7)


def test_the_record_has_no_secret(fleet):
    enrol(fleet, 1)
    for line in (fleet.folder / "issued.jsonl").read_text().splitlines():
        assert set(json.loads(line)) == {"event", "role", "member", "serial", "key", "begins", "ends"}


def aggregator(fleet, number=0, *, days=10.0):
    """Enrol the aggregator with a key that is made here, as `carpool keys` does."""
    path = fleet.key_of(Role.AGGREGATOR, 0)
    keyfiles.private_folder(path.parent)
    keyfiles.save_private(path, KEYS[number], replace=True)
    certificate = fleet.certify(Role.AGGREGATOR, 0, public_bytes(KEYS[number]), now=NOW, days=days)
    signed = fleetfolder.load_sealing_key(path.with_name(fleetfolder.SIGNED))
    return certificate, signed, keyfiles.load_sealing(path.with_name(fleetfolder.SEALING))


def test_an_aggregator_gets_a_key_to_seal_to_that_nobody_else_reads(fleet):
    certificate, signed, sealing = aggregator(fleet)
    assert signed.certificate == certificate
    public = signed.check(fleet.trust, NOW, 1)
    assert public.public_bytes_raw() == sealing.public_key().public_bytes_raw()
    path = fleet.key_of(Role.AGGREGATOR, 0).with_name(fleetfolder.SEALING)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(PrivacyRefused, match="0640"):
        aggregator(fleet)


def test_a_new_certificate_keeps_the_sealing_key_and_a_new_identity_replaces_it(fleet):
    _, first, one = aggregator(fleet)
    renewed, second, same = aggregator(fleet, days=20.0)
    assert one.private_bytes_raw() == same.private_bytes_raw()
    assert second.certificate == renewed != first.certificate
    assert second.check(fleet.trust, NOW, 1)
    _, third, other = aggregator(fleet, 1)
    assert other.private_bytes_raw() != one.private_bytes_raw()
    assert third.check(fleet.trust, NOW, 2)


def test_a_sealing_key_that_is_not_the_signed_one_is_replaced(fleet):
    aggregator(fleet)
    path = fleet.key_of(Role.AGGREGATOR, 0).with_name(fleetfolder.SEALING)
    keyfiles.save_private(path, X25519PrivateKey.generate(), replace=True)
    _, signed, sealing = aggregator(fleet)
    assert signed.epoch == 2
    assert signed.public == sealing.public_key().public_bytes_raw()


def test_an_aggregator_elsewhere_and_a_vehicle_get_none(fleet):
    fleet.certify(Role.AGGREGATOR, 0, public_bytes(KEYS[0]), now=NOW, days=1)
    keyfiles.save_private(fleet.key_of(Role.AGGREGATOR, 0), KEYS[1])
    fleet.certify(Role.AGGREGATOR, 0, public_bytes(KEYS[0]), now=NOW, days=1)
    enrol(fleet, 7, 2)
    assert not list(fleet.folder.rglob("sealing*"))


def test_a_damaged_sealing_key_is_refused(fleet):
    aggregator(fleet)
    fleet.key_of(Role.AGGREGATOR, 0).with_name(fleetfolder.SIGNED).write_text("nothing")
    with pytest.raises(UsageError, match="no signed sealing key"):
        aggregator(fleet)
