"""Private keys are nobody else's, from the first moment; public files are one form and no other."""

from __future__ import annotations

import base64
import errno
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from carpool.privacy import keyfiles
from carpool.privacy.errors import PrivacyRefused, RunError, UsageError
from carpool.privacy.identity import Role, issue, public_bytes

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SECRET = base64.b64encode(bytes(range(32)))[:20].decode()
# RFC 8410, Section 10.3: an Ed25519 private key in PKCS8 PEM.
RFC_8410 = """-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
"""


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277])
def test_a_key_is_0600_whatever_the_umask(tmp_path, umask):
    old = os.umask(umask)
    try:
        keyfiles.save_private(tmp_path / "k.key", KEY)
    finally:
        os.umask(old)
    assert mode(tmp_path / "k.key") == 0o600
    assert public_bytes(keyfiles.load_signing(tmp_path / "k.key")) == public_bytes(KEY)
    assert [path.name for path in tmp_path.iterdir()] == ["k.key"]


def test_there_is_never_a_moment_in_which_others_can_read_it(tmp_path, monkeypatch):
    seen = []
    write = os.fdopen

    def looked(handle, *args, **kwargs):
        seen.append(stat.S_IMODE(os.fstat(handle).st_mode))
        return write(handle, *args, **kwargs)

    monkeypatch.setattr(os, "fdopen", looked)
    old = os.umask(0)
    try:
        keyfiles.save_private(tmp_path / "k.key", KEY)
    finally:
        os.umask(old)
    assert seen == [0o600]


def test_it_is_synced_before_it_has_its_name(tmp_path, monkeypatch):
    sizes, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (sizes.append((tmp_path / "k.key").exists()), fsync(fd)))
    keyfiles.save_private(tmp_path / "k.key", KEY)
    assert sizes == [False, True]  # the file, then the folder


def test_both_kinds_of_keys_are_read_back_and_not_mixed_up(tmp_path):
    sealing = X25519PrivateKey.generate()
    keyfiles.save_private(tmp_path / "s.key", sealing)
    keyfiles.save_private(tmp_path / "k.key", KEY)
    assert keyfiles.load_sealing(tmp_path / "s.key").private_bytes_raw() == sealing.private_bytes_raw()
    with pytest.raises(UsageError, match="no Ed25519 key"):
        keyfiles.load_signing(tmp_path / "s.key")
    with pytest.raises(UsageError, match="no X25519 key"):
        keyfiles.load_sealing(tmp_path / "k.key")


def test_the_key_of_the_rfc_is_read(tmp_path):
    (tmp_path / "k.key").write_text(RFC_8410)
    (tmp_path / "k.key").chmod(0o600)
    found = keyfiles.load_signing(tmp_path / "k.key")
    assert public_bytes(found).hex() == "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1"


def test_a_key_is_never_overwritten_unless_that_is_asked_for(tmp_path):
    path = tmp_path / "k.key"
    keyfiles.save_private(path, KEY)
    other = Ed25519PrivateKey.generate()
    with pytest.raises(UsageError, match="never overwritten"):
        keyfiles.save_private(path, other)
    assert public_bytes(keyfiles.load_signing(path)) == public_bytes(KEY)
    keyfiles.save_private(path, other, replace=True)
    assert public_bytes(keyfiles.load_signing(path)) == public_bytes(other)
    assert [one.name for one in tmp_path.iterdir()] == ["k.key"]


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o777])
def test_a_key_that_others_can_use_is_refused(tmp_path, bits):
    keyfiles.save_private(tmp_path / "k.key", KEY)
    (tmp_path / "k.key").chmod(bits)
    with pytest.raises(PrivacyRefused, match=f"has mode {bits:04o}") as caught:
        keyfiles.load_signing(tmp_path / "k.key")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("bits", [0o600, 0o400])
def test_a_key_of_its_owner_alone_is_read(tmp_path, bits):
    keyfiles.save_private(tmp_path / "k.key", KEY)
    (tmp_path / "k.key").chmod(bits)
    assert keyfiles.load_signing(tmp_path / "k.key")


def test_a_key_of_somebody_else_is_refused(tmp_path, monkeypatch):
    keyfiles.save_private(tmp_path / "k.key", KEY)
    found = list((tmp_path / "k.key").stat())
    found[4] = 4711
    assert "belongs to user 4711" in keyfiles.unguarded(os.stat_result(found))
    found[4] = 0  # root can read everything anyway
    assert keyfiles.unguarded(os.stat_result(found)) == ""


def test_links_folders_and_pipes_are_refused(tmp_path):
    keyfiles.save_private(tmp_path / "k.key", KEY)
    (tmp_path / "link.key").symlink_to(tmp_path / "k.key")
    with pytest.raises(PrivacyRefused, match="symbolic link"):
        keyfiles.load_signing(tmp_path / "link.key")
    (tmp_path / "folder.key").mkdir(mode=0o700)
    with pytest.raises((PrivacyRefused, RunError)):
        keyfiles.load_signing(tmp_path / "folder.key")
    os.mkfifo(tmp_path / "pipe.key", 0o600)
    with pytest.raises(PrivacyRefused, match="no regular file"):  # and it does not hang
        keyfiles.load_signing(tmp_path / "pipe.key")


def test_a_missing_key_is_a_sentence_with_the_fix(tmp_path):
    with pytest.raises(UsageError, match="there is no private key .*carpool keys"):
        keyfiles.load_signing(tmp_path / "none.key")


@pytest.mark.parametrize("cut", [0, 1, 40, 80, 110])
def test_a_damaged_key_is_refused_and_not_shown(tmp_path, cut):
    path = tmp_path / "k.key"
    keyfiles.save_private(path, KEY)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UsageError, match="no unencrypted private key") as caught:
        keyfiles.load_signing(path)
    chain = f"{caught.value!r} {caught.value.__cause__!r}"
    assert SECRET not in chain


def test_an_encrypted_key_is_refused_with_a_sentence(tmp_path):
    from cryptography.hazmat.primitives import serialization as form

    path = tmp_path / "k.key"
    sealed = form.BestAvailableEncryption(b"x")
    path.write_bytes(KEY.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, sealed))
    path.chmod(0o600)
    with pytest.raises(UsageError, match="no unencrypted private key"):
        keyfiles.load_signing(path)


@pytest.mark.parametrize("call", ["fsync", "fchmod"])
def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, call):
    def refuse(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(RunError, match="cannot write .*no space left"):
        keyfiles.save_private(tmp_path / "k.key", KEY)
    assert list(tmp_path.iterdir()) == []


def test_no_descriptor_is_left_open(tmp_path):
    keyfiles.save_private(tmp_path / "k.key", KEY)
    before = len(list(Path("/proc/self/fd").iterdir()))
    keyfiles.load_signing(tmp_path / "k.key")
    (tmp_path / "k.key").chmod(0o644)
    with pytest.raises(PrivacyRefused):
        keyfiles.load_signing(tmp_path / "k.key")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_folders_are_for_their_owner(tmp_path):
    keyfiles.private_folder(tmp_path / "fleet")
    assert mode(tmp_path / "fleet") == 0o700


def test_public_keys_and_certificates_are_read_back(tmp_path):
    certificate = issue(KEY, Role.VEHICLE, 7, public_bytes(KEY), begins=0, days=1)
    keyfiles.save_public(tmp_path / "ca.pub", public_bytes(KEY))
    keyfiles.save_certificate(tmp_path / "c.cert", certificate)
    assert keyfiles.load_public(tmp_path / "ca.pub") == public_bytes(KEY)
    assert keyfiles.load_certificate(tmp_path / "c.cert") == certificate
    assert mode(tmp_path / "ca.pub") == 0o644


def test_a_private_key_is_no_public_one(tmp_path):
    keyfiles.save_private(tmp_path / "k.key", KEY)
    with pytest.raises(UsageError, match="no Ed25519 public key"):
        keyfiles.load_public(tmp_path / "k.key")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-2],
        lambda text: text + "x",
        lambda text: text + text,
        lambda text: text.replace("CERTIFICATE", "REQUEST"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("A", "!", 1),
        lambda text: "",
    ],
)
def test_a_block_has_one_form(tmp_path, change):
    certificate = issue(KEY, Role.VEHICLE, 7, public_bytes(KEY), begins=0, days=1)
    text = keyfiles.armour("CERTIFICATE", certificate.encode())
    (tmp_path / "c.cert").write_text(change(text), newline="")
    with pytest.raises(UsageError, match="no certificate of Carpool"):
        keyfiles.load_certificate(tmp_path / "c.cert")


def test_a_file_that_is_too_long_is_not_read(tmp_path):
    (tmp_path / "c.cert").write_bytes(bytes(keyfiles.MOST_BYTES + 1))
    with pytest.raises(UsageError, match="more than 65536 bytes"):
        keyfiles.load_certificate(tmp_path / "c.cert")


def test_a_secret_is_kept_like_a_private_key(tmp_path):
    path = tmp_path / "log.secret"
    keyfiles.save_secret(path, bytes(range(32)))
    assert mode(path) == 0o600
    assert keyfiles.load_secret(path) == bytes(range(32))
    with pytest.raises(UsageError, match="never overwritten"):
        keyfiles.save_secret(path, bytes(32))
    path.chmod(0o640)
    with pytest.raises(PrivacyRefused, match="mode 0640"):
        keyfiles.load_secret(path)
    with pytest.raises(ValueError, match="has 32 bytes, not 31"):
        keyfiles.save_secret(tmp_path / "x", bytes(31))


@pytest.mark.parametrize("held", ["", "ab" * 31 + "\n", "ab" * 33 + "\n", "AB" * 32 + "\n", "ab" * 32])
def test_what_is_no_secret_is_refused_and_not_quoted(tmp_path, held):
    path = tmp_path / "log.secret"
    path.write_text(held)
    path.chmod(0o600)
    with pytest.raises(UsageError, match="holds no secret of 32 bytes") as caught:
        keyfiles.load_secret(path)
    assert "abab" not in str(caught.value).lower()
