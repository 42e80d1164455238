"""Golden bytes of every message: they change only together with the version byte that they begin with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from carpool.privacy import signing
from carpool.privacy.identity import Certificate, Role, public_bytes
from carpool.privacy.secagg import announcement as an
from carpool.privacy.secagg import messages as m
from carpool.privacy.secagg import once, plus_keys, plus_state
from carpool.privacy.secagg.announcement import Announcement, Protocol, announce
from carpool.privacy.secagg.graph import neighbours
from carpool.privacy.secagg.masks import pack
from carpool.privacy.secagg.parameters import GraphParameters

GOLDEN = Path(__file__).parents[2] / "vectors" / "secagg_v2.json"
BEACON = bytes(range(32))
KEYS = {n: Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in range(8)}
VERSIONS = {"secagg+": m.VERSION, "once": an.VERSION, "state": plus_state.VERSION}


def blob(start: int, size: int) -> bytes:
    return bytes((start + i) % 256 for i in range(size))


def shown(role: Role, member: int) -> bytes:
    blank = Certificate(role, member, 1000, 2000, blob(member, 16), public_bytes(KEYS[member]), b"")
    return blank.body + signing.sign(KEYS[0], "carpool/certificate", 1, [blank.body])


def round_of(protocol: Protocol, bits: int) -> Announcement:
    committee = bytes(32) if protocol is Protocol.SECAGG_PLUS else blob(7, 32)
    plain = Announcement(protocol, blob(1, 16), committee, 3, bits, 100, 9, 3, 1, 4, 1900, (blob(40, 32),))
    return announce(plain, shown(Role.AGGREGATOR, 5), KEYS[5])


def advertisement(vehicle: int, facts: Announcement) -> m.Advertisement:
    private = [X25519PrivateKey.from_private_bytes(bytes([vehicle + at]) * 32) for at in (10, 20)]
    publics = [one.public_key().public_bytes_raw() for one in private]
    parts = [plus_keys.context(facts), *publics]
    signature = signing.sign(KEYS[vehicle], "carpool/secagg+/keys", m.VERSION, parts)
    return m.Advertisement(vehicle, shown(Role.VEHICLE, vehicle), *publics, signature)


def plus() -> dict[str, bytes]:
    """Everything of secagg+, of vehicles 1 to 4."""
    facts, vehicles = round_of(Protocol.SECAGG_PLUS, 24), (1, 2, 3, 4)
    all_ = {v: advertisement(v, facts) for v in vehicles}
    hashes = tuple(blob(v, 32) for v in vehicles)
    seed = plus_keys.roster_hash(facts, BEACON, vehicles, hashes)
    graph = GraphParameters(4, 3, 2)
    near = neighbours(vehicles, seed, graph)[2]
    vector = np.array([1, 0xFFFFFE, 0x010203], np.uint32)
    signature = signing.sign(KEYS[2], "carpool/secagg+/consistent", m.VERSION, [blob(3, 32)])
    one, two = (X25519PrivateKey.from_private_bytes(bytes([v + 20]) * 32) for v in (1, 2))
    about = plus_keys.context(facts)
    state = plus_state.VehicleState(
        facts,
        2,
        plus_state.Phase.SHARED,
        blob(1, 32),
        blob(2, 32),
        blob(3, 16),
        (blob(4, 16),),
        1,
        graph,
        4,
        vehicles,
        tuple(all_[v] for v in near),
    )
    return {
        "announcement": facts.encode(),
        "advertisement": all_[2].encode(),
        "roster": m.Roster(BEACON, vehicles, hashes, tuple(all_[v] for v in near)).encode(),
        "sealed": m.encode_sealed({1: blob(1, m.SEALED), 3: blob(3, m.SEALED)}),
        "sealed, 2 extra seeds": m.encode_sealed({4: blob(1, m.SEALED + 2 * m.SEED)}, 2),
        "masked, 16 bits": m.Masked(pack(vector & np.uint32(0xFFFF), 16), signature).encode(),
        "masked, 24 bits": m.Masked(pack(vector, 24), signature).encode(),
        "masked, 32 bits": m.Masked(pack(vector, 32), signature).encode(),
        "list": m.encode_list(vehicles),
        "signatures": m.encode_signatures({2: signature, 4: blob(9, 64)}),
        "shares": m.Shares({1: blob(1, 32), 4: blob(4, 32)}, {3: blob(3, 64)}).encode(),
        "shares, 1 revealed": m.Shares({1: blob(1, 64)}, {3: blob(3, 64)}, 1).encode(),
        "state": plus_state.dump(state),
        "hash of the roster's commitment": plus_keys.roster_commitment(facts, vehicles, hashes),
        "hash of the roster": seed,
        "hash of the list": plus_keys.list_hash(facts, vehicles),
        "key of a mask": plus_keys.mask_key(one, two.public_key().public_bytes_raw(), about, 1, 2),
        "associated data of shares": plus_keys.sealing(facts, one, two.public_key().public_bytes_raw(), 1, 2)[
            1
        ],
    }


def spoken(protocol: Protocol) -> dict[str, bytes]:
    """Everything of one-shot or helpers, of vehicles 1 and 2 and members with parts of 40 bytes."""
    facts = round_of(protocol, 32)
    public, vector = blob(5, once.PUBLIC[protocol]), memoryview(blob(60, 12))
    sealed = tuple(blob(i, 40) for i in range(3))
    headers = []
    for v in (1, 2):
        fields = once.core(facts, v, facts.tasks[0], blob(80, 32), shown(Role.VEHICLE, v), public)
        headers.append(once.sign_header(fields, sealed, KEYS[v]))
    entries = [once.Entry(one, sealed[1], (blob(1, 32), blob(2, 32))) for one in headers]
    certificate = once.encode_certificate(blob(30, 32), {1: blob(1, 64), 3: blob(3, 64)})
    return {
        "announcement": facts.encode(),
        "header": headers[0].encode(),
        "contribution": once.Contribution(headers[0], sealed, vector).encode(),
        "proposal": once.encode_proposal(entries),
        "complaint": once.Complaint((1, 7), blob(2, 64)).encode(),
        "list": once.encode_list((1, 2)),
        "approval": once.encode_approval(blob(30, 32), blob(4, 64)),
        "certificate": certificate,
        "request": once.encode_request(2, certificate),
        "release": once.encode_release(blob(50, 16), blob(5, 64)),
        "hash of the list": once.list_hash(facts, [one.hash for one in headers]),
    }


MADE = {
    "secagg+": plus(),
    "one-shot": spoken(Protocol.ONE_SHOT),
    "helpers": spoken(Protocol.HELPERS),
}


def test_the_bytes_are_those_on_file():
    known = json.loads(GOLDEN.read_text())
    assert known["versions"] == VERSIONS
    for protocol, made in MADE.items():
        assert {name: data.hex() for name, data in made.items()} == known[protocol]


def test_every_message_begins_with_its_version():
    for protocol, made in MADE.items():
        for name, data in made.items():
            if "hash" in name or "key" in name or "associated" in name:
                continue
            version = "secagg+" if protocol == "secagg+" and name != "announcement" else "once"
            assert data[0] == VERSIONS["state" if name == "state" else version], (protocol, name)


READ: dict[str, Callable[[bytes], bytes]] = {
    "announcement": lambda d: an.decode_announcement(d).encode(),
    "advertisement": lambda d: m.decode_advertisement(d).encode(),
    "roster": lambda d: m.decode_roster(d).encode(),
    "sealed": lambda d: m.encode_sealed(m.decode_sealed(d)),
    "sealed, 2 extra seeds": lambda d: m.encode_sealed(m.decode_sealed(d, 2), 2),
    "masked, 16 bits": lambda d: m.decode_masked(d, 3, 16).encode(),
    "masked, 24 bits": lambda d: m.decode_masked(d, 3, 24).encode(),
    "masked, 32 bits": lambda d: m.decode_masked(d, 3, 32).encode(),
    "list": lambda d: m.encode_list(m.decode_list(d)),
    "signatures": lambda d: m.encode_signatures(m.decode_signatures(d)),
    "shares": lambda d: m.decode_shares(d).encode(),
    "shares, 1 revealed": lambda d: m.decode_shares(d, 1).encode(),
    "state": lambda d: plus_state.dump(plus_state.load(d)),
}


@pytest.mark.parametrize("name", READ)
def test_what_is_read_is_written_the_same_again(name):
    data = MADE["secagg+"][name]
    assert READ[name](data) == data


@pytest.mark.parametrize("protocol", [Protocol.ONE_SHOT, Protocol.HELPERS])
def test_what_is_read_of_the_others_is_written_the_same_again(protocol):
    made, facts = MADE["one-shot" if protocol is Protocol.ONE_SHOT else "helpers"], round_of(protocol, 32)
    again = {
        "announcement": lambda d: an.decode_announcement(d).encode(),
        "header": lambda d: once.decode_header(d, protocol).encode(),
        "contribution": lambda d: once.decode_contribution(d, facts, 3, 40).encode(),
        "proposal": lambda d: once.encode_proposal(once.decode_proposal(d, protocol, 40, 2)),
        "complaint": lambda d: once.decode_complaint(d).encode(),
        "list": lambda d: once.encode_list(once.decode_list(d)),
        "approval": lambda d: once.encode_approval(*once.decode_approval(d)),
        "certificate": lambda d: once.encode_certificate(*once.decode_certificate(d, 3)),
        "request": lambda d: once.encode_request(*once.decode_request(d, 3)),
        "release": lambda d: once.encode_release(*once.decode_release(d, 16)),
    }
    assert {*again, "hash of the list"} == set(made)
    for name, read in again.items():
        assert read(made[name]) == made[name], name
