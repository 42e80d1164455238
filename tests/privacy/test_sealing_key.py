"""The aggregator's sealing key: a vehicle believes the one that its aggregator signed, and no other."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from carpool.privacy.errors import VehicleError
from carpool.privacy.identity import Role, Trust, issue, public_bytes
from carpool.privacy.sealing_key import LABEL, SIZE, VERSION, announce_key, decode
from carpool.privacy.signing import SIGNATURE, sign

NOW = 1_800_000_000
CA = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
SEALING = X25519PrivateKey.from_private_bytes(bytes(range(1, 33))).public_key()
TRUST = Trust(public_bytes(CA))
CERTIFICATE = issue(CA, Role.AGGREGATOR, 0, public_bytes(KEY), begins=NOW, days=1)
ANNOUNCED = announce_key(KEY, CERTIFICATE, SEALING, 4)


@settings(max_examples=20)
@given(st.integers(1, (1 << 63) - 1), st.binary(min_size=32, max_size=32))
def test_what_is_announced_is_read_back_and_holds(epoch, secret):
    public = X25519PrivateKey.from_private_bytes(secret).public_key()
    one = announce_key(KEY, CERTIFICATE, public, epoch)
    assert len(one.encode()) == SIZE
    assert decode(one.encode()) == one
    assert one.check(TRUST, NOW, epoch).public_bytes_raw() == public.public_bytes_raw()


def test_the_bytes_are_these():
    data = ANNOUNCED.encode()
    assert data[:1] == b"\x01"
    assert data[1:139] == CERTIFICATE.encode()
    assert data[139:147] == (4).to_bytes(8, "little")
    assert data[147:179] == SEALING.public_bytes_raw()
    assert SIZE == 243


def test_a_key_that_nobody_signed_is_refused():
    for signature in (bytes(SIGNATURE), sign(CA, LABEL, VERSION, [ANNOUNCED.body])):
        with pytest.raises(VehicleError, match="does not hold"):
            replace(ANNOUNCED, signature=signature).check(TRUST, NOW, 4)


def test_a_key_in_the_place_of_the_signed_one_is_refused():
    other = X25519PrivateKey.generate().public_key().public_bytes_raw()
    with pytest.raises(VehicleError, match="does not hold"):
        replace(ANNOUNCED, public=other).check(TRUST, NOW, 4)


def test_a_signature_of_another_purpose_is_refused():
    signature = sign(KEY, "carpool/announcement", VERSION, [ANNOUNCED.body])
    with pytest.raises(VehicleError, match="does not hold"):
        replace(ANNOUNCED, signature=signature).check(TRUST, NOW, 4)


@pytest.mark.parametrize("now", [NOW - 1, NOW + 86400])
def test_an_expired_key_is_refused(now):
    with pytest.raises(VehicleError, match="holds from"):
        ANNOUNCED.check(TRUST, now, 4)


@pytest.mark.parametrize("role", [Role.VEHICLE, Role.COMMITTEE])
def test_a_key_of_another_role_is_refused(role):
    certificate = issue(CA, role, 0, public_bytes(KEY), begins=NOW, days=1)
    with pytest.raises(ValueError, match="aggregator"):
        announce_key(KEY, certificate, SEALING, 4)
    forged = replace(ANNOUNCED, certificate=certificate)
    forged = replace(forged, signature=sign(KEY, LABEL, VERSION, [forged.body]))
    with pytest.raises(VehicleError, match="not for aggregator"):
        forged.check(TRUST, NOW, 4)


@pytest.mark.parametrize("epoch", [1, 3, 5])
def test_a_key_of_another_epoch_is_refused(epoch):
    with pytest.raises(VehicleError, match=f"epoch 4, the fleet is in epoch {epoch}"):
        ANNOUNCED.check(TRUST, NOW, epoch)
    with pytest.raises(VehicleError, match="does not hold"):
        replace(ANNOUNCED, epoch=epoch).check(TRUST, NOW, epoch)


def test_a_key_of_a_revoked_aggregator_is_refused():
    with pytest.raises(VehicleError, match="was revoked"):
        ANNOUNCED.check(Trust(TRUST.ca, {CERTIFICATE.serial}), NOW, 4)


def test_a_key_of_another_ca_is_refused():
    with pytest.raises(VehicleError, match="does not hold"):
        ANNOUNCED.check(Trust(public_bytes(KEY)), NOW, 4)


def test_a_key_is_announced_by_its_owner_and_in_an_epoch():
    with pytest.raises(ValueError, match="signed by the key"):
        announce_key(CA, CERTIFICATE, SEALING, 4)
    for epoch in (0, -1, 1 << 63):
        with pytest.raises(ValueError, match="epoch"):
            announce_key(KEY, CERTIFICATE, SEALING, epoch)


@pytest.mark.parametrize("data", [b"", ANNOUNCED.encode()[:-1], ANNOUNCED.encode() + b"\0"])
def test_other_lengths_are_refused(data):
    with pytest.raises(VehicleError, match="243 bytes"):
        decode(data)


def test_no_epoch_and_no_version_is_malformed():
    data = ANNOUNCED.encode()
    for wrong in (
        b"\x02" + data[1:],
        data[:139] + bytes(8) + data[147:],
        data[:139] + b"\xff" * 8 + data[147:],
    ):
        with pytest.raises(VehicleError, match="malformed"):
            decode(wrong)


@pytest.mark.slow
def test_no_bit_of_it_can_change():
    data = ANNOUNCED.encode()
    for bit in range(8 * SIZE):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(VehicleError):
            decode(bytes(flipped)).check(TRUST, NOW, 4)


@settings(max_examples=30)
@given(st.binary(max_size=2 * SIZE))
def test_any_other_bytes_are_refused(data):
    with pytest.raises(VehicleError):
        decode(data).check(TRUST, NOW, 4)
