"""The identities of a simulated fleet: made once, guarded, found again, renewed in time."""

from __future__ import annotations

import pytest

from carpool.experiments import simfleet
from carpool.experiments.simfleet import DAYS, KEYS, SimulatedFleet
from carpool.privacy.errors import PrivacyRefused
from carpool.privacy.identity import Role, decode, public_bytes

NOW = 1_800_000_000.5


class Watch:
    def __init__(self, time=NOW):
        self.time = time

    def __call__(self):
        return self.time


@pytest.mark.parametrize("on_disk", [True, False])
def test_everybody_holds_against_the_trust(tmp_path, on_disk):
    fleet = SimulatedFleet(tmp_path if on_disk else None, Watch())
    key, certificate, _ = fleet.aggregator
    assert fleet.trust.check(decode(certificate), Role.AGGREGATOR, NOW) == public_bytes(key)
    assert fleet.member(0, Role.AGGREGATOR) == (key, certificate)
    for role, node in ((Role.VEHICLE, 7), (Role.COMMITTEE, 7), (Role.AGGREGATOR, 1)):
        key, certificate = fleet.member(node, role)
        assert fleet.trust.check(decode(certificate), role, NOW) == public_bytes(key)
        assert decode(certificate).member == node
        assert fleet.member(node, role)[1] is certificate


def test_no_two_members_have_the_same_key():
    fleet = SimulatedFleet(None, Watch())
    keys = {public_bytes(fleet.member(n, role)[0]) for n in range(5) for role in Role}
    assert len(keys) == 15


def test_private_keys_are_this_users_alone(tmp_path):
    SimulatedFleet(tmp_path, Watch()).aggregator  # noqa: B018
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / KEYS).iterdir()}
    assert modes == {"ca.key": 0o600, "aggregator.key": 0o600, "sealing.key": 0o600}
    assert (tmp_path / KEYS).stat().st_mode & 0o777 == 0o700
    (tmp_path / KEYS / "ca.key").chmod(0o644)
    with pytest.raises(PrivacyRefused, match="0644"):
        SimulatedFleet(tmp_path, Watch())


def test_a_resumed_run_and_a_worker_find_the_same_fleet(tmp_path):
    one, other = SimulatedFleet(tmp_path, Watch()), SimulatedFleet(tmp_path, Watch())
    assert one.trust == other.trust
    assert public_bytes(one.aggregator.key) == public_bytes(other.aggregator.key)
    assert one.aggregator.sealing.private_bytes_raw() == other.aggregator.sealing.private_bytes_raw()
    assert public_bytes(one.identity(3)[0]) == public_bytes(other.identity(3)[0])
    assert one.trust != SimulatedFleet(None, Watch()).trust


def test_certificates_hold_for_thirty_days_and_are_renewed_with_the_same_key():
    watch = Watch()
    fleet = SimulatedFleet(None, watch)
    first = (fleet.aggregator, fleet.identity(3))
    watch.time += DAYS * 86400 + 1
    for (key, old), (same, new) in zip(
        (first[0][:2], first[1]), (fleet.aggregator[:2], fleet.identity(3)), strict=True
    ):
        assert public_bytes(key) == public_bytes(same)
        assert decode(old).ends - decode(old).begins == DAYS * 86400
        assert not decode(old).ends > watch.time < decode(new).ends - 86400 * 29
        assert decode(new).begins <= watch.time < decode(new).ends


def test_a_certificate_does_not_end_on_the_way():
    watch = Watch()
    fleet = SimulatedFleet(None, watch)
    old = fleet.identity(3)[1]
    watch.time = decode(old).ends - 1
    assert decode(fleet.identity(3)[1]).ends > watch.time + 3600


def test_a_fleet_of_millions_is_not_remembered(monkeypatch):
    monkeypatch.setattr(simfleet, "KNOWN", 4)
    fleet = SimulatedFleet(None, Watch())
    keys = [public_bytes(fleet.identity(n)[0]) for n in range(12)]
    assert keys == [public_bytes(fleet.identity(n)[0]) for n in range(12)]
    assert len(fleet._known) <= 4


def test_no_secret_in_words():
    fleet = SimulatedFleet(None, Watch())
    secret = fleet.aggregator.sealing.private_bytes_raw()
    assert repr(secret)[2:10] not in repr(fleet.aggregator) + repr(fleet)
    assert secret.hex() not in repr(fleet.aggregator)
