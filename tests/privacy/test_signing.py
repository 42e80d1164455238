"""Ed25519, X25519 and HKDF against their RFCs, and one signature never stands for another purpose."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from carpool.privacy.errors import VehicleError
from carpool.privacy.secagg.plus_keys import agree
from carpool.privacy.signing import SIGNATURE, digest, message, sign, verify

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
LABEL = "carpool/test"

# RFC 8032, Section 7.1: secret key, public key, message, signature.
RFC_8032 = {
    "TEST 1": (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    "TEST 2": (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
    "TEST 3": (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
}

# RFC 7748, Section 5.2 (scalar, u-coordinate, result) and Section 6.1 (Alice's, Bob's, shared).
RFC_7748 = {
    "5.2, 1": (
        "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
        "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
        "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
    ),
    "5.2, 2": (
        "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
        "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
        "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
    ),
    "6.1": (
        "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
        "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
        "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742",
    ),
    "6.1, other side": (
        "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
        "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
        "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742",
    ),
}

# RFC 5869, Appendix A.1 and A.3: salt, info, length, output; the input is 22 times 0b.
RFC_5869 = {
    "A.1": (
        "000102030405060708090a0b0c",
        "f0f1f2f3f4f5f6f7f8f9",
        42,
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    "A.3": (
        "",
        "",
        42,
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
}


@pytest.mark.parametrize(("secret", "public", "text", "signature"), RFC_8032.values(), ids=RFC_8032)
def test_ed25519_of_the_rfc(secret, public, text, signature):
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret))
    assert key.public_key().public_bytes_raw().hex() == public
    assert key.sign(bytes.fromhex(text)).hex() == signature


@pytest.mark.parametrize(("scalar", "point", "result"), RFC_7748.values(), ids=RFC_7748)
def test_x25519_of_the_rfc(scalar, point, result):
    key = X25519PrivateKey.from_private_bytes(bytes.fromhex(scalar))
    assert key.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(point))).hex() == result


@pytest.mark.parametrize(("salt", "info", "length", "output"), RFC_5869.values(), ids=RFC_5869)
def test_hkdf_of_the_rfc(salt, info, length, output):
    derived = HKDF(hashes.SHA256(), length, bytes.fromhex(salt), bytes.fromhex(info)).derive(b"\x0b" * 22)
    assert derived.hex() == output


def test_an_agreement_is_hkdf_over_x25519_without_salt():
    """The RFCs' parts put together by hand: extract with 32 zeros, expand one block, 16 bytes."""
    import hashlib
    import hmac

    scalar, point, shared = (bytes.fromhex(one) for one in RFC_7748["6.1"])
    extracted = hmac.digest(bytes(32), shared, hashlib.sha256)
    assert (
        agree(X25519PrivateKey.from_private_bytes(scalar), point, b"purpose")
        == hmac.digest(extracted, b"purpose\x01", hashlib.sha256)[:16]
    )


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31)])
def test_a_point_of_small_order_is_refused(point):
    with pytest.raises(VehicleError, match="unusable"):
        agree(X25519PrivateKey.generate(), point, b"")


parts = st.lists(st.binary(max_size=6), max_size=4)


@settings(max_examples=50)
@given(parts, parts, st.sampled_from(["carpool/a", "carpool/b", "carpool/ab"]), st.integers(1, 255))
def test_the_signed_bytes_are_injective(one, two, label, version):
    same = message(LABEL, 1, one) == message(LABEL, 1, two)
    assert same == (one == two)
    assert message(label, version, one) != message(LABEL, 1, one)


def test_a_signature_holds_for_its_purpose_version_parts_and_key_only():
    signature = sign(KEY, LABEL, 1, [b"ab", b"c"])
    verify(PUBLIC, signature, LABEL, 1, [b"ab", b"c"])
    other = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw()
    for public, label, version, signed in [
        (PUBLIC, "carpool/other", 1, [b"ab", b"c"]),
        (PUBLIC, LABEL, 2, [b"ab", b"c"]),
        (PUBLIC, LABEL, 1, [b"a", b"bc"]),
        (PUBLIC, LABEL, 1, [b"ab", b"c", b""]),
        (other, LABEL, 1, [b"ab", b"c"]),
    ]:
        with pytest.raises(VehicleError, match="does not hold"):
            verify(public, signature, label, version, signed)


@pytest.mark.slow
def test_no_bit_of_a_signature_can_change():
    signature = sign(KEY, LABEL, 1, [b"x"])
    for bit in range(8 * SIGNATURE):
        flipped = bytearray(signature)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(VehicleError):
            verify(PUBLIC, bytes(flipped), LABEL, 1, [b"x"])


@pytest.mark.parametrize(("public", "signature"), [(PUBLIC[:-1], bytes(64)), (PUBLIC, bytes(63)), (b"", b"")])
def test_what_has_the_wrong_length_is_malformed(public, signature):
    with pytest.raises(VehicleError, match="malformed"):
        verify(public, signature, LABEL, 1, [])


@pytest.mark.parametrize(
    ("label", "version"), [("other/x", 1), ("carpool/\0", 1), ("carpool/ü", 1), (LABEL, 0), (LABEL, 256)]
)
def test_purposes_are_ours_and_versioned(label, version):
    with pytest.raises(ValueError, match="a signed purpose"):
        message(label, version, [])


def test_golden_bytes():
    """These change together with a version only: what was signed must stay verifiable."""
    assert (
        digest(LABEL, 1, [b"ab", b""]).hex()
        == "2fb7887ffce3ad26d4ae1dbb4c45f2ee359e2ad82f8ab4252d0e682ad1fe4be9"
    )
    assert sign(KEY, LABEL, 1, [b"ab", b""]).hex()[:32] == "c159075c30acd457b7ca22b6da51e545"
