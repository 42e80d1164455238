"""A follower takes what the log shows and nothing else; the beacon is that of the commitment's checkpoint."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from carpool.privacy import beacon, logwriter
from carpool.privacy.errors import VehicleError
from carpool.privacy.following import Follower, Shown
from carpool.privacy.identity import Role, Trust, issue, public_bytes

NOW = 1_800_000_000
CA = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
TRUST = Trust(public_bytes(CA))
SIGNER = logwriter.Signer(
    issue(CA, Role.AGGREGATOR, 0, public_bytes(KEY), begins=NOW - 9, days=30).encode(), KEY, TRUST
)
ROUND, LIST = b"r" * 16, b"l" * 32


def committed(list_=LIST, round_=ROUND):
    return ("keys", {"round": round_.hex(), "vehicles": 9, "hash": list_.hex()})


@pytest.fixture
def writer(tmp_path):
    path = tmp_path / "log.jsonl"
    logwriter.create(path, "run", b"s" * 32, SIGNER, NOW)
    with logwriter.LogWriter(path, SIGNER, lambda: NOW + 1) as opened:
        yield opened


def show(writer, number=None, known=0):
    at = writer.checkpoint.size - 1 if number is None else number
    line, proof = writer.inclusion(at)
    grown = writer.consistency(known) if known else []
    return Shown(writer.checkpoint, tuple(grown), at, line, tuple(proof))


def test_the_beacon_is_that_of_the_checkpoint_over_the_commitment(writer):
    signed = writer.append([committed()])
    follower = Follower(TRUST)
    assert follower.beacon(show(writer), LIST) == beacon.for_round(ROUND, signed)
    assert follower.known == signed


def test_it_follows_from_checkpoint_to_checkpoint(writer):
    follower = Follower(TRUST)
    drawn = set()
    for n in range(5):
        known = 0 if follower.known is None else follower.known.size
        writer.append([committed(bytes([n]) * 32)])
        drawn.add(follower.beacon(show(writer, known=known), bytes([n]) * 32))
    assert len(drawn) == 5


def test_another_list_has_no_beacon(writer):
    writer.append([committed()])
    with pytest.raises(VehicleError, match="does not commit to this list"):
        Follower(TRUST).beacon(show(writer), b"x" * 32)


def test_entries_behind_the_commitment_are_refused(writer):
    """Else the server could append until the draw suits it."""
    writer.append([committed(), ("revoked", {"counter": 1, "hash": "a" * 64})])
    with pytest.raises(VehicleError, match="first checkpoint over the commitment"):
        Follower(TRUST).beacon(show(writer, 1), LIST)


def test_only_an_entry_of_keys_commits(writer):
    writer.append([("pool", {"epoch": 1, "nodes": 9, "hash": LIST.hex()})])
    with pytest.raises(VehicleError, match="does not commit"):
        Follower(TRUST).beacon(show(writer), LIST)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda shown: replace(shown, line=shown.line.replace(b'"vehicles":9', b'"vehicles":8')),
        lambda shown: replace(shown, number=shown.number - 1),
        lambda shown: replace(shown, proof=()),
        lambda shown: replace(shown, checkpoint=replace(shown.checkpoint, root=b"x" * 32)),
        lambda shown: replace(shown, checkpoint=replace(shown.checkpoint, signature=bytes(64))),
        lambda shown: replace(shown, line=b"{}"),
    ],
)
def test_what_does_not_hold_is_refused_and_forgotten(writer, spoil):
    writer.append([committed()])
    follower = Follower(TRUST)
    with pytest.raises(VehicleError):
        follower.beacon(spoil(show(writer)), LIST)
    assert follower.known is None


def test_a_history_that_was_rewritten_is_refused(writer, tmp_path):
    writer.append([committed()])
    follower = Follower(TRUST)
    follower.beacon(show(writer), LIST)
    other = tmp_path / "other.jsonl"
    other.write_bytes(b"".join((tmp_path / "log.jsonl").read_bytes().splitlines(keepends=True)[:2]))
    with logwriter.LogWriter(other, SIGNER, lambda: NOW + 2) as rewritten:
        rewritten.append([committed(b"m" * 32)])
        rewritten.append([committed(b"n" * 32)])
        with pytest.raises(VehicleError, match="does not continue"):
            follower.beacon(show(rewritten, known=2), b"n" * 32)
    assert follower.known == writer.checkpoint


def test_nobody_but_this_fleets_aggregator_signs(writer):
    writer.append([committed()])
    with pytest.raises(VehicleError):
        Follower(Trust(public_bytes(KEY))).beacon(show(writer), LIST)
