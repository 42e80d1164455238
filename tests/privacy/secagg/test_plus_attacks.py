"""The table of attacks on secagg+, row by row, to the graph; test_plus_attacks_sum.py goes on from there.

Not here, since no protocol answers them: a server that sends the same malicious task to everybody, and what
sums of many rounds say together (differential privacy does).
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from carpool.privacy.errors import VehicleError
from carpool.privacy.identity import Role, issue, public_bytes
from carpool.privacy.secagg import messages as m
from carpool.privacy.secagg import plus_keys as keys
from carpool.privacy.secagg.announcement import Protocol, announce, decode_announcement
from carpool.privacy.secagg.journal import FileJournal
from carpool.privacy.secagg.parameters import GraphParameters
from carpool.privacy.secagg.plus_server import PlusServer
from tests.privacy.secagg.fleet import (
    AGGREGATOR,
    CA,
    NOW,
    TASK,
    TRUST,
    Given,
    Member,
    Round,
    announced,
    members,
)
from tests.privacy.secagg.plus_case import STRANGER, TERMS, Case


class TestModelInconsistency(Case):
    """A server that sends one vehicle another model."""

    def test_wrong_task(self):
        self.refuses_to_begin("another task", self.facts, task=b"x" * 32)

    def test_vehicles_with_another_task_do_not_cancel(self):
        """Even keys of the same vehicle are of no use in a round of another task."""
        odd = announced(8, 3, tasks=(b"x" * 32,))
        data = self.one.begin(odd, b"x" * 32)
        server = PlusServer(self.facts, TERMS, TRUST, lambda: NOW + 1)
        with pytest.raises(VehicleError, match="does not hold"):
            server.advertise(self.one.vehicle, data)
        assert keys.context(odd) != keys.context(self.facts)

    def test_several_tasks(self):
        self.refuses_to_begin("one task, not 2", announced(8, 3, tasks=(TASK, b"x" * 32)))


class TestForgedAnnouncements(Case):
    """What a round is, in the aggregator's name."""

    def test_forged_announcement(self):
        for change in ({"n_min": 4}, {"numbers": 9}, {"deadline": NOW + 200}, {"tasks": (b"x" * 32,)}):
            self.refuses_to_begin(
                "does not hold", replace(self.facts, **change), change.get("tasks", [TASK])[0]
            )

    def test_an_announcement_of_who_is_no_aggregator(self):
        own = issue(STRANGER, Role.AGGREGATOR, 1, public_bytes(STRANGER), begins=NOW, days=7).encode()
        vehicle = issue(CA, Role.VEHICLE, 1, public_bytes(STRANGER), begins=NOW, days=7).encode()
        for shown in (own, vehicle):
            self.refuses_to_begin("does not hold|not for", announce(self.facts, shown, STRANGER))

    def test_n_min_below_the_vehicles_floor(self):
        self.refuses_to_begin("the policy is 3", announced(8, 2))

    def test_another_protocol(self):
        self.refuses_to_begin("not of secagg", announced(8, 3, protocol=Protocol.ONE_SHOT))

    def test_a_committee_where_there_is_none(self):
        self.refuses_to_begin("no committee", announced(8, 3, committee=b"c" * 32))

    def test_a_round_that_is_over(self):
        with pytest.raises(VehicleError, match="was over"):
            self.one.begin(self.facts, now=NOW + 101)

    def test_sums_that_wrap(self):
        for bits, levels in ((16, 1093), (24, 279_621), (32, 71_582_789)):  # 30 times this is half the ring
            self.refuses_to_begin("wrap", announced(8, 3, bits=bits, levels=levels, most=30))

    def test_widths(self):
        for bits in (8, 20, 40):
            self.refuses_to_begin(f"{bits} bits is refused", self.odd(bits))
        once = announced(8, 3, protocol=Protocol.ONE_SHOT, bits=16, levels=1, most=3)
        with pytest.raises(VehicleError, match="16 bits is refused"):
            once.check(TRUST, NOW + 1, 0.0)

    def odd(self, bits):
        shown = self.facts.certificate
        return announce(replace(self.facts, bits=bits), shown, AGGREGATOR)

    def test_an_announcement_survives_its_bytes(self):
        assert decode_announcement(self.facts.encode()) == self.facts


class TestReplay(Case):
    """Old messages in new rounds, and questions asked twice."""

    def test_replay_in_another_round(self):
        """Keys, shares, lists' signatures of one round are refused in the next."""
        roster = self.until(1)[self.one.vehicle]
        before = self.round.until(4)
        self.facts = announced(8, 3, round_id=b"s" * 16)
        server = PlusServer(self.facts, TERMS, TRUST, lambda: NOW + 1)
        with pytest.raises(VehicleError, match="does not hold"):
            server.advertise(self.one.vehicle, before.server.advertised[self.one.vehicle].encode())
        self.until(1)
        self.refuses("does not hold", 1, roster)
        self.round.until(4)
        self.refuses("does not hold", 4, before.answers[self.one.vehicle])

    def test_sealed_shares_of_another_round(self):
        old = dict(self.until(2))
        self.facts = announced(8, 3, round_id=b"s" * 16)
        self.until(2)
        self.refuses("cannot be opened", 2, old[self.one.vehicle])

    def test_a_round_is_spoken_in_once(self):
        self.one.begin(self.facts)
        with pytest.raises(VehicleError, match="spoken in this round"):
            self.one.begin(announced(9, 3))

    def test_a_round_is_spoken_in_once_also_after_a_restart(self, tmp_path):
        self.one.journal = FileJournal(tmp_path / "journal")
        self.one.begin(self.facts)
        self.one.journal = FileJournal(tmp_path / "journal")
        with pytest.raises(VehicleError, match="spoken in this round"):
            self.one.begin(self.facts)

    def test_trips_out_of_order(self):
        answers = self.until(1)
        state = self.one.state
        for trip in (2, 3, 4):
            self.refuses("out of turn", trip, answers[self.one.vehicle])
        self.one.on(1, answers[self.one.vehicle])
        for trip in (1, 3, 4):
            self.refuses("out of turn", trip, answers[self.one.vehicle])
        assert state.phase is not self.one.state.phase

    def test_a_state_of_another_vehicle(self):
        answers = self.until(1)
        self.refuses("the state is of vehicle", 1, answers[self.one.vehicle], self.other.state)


class TestRosters(Case):
    """Substituted keys, Sybils, chosen neighbours, ground graphs."""

    def roster(self, **changes):
        data = self.until(1)[self.one.vehicle]
        return replace(m.decode_roster(data), **changes)

    def test_substituted_keys(self):
        roster = self.roster()
        victim = next(one for one in self.fleet if one.vehicle == roster.neighbours[0].vehicle)
        twin = Member(victim.vehicle, victim.vector, victim.key, policy=TERMS)
        forged = m.decode_advertisement(twin.begin(self.facts))
        self.refuses(
            "not those in the roster",
            1,
            replace(roster, neighbours=(forged, *roster.neighbours[1:])).encode(),
        )

    def test_own_keys_substituted(self):
        """The roster names other keys for this vehicle than it advertised. The graph is of them."""
        twin = Member(self.one.vehicle, self.one.vector, self.one.key, policy=TERMS)
        fleet = [twin, *self.fleet[1:]]
        data = Round(fleet, self.facts).until(1).answers[self.one.vehicle]
        self.one.begin(self.facts)
        self.refuses("other keys for this vehicle", 1, data)

    def test_sybils_without_a_certificate(self):
        sybil = Member(77, self.one.vector, STRANGER, policy=TERMS)
        sybil.certificate = issue(
            STRANGER, Role.VEHICLE, 77, public_bytes(STRANGER), begins=NOW, days=1
        ).encode()
        data = sybil.begin(self.facts)
        server = PlusServer(self.facts, TERMS, TRUST, lambda: NOW + 1)
        with pytest.raises(VehicleError, match="does not hold"):
            server.advertise(77, data)
        for one in self.fleet[:4]:
            server.advertise(one.vehicle, one.begin(self.facts))
        server.advertised[77] = m.decode_advertisement(data)  # a server that does not look
        server.commitment()
        self.refuses("does not hold", 1, server.rosters(b"b" * 32)[self.one.vehicle])

    def test_another_vehicles_certificate(self):
        self.one.certificate, self.one.key = self.other.certificate, self.other.key
        server = PlusServer(self.facts, TERMS, TRUST, lambda: NOW + 1)
        with pytest.raises(VehicleError, match="showed the certificate of"):
            server.advertise(self.one.vehicle, self.one.begin(self.facts))

    def test_a_small_cohort(self):
        roster = self.roster()
        few = replace(roster, vehicles=roster.vehicles[:2], hashes=roster.hashes[:2], neighbours=())
        self.refuses("n_min is 3", 1, few.encode())

    def test_a_roster_without_oneself(self):
        roster = self.roster()
        at = roster.vehicles.index(self.one.vehicle)
        others = [tuple(x for i, x in enumerate(row) if i != at) for row in (roster.vehicles, roster.hashes)]
        self.refuses(
            "leaves this vehicle out", 1, m.Roster(b"b" * 32, *others, roster.neighbours[1:]).encode()
        )

    def test_one_vehicle_twice(self):
        roster = self.roster()
        twice = (roster.vehicles[0], *roster.vehicles[:-1])
        self.refuses("strictly increasing", 1, replace(roster, vehicles=twice).encode())

    def test_chosen_neighbours(self):
        roster = self.roster()
        self.refuses("public randomness", 1, replace(roster, neighbours=roster.neighbours[1:]).encode())

    def test_a_roster_for_which_no_graph_is_safe(self):
        data = self.roster().encode()
        self.one.policy = members(1, 1, terms=None)[0].policy
        self.one.policy = replace(self.one.policy, gamma=0.8)
        self.refuses("the roster is unsafe", 1, data)

    def test_a_second_roster(self):
        """Fresh secrets under the same keys: refused also after a restart from the state before."""
        answers = self.until(1)
        state = self.one.state
        self.one.on(1, answers[self.one.vehicle])
        self.refuses("spoken in this round before .roster", 1, answers[self.one.vehicle], state)


class TestBeacon(Case):
    """The graph's randomness: drawn after the server has committed to the roster."""

    def log(self, commitment, beacon):
        if beacon != hashlib.sha256(b"log" + commitment).digest():
            raise VehicleError("the beacon is not the log's for this roster")

    def played(self):
        for one in self.fleet:
            one.beacon = self.log
        server = PlusServer(self.facts, TERMS, TRUST, lambda: NOW + 1)
        for one in self.fleet:
            server.advertise(one.vehicle, one.begin(self.facts))
        return server, server.commitment()

    def test_the_logs_beacon_is_taken(self):
        server, commitment = self.played()
        rosters = server.rosters(hashlib.sha256(b"log" + commitment).digest())
        for one in self.fleet:
            server.share(one.vehicle, one.on(1, rosters[one.vehicle]))
        assert set(server.sharing) == set(rosters)

    def test_a_beacon_of_the_servers_choice(self):
        server, _ = self.played()
        self.refuses("not the log's", 1, server.rosters(b"b" * 32)[self.one.vehicle])

    def test_wrong_roster_commitment(self):
        """The beacon of one roster with another: a vehicle taken out after the draw."""
        server, commitment = self.played()
        beacon = hashlib.sha256(b"log" + commitment).digest()
        fewer = PlusServer(self.facts, TERMS, TRUST, lambda: NOW + 1)
        for vehicle in sorted(server.advertised)[:4]:
            fewer.advertise(vehicle, server.advertised[vehicle].encode())
        assert fewer.commitment() != commitment
        self.refuses("not the log's", 1, fewer.rosters(beacon)[self.one.vehicle])

    def test_the_graph_is_the_beacons(self):
        roster = m.decode_roster(self.until(1)[self.one.vehicle])
        digests = roster.hashes
        seeds = {keys.roster_hash(self.facts, b, roster.vehicles, digests) for b in (b"b" * 32, b"c" * 32)}
        assert len(seeds) == 2
        assert keys.roster_commitment(self.facts, roster.vehicles, digests) == self.round.commitment
        wide = Given(3, 0.05, 0.3, "curious", threshold=lambda n: 2)
        object.__setattr__(wide, "graph", lambda n: GraphParameters(n, 2, 2))
        fleet = members(12, 8, terms=wide)
        played = Round(fleet, self.facts).until(1)
        moved = 0
        for one in fleet:
            data = bytearray(played.answers[one.vehicle])
            data[10] ^= 1  # the first byte of the beacon
            try:
                one.on(1, bytes(data))
            except VehicleError as error:
                moved += "public randomness" in str(error)
        assert moved >= 8  # two neighbours of eleven stay both with probability 1/55
