"""A sealed contribution opens once: for its aggregator, its vehicle and its purpose, unchanged."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from carpool.privacy import sealed_update
from carpool.privacy.errors import VehicleError
from carpool.privacy.identity import Role, Trust, issue, public_bytes
from carpool.privacy.sealed_update import OVERHEAD, SIGNED, VERSION, Purpose, open_update, seal_update
from carpool.privacy.signing import sign

NOW = 1_800_000_000
CA = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TRUST = Trust(public_bytes(CA))
SEALING = X25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
PURPOSE = Purpose("run", 3, 1, 1, 7)
HEAD = OVERHEAD - 48


def identity(vehicle=7, role=Role.VEHICLE, days=1.0):
    key = Ed25519PrivateKey.from_private_bytes(bytes([vehicle]) * 32)
    return key, issue(CA, role, vehicle, public_bytes(key), begins=NOW, days=days).encode()


def sealed(data=b"update", purpose=PURPOSE, who=None, to=SEALING, epoch=1):
    key, certificate = who or identity()
    return seal_update(data, purpose, key=key, certificate=certificate, to=to.public_key(), epoch=epoch)


def opened(data, purpose=PURPOSE, sealing=SEALING, epoch=1, trust=TRUST, now=NOW):
    return open_update(data, purpose, sealing=sealing, epoch=epoch, trust=trust, now=now)


@settings(max_examples=30)
@given(
    st.binary(max_size=300),
    st.builds(Purpose, st.text(max_size=9), *[st.integers(0, (1 << 63) - 1)] * 3, st.just(7)),
)
def test_what_a_vehicle_seals_the_aggregator_opens(data, purpose):
    found = sealed(data, purpose)
    assert len(found) == len(data) + OVERHEAD
    assert opened(found, purpose) == data
    assert len(data) < 4 or data not in found


def test_the_same_update_is_never_sealed_alike():
    assert len({sealed()[HEAD:] for _ in range(20)}) == 20


@pytest.mark.parametrize(
    ("field", "value"), [("run", "ruN"), ("round", 4), ("version", 2), ("pass_number", 2)]
)
def test_a_replay_in_another_run_round_version_or_pass_is_refused(field, value):
    with pytest.raises(VehicleError, match="does not hold"):
        opened(sealed(), PURPOSE._replace(**{field: value}))


def test_another_vehicles_bytes_are_refused():
    with pytest.raises(VehicleError, match="vehicle 8 carries the certificate of 7"):
        opened(sealed(), PURPOSE._replace(vehicle=8))


def test_nobody_sends_in_anothers_name():
    """Vehicle 8 claims to be 7: with its own certificate, and with 7's, which everybody can read."""
    key, own = identity(8)
    with pytest.raises(VehicleError, match="certificate of 8"):
        opened(sealed(who=(key, own)))
    with pytest.raises(VehicleError, match="does not hold"):
        opened(sealed(who=(key, identity(7)[1])))


def test_nobody_puts_his_signature_under_anothers_update():
    """Vehicle 8 takes 7's ciphertext off the wire and signs it as its own answer to the same task."""
    key, own = identity(8)
    theirs, mine = sealed(), PURPOSE._replace(vehicle=8)
    about = sealed_update._about(mine, SEALING.public_key(), 1, own)
    signature = sign(key, SIGNED, VERSION, [about, hashlib.sha256(theirs[HEAD:]).digest()])
    with pytest.raises(VehicleError, match="another purpose"):
        opened(theirs[:9] + own + signature + theirs[HEAD:], mine)


@pytest.mark.parametrize("role", [Role.COMMITTEE, Role.AGGREGATOR])
def test_only_a_vehicle_contributes(role):
    with pytest.raises(VehicleError, match="not for vehicle"):
        opened(sealed(who=identity(role=role)))


@pytest.mark.parametrize("now", [NOW - 1, NOW + 86400])
def test_an_expired_certificate_is_refused(now):
    with pytest.raises(VehicleError, match="holds from"):
        opened(sealed(), now=now)


def test_a_revoked_vehicle_and_another_fleets_are_refused():
    who = identity()
    with pytest.raises(VehicleError, match="was revoked"):
        opened(sealed(who=who), trust=Trust(TRUST.ca, {who[1][26:42]}))
    with pytest.raises(VehicleError, match="does not hold"):
        opened(sealed(who=who), trust=Trust(public_bytes(who[0])))


def test_another_epoch_is_refused():
    with pytest.raises(VehicleError, match="epoch 2; this is epoch 1"):
        opened(sealed(epoch=2))
    forged = sealed(epoch=2)
    with pytest.raises(VehicleError, match="does not hold"):
        opened(forged[:1] + (1).to_bytes(8, "little") + forged[9:])


def test_what_is_sealed_to_another_aggregator_is_refused():
    other = X25519PrivateKey.generate()
    with pytest.raises(VehicleError, match="does not hold"):
        opened(sealed(to=other))
    assert opened(sealed(to=other), sealing=other) == b"update"


@pytest.mark.slow
def test_no_bit_of_it_can_change():
    found = sealed()
    for bit in range(8 * len(found)):
        flipped = bytearray(found)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(VehicleError):
            opened(bytes(flipped))


def test_what_is_cut_off_or_padded_is_refused():
    found = sealed()
    for length in (0, 1, 8, HEAD, OVERHEAD - 1):
        with pytest.raises(VehicleError, match="cut off"):
            opened(found[:length])
    for wrong in (found[:-1], found + b"\0"):
        with pytest.raises(VehicleError, match="does not hold"):
            opened(wrong)


@settings(max_examples=30)
@given(st.binary(max_size=3 * OVERHEAD))
def test_any_other_bytes_are_refused(data):
    with pytest.raises(VehicleError):
        opened(data)


def test_nothing_is_sealed_to_a_point_of_small_order():
    key, certificate = identity()
    none = X25519PublicKey.from_public_bytes(bytes(32))
    with pytest.raises(VehicleError, match="small order"):
        seal_update(b"update", PURPOSE, key=key, certificate=certificate, to=none, epoch=1)


def test_an_error_says_nothing_of_the_content():
    found = bytearray(sealed(b"content"))
    found[-1] ^= 1
    with pytest.raises(VehicleError) as caught:
        opened(bytes(found))
    assert b"content" not in str(caught.value).encode()


def test_the_bytes_are_these():
    who = identity()
    found = sealed(who=who)
    assert found[:9] == b"\x01" + (1).to_bytes(8, "little")
    assert found[9:147] == who[1]
    assert OVERHEAD == 1 + 8 + 138 + 64 + 32 + 16 == 259


def test_the_certificate_is_the_one_under_which_it_was_signed():
    """Not even another one of the same vehicle and key takes its place."""
    other = identity()[1]
    found = sealed()
    with pytest.raises(VehicleError, match="does not hold"):
        opened(found[:9] + other + found[147:])
