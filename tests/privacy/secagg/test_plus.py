"""secagg+ from end to end: exact sums under every departure, or a void round. See test_plus_attacks.py."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carpool.privacy.errors import RoundError, VehicleError
from carpool.privacy.secagg import messages as m
from carpool.privacy.secagg import noise_levels
from carpool.privacy.secagg.announcement import Protocol
from carpool.privacy.secagg.masks import unpack
from carpool.privacy.secagg.plus_policy import Policy
from carpool.privacy.secagg.plus_server import PlusServer
from tests.privacy.secagg.fleet import (
    NOW,
    TRUST,
    Given,
    Round,
    announced,
    members,
    plain,
    play,
    policy,
)

SMALL = Given(3, 0.05, 0.3, "curious")


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    st.integers(4, 9), st.integers(1, 40), st.sampled_from([16, 24, 32]), st.sampled_from([0, 2]), st.data()
)
def test_the_sum_is_that_of_who_is_in_it_or_the_round_is_void(n, numbers, bits, extras, data):
    """Void exactly if fewer than n_min, or than a threshold and oneself, are left after some trip."""
    terms = Given(3, 0.05, 0.3, "curious", extras)
    fleet = members(n, numbers, bits, terms)
    trips = st.one_of(st.none(), st.none(), st.integers(0, 4))
    leaves = {one.vehicle: trip for one in fleet if (trip := data.draw(trips)) is not None}
    left = [sum(leaves.get(one.vehicle, 9) > trip for one in fleet) for trip in range(5)]
    needed = 1 + max(2, left[0] // 2)
    enough = min(left[:4]) >= 3 and min(left[1:]) >= needed
    try:
        server, total = play(fleet, leaves, announced(numbers, 3, bits=bits))
    except (RoundError, VehicleError):
        assert not enough
        return
    assert enough
    assert server.masked == {one.vehicle for one in fleet if leaves.get(one.vehicle, 9) > 2}
    assert list(server.counts.values()) == left
    np.testing.assert_array_equal(total, plain(fleet, server.masked, bits))


@pytest.mark.slow
@pytest.mark.parametrize("trip", [0, 1, 2, 3, 4])
def test_a_third_may_leave_at_any_trip(trip):
    fleet = members(36, 50, terms=policy(12))
    leaves = {one.vehicle: trip for one in fleet[::4]}
    server, total = play(fleet, leaves, announced(50, 12))
    assert server.graph.degree < 35 - 9 * (trip == 0)  # a sparse graph, not everybody with everybody
    np.testing.assert_array_equal(total, plain(fleet, server.masked))
    assert len(server.masked) == (27 if trip < 3 else 36)


@pytest.mark.parametrize("bits", [16, 24, 32])
def test_masks_hide_a_vector_until_the_sum_and_take_no_room(bits):
    fleet = members(4, 1000, bits, Given(2, 0.05, 0.3, "curious"))
    facts = announced(1000, bits=bits)
    played = Round(fleet, facts).until(2)
    for one in fleet:
        data = one.on(2, played.answers[one.vehicle])
        assert len(data) == 68 + 1000 * bits // 8 == 68 + facts.size
        seen = unpack(m.decode_masked(data, 1000, bits).packed, bits)
        assert (seen == one.vector).mean() < 0.01
        assert seen.max() > 2 ** (bits - 1)


def extras_of(fleet):
    return {one.vehicle: one.state.extras for one in fleet if one.state is not None}


@pytest.mark.parametrize("lost", [0, 1, 2, 3, 4])
def test_the_noise_that_losses_do_not_need_is_opened_and_no_other(lost):
    """Ten vehicles, three planned losses, two levels (0, 2, 3); a fourth loss opens nothing."""
    terms = Given(2, 0.05, 0.3, "curious", 2, threshold=lambda n: 3)
    fleet = members(10, 5, terms=terms)
    played = Round(fleet, announced(5))
    played.until(2)
    extras = extras_of(fleet)
    assert {len(own) for own in extras.values()} == {2}
    assert len({seed for own in extras.values() for seed in own}) == 20
    server = played.until(5, {one.vehicle: 2 for one in fleet[:lost]}).server
    np.testing.assert_array_equal(server.sum(), plain(fleet, server.masked))
    components = {0: (1, 2), 1: (2,), 2: (2,), 3: (), 4: ()}[lost]
    assert components == noise_levels.revealed(10, 10 - lost, 0.3, 2)
    expected = {v: {j: own[j - 1] for j in components} for v, own in extras.items() if v in server.masked}
    assert server.revealed == (expected if components else {})


def test_as_many_extra_seeds_as_losses_are_planned():
    fleet = members(5, 3, terms=Given(2, 0.05, 0.3, "curious", 16))
    played = Round(fleet, announced(3)).until(2)
    assert [len(one.state.extras) for one in fleet] == [1] * 5
    assert {one.state.roster_size for one in fleet} == {5}
    played.until(5)
    played.server.sum()
    assert [len(one.state.extras) for one in fleet] == [0] * 5
    assert {one.state.roster_size for one in fleet} == {5}


class Taped:
    """A whole round's messages, to be played to other servers."""

    def __init__(self):
        self.fleet, self.facts = members(5, 6, terms=SMALL), announced(6, 3)
        played, self.tape = Round(self.fleet, self.facts), []
        server = played.server
        for name in ("advertise", "share", "mask", "sign", "open"):
            self.tape.append([])
            take = getattr(server, name)
            setattr(server, name, lambda v, d, take=take: (take(v, d), self.tape[-1].append((v, d))))
            played.advance()
        server.sum()
        self.hash = server.transcript()

    def replay(self, shuffle=lambda rows: rows, beacon=b"b" * 32, noise=()):
        server = PlusServer(self.facts, SMALL, TRUST, lambda: NOW + 1)
        closes = (
            lambda: (server.commitment(), server.rosters(beacon)),
            server.deliveries,
            server.lists,
            server.signatures,
            server.sum,
        )
        hashes = []
        for rows, name, close in zip(
            self.tape, ("advertise", "share", "mask", "sign", "open"), closes, strict=True
        ):
            for vehicle, data in shuffle(list(rows)):
                getattr(server, name)(vehicle, data)
                for bad in noise:
                    with pytest.raises(VehicleError):
                        getattr(server, name)(vehicle, bad)
            close()
            hashes.append(server.transcript())
        return hashes


def test_the_transcript_is_of_what_was_said_and_not_of_when():
    taped = Taped()
    assert taped.replay()[-1] == taped.hash
    assert taped.replay(lambda rows: random.Random(1).sample(rows, len(rows)))[-1] == taped.hash
    assert taped.replay(noise=[b"", b"\x02\x01nonsense"])[-1] == taped.hash
    assert len(set(taped.replay())) == 5


def test_another_message_makes_another_transcript():
    taped = Taped()
    other = taped.replay()
    taped.tape[4] = taped.tape[4][1:]  # one vehicle opens nothing
    found = taped.replay()
    assert found[:4] == other[:4]
    assert found[4] != taped.hash
    assert Taped().hash != taped.hash


def test_rosters_are_made_when_asked_for():
    fleet = members(6, 4, terms=SMALL)
    played = Round(fleet, announced(4, 3))
    answers = played.advance()
    assert list(answers) == sorted(one.vehicle for one in fleet)
    assert len(answers) == 6
    for vehicle in answers:
        roster = m.decode_roster(answers[vehicle])
        assert roster.encode() == answers[vehicle]
        assert roster.beacon == played.beacon
        assert answers.digest(vehicle) == hashlib.sha256(answers[vehicle]).digest()


class TestServerInOrder:
    """The server's own steps: commitment before beacon, no step twice, nothing of other rounds."""

    def setup_method(self):
        self.fleet, self.facts = members(5, 8, terms=SMALL), announced(8, 3)
        self.server = PlusServer(self.facts, SMALL, TRUST, lambda: NOW + 1)

    def test_no_roster_before_its_commitment(self):
        with pytest.raises(RoundError, match="needs its commitment"):
            self.server.rosters(b"b" * 32)

    def test_no_commitment_to_few(self):
        for one in self.fleet[:2]:
            self.server.advertise(one.vehicle, one.begin(self.facts))
        with pytest.raises(RoundError, match="fewer than n_min = 3"):
            self.server.commitment()

    def test_no_graph_for_a_roster_that_is_unsafe(self):
        terms = Policy(3, 0.05, 0.42, "semi-malicious")
        server = PlusServer(self.facts, terms, TRUST, lambda: NOW + 1)
        for one in self.fleet[:4]:
            server.advertise(one.vehicle, one.begin(self.facts))
        server._policy = Policy(3, 0.6, 0.42, "semi-malicious")
        with pytest.raises(RoundError, match="void round"):
            server.commitment()

    def test_nobody_joins_after_the_commitment(self):
        for one in self.fleet[:4]:
            self.server.advertise(one.vehicle, one.begin(self.facts))
        self.server.commitment()
        late = self.fleet[4]
        with pytest.raises(VehicleError, match="out of turn"):
            self.server.advertise(late.vehicle, late.begin(self.facts))

    def test_the_beacon_has_32_bytes_and_comes_once(self):
        for one in self.fleet:
            self.server.advertise(one.vehicle, one.begin(self.facts))
        self.server.commitment()
        with pytest.raises(RoundError, match="32 bytes"):
            self.server.rosters(b"b" * 31)
        self.server.rosters(b"b" * 32)
        for again in (self.server.commitment, lambda: self.server.rosters(b"b" * 32), self.server.sum):
            with pytest.raises(RoundError, match="in order"):
                again()

    def test_no_more_vehicles_than_the_sum_may_have(self):
        facts = announced(8, 3, most=4)
        server = PlusServer(facts, SMALL, TRUST, lambda: NOW + 1)
        for one in self.fleet[:4]:
            server.advertise(one.vehicle, one.begin(facts))
        with pytest.raises(VehicleError, match="out of turn"):
            server.advertise(self.fleet[4].vehicle, self.fleet[4].begin(facts))

    def test_an_announcement_that_vehicles_would_refuse(self):
        for facts in (announced(8, 2), announced(8, 3, protocol=Protocol.HELPERS)):
            with pytest.raises(ValueError, match="policy says 3|another protocol"):
                PlusServer(facts, SMALL, TRUST, lambda: NOW + 1)
