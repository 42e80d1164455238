"""The table of attacks, row by row, on one-shot; what applies to helpers alone is in test_helpers.py.

Not here, since no protocol answers them: a server that sends the same malicious task to everybody, and what
sums of many rounds say together (differential privacy does).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from carpool.privacy.errors import RoundError, RunError, VehicleError
from carpool.privacy.identity import Role, Trust, decode
from carpool.privacy.secagg import once, rlwe
from carpool.privacy.secagg import oneshot_committee as member
from carpool.privacy.secagg.announcement import Protocol, announce
from carpool.privacy.secagg.journal import FileJournal
from carpool.privacy.secagg.masks import unpack
from carpool.privacy.secagg.once_member import Node, approval_form
from carpool.privacy.secagg.oneshot_vehicle import TAG, share_size
from carpool.privacy.secagg.shamir import P
from carpool.privacy.signing import sign
from tests.privacy.secagg.fleet import NOW, TRUST
from tests.privacy.secagg.once_fleet import SMALL, TASK, World, certificate, play
from tests.privacy.secagg.test_oneshot import reseal

PART = share_size(SMALL) + TAG
LATER = NOW + 1


class Case:
    """A world of four vehicles, three of them needed, one seven-member committee."""

    def setup_method(self):
        self.world = World(Protocol.ONE_SHOT, 4, 20, n_min=3)

    def refused_by_vehicle(self, match, **changes):
        with pytest.raises(VehicleError, match=match):
            self.world.message(0, **changes)

    def entries(self, server):
        return once.decode_proposal(server.proposals()[1], Protocol.ONE_SHOT, PART, once.depth(0, 7))

    def propose(self, entries, point=1):
        node = self.world.nodes[point]
        return member.on_proposal(node, self.world.joined(point), once.encode_proposal(entries), LATER)

    def opened_by_all(self):
        server = self.world.contributed()
        return server, self.world.proposed(server, range(1, 8))

    def certified(self):
        server, lists = self.opened_by_all()
        self.world.approved(server, lists, range(1, 8))
        return server, server.certificates()


class TestModelInconsistency(Case):
    """A server that sends one vehicle another model."""

    def test_a_vehicle_speaks_only_for_the_task_that_it_trained_on(self):
        self.refused_by_vehicle("another task", task=b"x" * 32)

    def test_members_complain_about_a_header_of_another_task(self):
        odd = self.world.announce(tasks=(b"x" * 32,))
        data = self.world.message(0, announced=odd, task=b"x" * 32)
        with pytest.raises(VehicleError, match="another round"):
            self.world.server().contribute(self.world.speakers[0].vehicle, data)
        bad = once.decode_contribution(data, odd, 7, PART).header
        server = self.world.contributed([1, 2, 3])
        entries = list(self.entries(server))
        state, word = self.propose([replace(entries[0], header=bad), *entries[1:]])
        assert once.decode_complaint(word).vehicles == (self.world.speakers[0].vehicle,)
        assert len(state.opened) == 2

    def test_a_version_of_one_vehicle_is_not_released(self):
        tasks = (TASK, b"x" * 32)
        self.world.announced = self.world.announce(tasks=tasks, per_task=3)
        odd = self.world.speakers[0].vehicle
        self.world.messages[odd] = self.world.message(0, task=tasks[1])
        server, lists = self.opened_by_all()
        assert server.gathering.thin == {odd}, "an honest server leaves it out"
        assert odd not in once.decode_list(lists[1])
        everybody = once.encode_list(sorted(one.vehicle for one in self.world.speakers))
        with pytest.raises(VehicleError, match="a task of fewer than 3"):
            self.world.approved(server, {1: everybody}, [1])

    def test_no_announcement_lowers_how_many_a_version_needs(self):
        """Else the server sends one vehicle a version of its own, and knows what comes of the other."""
        tasks = (TASK, b"x" * 32)
        odd = self.world.announce(tasks=tasks, per_task=2)
        self.refused_by_vehicle("the policy is 3", announced=odd)
        with pytest.raises(VehicleError, match="the policy is 3"):
            member.join_round(self.world.nodes[1], odd, self.world.committee, NOW)


class TestSybils(Case):
    """Vehicles and members that nobody enrolled."""

    def test_a_vehicle_without_the_fleets_certificate(self):
        own = Ed25519PrivateKey.generate()
        vehicle = self.world.speakers[0].vehicle
        shown = certificate(Role.VEHICLE, vehicle, own, own)
        self.world.speakers[0] = replace(self.world.speakers[0], key=own, certificate=shown)
        with pytest.raises(VehicleError, match="does not hold"):
            self.world.server().contribute(vehicle, self.world.message(0))

    def test_another_vehicles_certificate(self):
        one, other = self.world.speakers[:2]
        self.world.speakers[0] = replace(one, certificate=other.certificate, key=other.key)
        with pytest.raises(VehicleError, match="showed the certificate of"):
            self.world.server().contribute(one.vehicle, self.world.message(0))

    def test_a_revoked_vehicle_is_complained_about(self):
        serial = decode(self.world.speakers[0].certificate).serial
        node = self.world.nodes[1]
        self.world.nodes[1] = replace(node, trust=Trust(TRUST.ca, {serial}))
        server = self.world.contributed()
        _, word = self.propose(self.entries(server))
        assert once.decode_complaint(word).vehicles == (self.world.speakers[0].vehicle,)

    def test_one_vehicle_counted_twice(self):
        server = self.world.contributed()
        entries = self.entries(server)
        with pytest.raises(VehicleError, match="twice"):
            self.propose([*entries[:2], entries[0]])
        with pytest.raises(VehicleError, match="strictly increasing"):
            once.decode_list(once.encode_list([5, 5, 7]))

    def test_a_committee_of_the_servers_choice(self):
        other = World(Protocol.ONE_SHOT, 1)
        self.refused_by_vehicle("another committee", committee=other.committee)
        own = World(Protocol.ONE_SHOT, 1, sizes=SMALL)
        chosen = replace(own.committee, beacon=b"x" * 32)
        announced = self.world.announce(committee=chosen.hash)
        self.refused_by_vehicle("randomness draws", committee=chosen, announced=announced)

    def test_a_server_without_the_aggregators_certificate(self):
        own = Ed25519PrivateKey.generate()
        for role, ca in ((Role.AGGREGATOR, own), (Role.VEHICLE, None)):
            shown = certificate(role, 1, own, ca) if ca else certificate(role, 1, own)
            self.refused_by_vehicle(
                "does not hold|not for", announced=announce(self.world.announced, shown, own)
            )


class TestSmallCohorts(Case):
    """Sums of few, and two sums that differ in one."""

    def test_a_list_below_n_min(self):
        server, lists = self.opened_by_all()
        everybody = once.decode_list(lists[1])
        with pytest.raises(VehicleError, match="n_min is 3"):
            member.on_list(self.world.nodes[1], self.world.state[1], once.encode_list(everybody[:2]))

    def test_an_announcement_below_the_policy(self):
        self.refused_by_vehicle("the policy is 3", announced=self.world.announce(n_min=2))
        self.world.announced = self.world.announce(n_min=2)
        with pytest.raises(VehicleError, match="the policy is 3"):
            self.world.joined(1)

    def test_the_server_voids_a_round_of_too_few(self):
        with pytest.raises(RoundError, match="fewer than n_min = 3: void"):
            self.world.contributed([0, 1]).proposals()

    def test_differencing_a_list_and_its_twin(self):
        server, lists = self.opened_by_all()
        node, state = self.world.nodes[1], self.world.state[1]
        everybody = once.decode_list(lists[1])
        signed, _ = member.on_list(node, state, lists[1])
        for again in (state, signed):
            with pytest.raises(VehicleError, match="signed another list"):
                member.on_list(node, again, once.encode_list(everybody[1:]))

    def test_the_same_round_id_announced_twice(self):
        server, lists = self.opened_by_all()
        member.on_list(self.world.nodes[1], self.world.state[1], lists[1])
        twin = World(Protocol.ONE_SHOT, 4, 20, n_min=3)
        twin.nodes, twin.committee = self.world.nodes, self.world.committee
        twin.announced = twin.announce(deadline=NOW + 99)
        server = twin.contributed()
        lists = twin.proposed(server, [1])
        with pytest.raises(VehicleError, match="signed another list"):
            twin.approved(server, lists, [1])


class TestEquivocation(Case):
    """Two lists for one round."""

    def test_two_quorums_cannot_be_had(self):
        """The corrupt sign both lists, the honest one each: at most one list has a quorum."""
        sizes = SMALL
        honest = sizes.members - sizes.corrupt
        for first in range(honest + 1):
            one, two = first + sizes.corrupt, honest - first + sizes.corrupt
            assert not (one >= sizes.quorum and two >= sizes.quorum)

    def test_the_promise_is_on_disk_before_the_signature(self, tmp_path):
        server, lists = self.opened_by_all()
        path = tmp_path / "journal"
        node = replace(self.world.nodes[1], journal=FileJournal(path))
        member.on_list(node, self.world.state[1], lists[1])
        restarted = replace(node, journal=FileJournal(path))
        fewer = once.encode_list(once.decode_list(lists[1])[1:])
        with pytest.raises(VehicleError, match="signed another list"):
            member.on_list(restarted, self.world.state[1], fewer)
        member.on_list(restarted, self.world.state[1], lists[1])  # the same list again is fine

    def test_no_signature_where_the_disk_refuses(self):
        class Full:
            def get(self, name):
                return None

            def bind(self, name, value):
                raise RunError("disk full")

        server, lists = self.opened_by_all()
        node = replace(self.world.nodes[1], journal=Full())
        with pytest.raises(RunError):
            member.on_list(node, self.world.state[1], lists[1])
        self.world.speakers[0] = replace(self.world.speakers[0], journal=Full())
        with pytest.raises(RunError):
            self.world.message(0)

    def test_a_certificate_for_another_list(self):
        server, certificates = self.certified()
        hashed, found = once.decode_certificate(certificates[1], 7)
        node, state = self.world.nodes[1], self.world.state[1]
        with pytest.raises(VehicleError, match="another list"):
            member.on_certificate(node, state, once.encode_certificate(b"x" * 32, found))
        with pytest.raises(VehicleError, match="before a list was signed"):
            member.on_certificate(node, self.world.joined(1), certificates[1])

    def test_bad_certificates(self):
        server, certificates = self.certified()
        hashed, found = once.decode_certificate(certificates[1], 7)
        node, state = self.world.nodes[1], self.world.state[1]
        few = dict(list(found.items())[:4])
        with pytest.raises(VehicleError, match="4 members signed; 5 must"):
            member.on_certificate(node, state, once.encode_certificate(hashed, few))
        swapped = {**found, 2: found[3]}
        with pytest.raises(VehicleError, match="does not hold"):
            member.on_certificate(node, state, once.encode_certificate(hashed, swapped))
        stranger = sign(Ed25519PrivateKey.generate(), *approval_form(self.world.announced, 2, hashed))
        with pytest.raises(VehicleError, match="does not hold"):
            member.on_certificate(node, state, once.encode_certificate(hashed, {**found, 2: stranger}))
        doubled = certificates[1] + certificates[1][-66:]
        with pytest.raises(VehicleError):
            member.on_certificate(node, state, doubled)

    def test_a_release_is_given_once_and_nothing_is_kept(self):
        server, certificates = self.certified()
        node = self.world.nodes[1]
        state, _ = member.on_certificate(node, self.world.state[1], certificates[1])
        assert not state.opened
        with pytest.raises(VehicleError, match="twice"):
            member.on_certificate(node, state, certificates[1])


class TestReplay(Case):
    """Old messages in new rounds."""

    def test_an_old_message_in_a_new_round(self):
        data = self.world.message(0)
        self.world.announced = self.world.announce(round_id=b"s" * 16)
        with pytest.raises(VehicleError, match="another round"):
            self.world.server().contribute(self.world.speakers[0].vehicle, data)

    def test_old_shares_with_a_new_header(self):
        """The share is sealed for the header's fields: with another vector or round it does not open."""
        old = once.decode_contribution(self.world.message(0), self.world.announced, 7, PART)
        self.world.speakers[0] = replace(self.world.speakers[0], journal=type(self.world.nodes[1].journal)())
        new = once.decode_contribution(self.world.message(0), self.world.announced, 7, PART)
        header = once.sign_header(new.header.core, old.sealed, self.world.speakers[0].key)
        self.world.messages[self.world.speakers[0].vehicle] = once.Contribution(
            header, old.sealed, new.vector
        ).encode()
        server = self.world.contributed()
        _, word = self.propose(self.entries(server))
        assert once.decode_complaint(word).vehicles == (self.world.speakers[0].vehicle,)

    def test_a_vehicle_speaks_once_in_a_round_even_after_a_restart(self, tmp_path):
        path = tmp_path / "journal"
        self.world.speakers[0] = replace(self.world.speakers[0], journal=FileJournal(path))
        self.world.message(0)
        self.world.speakers[0] = replace(self.world.speakers[0], journal=FileJournal(path))
        self.refused_by_vehicle("has spoken")

    def test_a_message_twice(self):
        server = self.world.contributed()
        one = self.world.speakers[0].vehicle
        with pytest.raises(VehicleError, match="repeated"):
            server.contribute(one, self.world.messages[one])

    def test_after_the_deadline(self):
        self.refused_by_vehicle("was over", now=NOW + 101)


class TestWithholding(Case):
    """Members that do not answer."""

    @pytest.mark.parametrize(("leaving", "step"), [(2, 0), (2, 1), (2, 2)])
    def test_as_many_as_planned_may(self, leaving, step):
        _, opened = play(self.world, range(4), dict.fromkeys(range(1, leaving + 1), step))
        error = self.world.signed(opened.total) - self.world.plain(opened.vehicles)
        assert np.abs(error).max() <= 8 * 4 * 2

    @pytest.mark.parametrize("step", [0, 1, 2])
    def test_one_more_voids_the_round_and_r_is_never_lowered(self, step):
        with pytest.raises(RoundError, match="4 members (signed|released)"):
            play(self.world, range(4), dict.fromkeys((1, 2, 3), step))

    def test_a_member_that_complains_about_everybody_is_set_aside(self):
        server = self.world.contributed()
        proposals_ = server.proposals()
        for point in range(1, 8):
            state, word = member.on_proposal(
                self.world.nodes[point], self.world.joined(point), proposals_[point], LATER
            )
            if point == 1:
                liar = replace(self.world.nodes[1], trust=Trust(bytes(32)))
                state, word = member.on_proposal(liar, self.world.joined(1), proposals_[1], LATER)
            self.world.state[point] = state
            server.complain(point, word)
        lists = server.lists()
        assert server.gathering.set_aside == {1}
        assert len(server.gathering.headers) == 4
        assert 1 not in lists


class TestBadShares(Case):
    """Members and vehicles that share or release wrongly."""

    def releases(self, wrong):
        server, certificates = self.certified()
        for point in range(1, 8):
            node, state = self.world.nodes[point], self.world.state[point]
            if point in wrong:
                forged = {v: bytes(len(share)) for v, share in state.opened.items()}
                state = replace(state, opened=forged)
            _, data = member.on_certificate(node, state, certificates[point])
            server.release(point, data)
        return server

    def test_a_lying_member_is_found_and_the_sum_stands(self):
        opened = self.releases({3}).sum()
        assert opened.liars == {3}
        error = self.world.signed(opened.total) - self.world.plain(opened.vehicles)
        assert np.abs(error).max() <= 8 * 4 * 2

    def test_too_many_liars_void_the_round(self):
        with pytest.raises(RoundError, match="cannot be opened|no sum of 4 keys"):
            self.releases({2, 3}).sum()

    def test_a_share_that_does_not_open_is_complained_about(self):
        vehicle = self.world.speakers[2].vehicle
        self.world.messages[vehicle] = reseal(self.world, self.world.message(2), wrong=1)
        server, lists = self.opened_by_all()
        assert vehicle not in once.decode_list(lists[1])
        assert server.gathering.refused == {vehicle: 1}

    def test_a_key_that_is_no_key_voids_the_round(self, monkeypatch):
        """A vehicle that shares numbers far above eta shows in the sum of the keys."""
        from carpool.privacy.secagg import oneshot_vehicle

        monkeypatch.setattr(oneshot_vehicle.rlwe, "fresh_key", lambda: np.full(rlwe.N, 1000, np.int64))
        self.world.messages[self.world.speakers[0].vehicle] = self.world.message(0)
        monkeypatch.undo()
        with pytest.raises(RoundError, match="no sum of 4 keys"):
            play(self.world, range(4), {})

    def test_a_release_outside_of_the_field(self):
        server, certificates = self.certified()
        payload = np.full(share_size(SMALL) // 4, P, "<u4").tobytes()
        from carpool.privacy.secagg.once_member import release_form

        digest = once.hashlib.sha256(payload).digest()
        form = release_form(self.world.announced, 1, server.gathering.list_hash, digest)
        with pytest.raises(VehicleError, match="outside of the field"):
            server.release(1, once.encode_release(payload, sign(self.world.nodes[1].key, *form)))


class TestTampering(Case):
    """The network: bits flipped, messages cut, swapped, or out of order."""

    def test_every_flipped_bit_of_a_message_is_noticed(self):
        data = self.world.message(0)
        vehicle = self.world.speakers[0].vehicle
        server = self.world.server()
        for at in [*range(0, 400, 9), *range(400, len(data) - 80, 811), *range(len(data) - 80, len(data), 7)]:
            damaged = data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :]
            with pytest.raises(VehicleError):
                server.contribute(vehicle, damaged)
        assert not server.gathering.total.any()
        server.contribute(vehicle, data)

    def test_cut_and_lengthened_messages(self):
        data = self.world.message(0)
        for bad in (b"", data[:100], data[:-1], data + b"\0"):
            with pytest.raises(VehicleError):
                self.world.server().contribute(self.world.speakers[0].vehicle, bad)

    def test_messages_out_of_turn(self):
        server, certificates = self.certified()
        one = self.world.speakers[0].vehicle
        with pytest.raises(VehicleError, match="out of turn"):
            server.contribute(one, self.world.messages[one])
        with pytest.raises(RoundError, match="in order"):
            server.proposals()
        with pytest.raises(RoundError, match="in order"):
            server.lists()

    def test_a_part_that_the_vehicle_did_not_sign(self):
        """A part that opens, but is not under the header's tree: the vehicle told two stories."""
        entries = list(self.entries(self.world.contributed()))
        one = entries[0]
        tree = bytes(32)
        parts = [one.header.core, tree]
        key = self.world.speakers[0].key
        resigned = once.Header(one.header.core, tree, sign(key, "carpool/once/contribution", 1, parts))
        for bad in (replace(one, header=resigned), replace(one, path=(bytes(32), *one.path[1:]))):
            state, word = self.propose([bad, *entries[1:]])
            assert once.decode_complaint(word).vehicles == (self.world.speakers[0].vehicle,)
            assert self.world.speakers[0].vehicle not in state.opened

    def test_another_members_part(self):
        server = self.world.contributed()
        proposals_ = server.proposals()
        state, word = member.on_proposal(self.world.nodes[2], self.world.joined(2), proposals_[1], LATER)
        assert len(once.decode_complaint(word).vehicles) == 4
        assert not state.opened

    @settings(max_examples=60, deadline=None)
    @given(st.binary(max_size=300))
    def test_noise_is_no_message(self, data):
        decoders = (
            lambda d: once.decode_proposal(d, Protocol.ONE_SHOT, PART, 3),
            once.decode_complaint,
            once.decode_list,
            once.decode_approval,
            lambda d: once.decode_certificate(d, 7),
            lambda d: once.decode_request(d, 3),
            lambda d: once.decode_release(d, 200),
            lambda d: once.decode_header(d, Protocol.HELPERS),
            lambda d: once.decode_contribution(d, World(Protocol.ONE_SHOT, 0).announced, 7, PART),
        )
        for decode_one in decoders[:-1]:
            for kind in range(10):
                try:
                    decode_one(bytes((1, kind)) + data)
                except VehicleError:
                    continue


class TestWrapAround(Case):
    """Numbers too large for the sum."""

    @pytest.mark.parametrize("sign_", [1, -1])
    def test_a_number_at_q_passes_and_one_step_more_does_not(self, sign_):
        limit = self.world.levels
        vector = self.world.vector(0)
        vector[3] = np.uint32(sign_ * limit & 0xFFFFFFFF)
        self.world.message(0, vector=vector)
        vector[3] = np.uint32(sign_ * (limit + 1) & 0xFFFFFFFF)
        self.world.speakers[0] = replace(self.world.speakers[0], journal=type(self.world.nodes[1].journal)())
        self.refused_by_vehicle("1001 steps", vector=vector)

    def test_a_configuration_that_could_wrap(self):
        self.refused_by_vehicle("wrap in 32 bits", announced=self.world.announce(levels=2**30))

    def test_a_vehicle_that_adds_too_much_voids_the_round(self, monkeypatch):
        from carpool.privacy.secagg import once_vehicle

        monkeypatch.setattr(once_vehicle, "largest", lambda vector, bits: 0)
        vector = self.world.vector(0)
        vector[3] = 2**30
        self.world.messages[self.world.speakers[0].vehicle] = self.world.message(0, vector=vector)
        monkeypatch.undo()
        with pytest.raises(RoundError, match="too far for 4 vehicles"):
            play(self.world, range(4), {})


class TestChosenMatrix(Case):
    """a = 0 would be no mask at all."""

    def test_nothing_that_the_server_sends_carries_a(self):
        fields = set(vars(self.world.announced)) | set(vars(self.world.committee))
        assert not fields & {"a", "seed", "matrix"}
        one = rlwe.ring_seed(self.world.announced.round_id, 32)
        assert one != rlwe.ring_seed(b"s" * 16, 32)

    def test_the_mask_covers_even_a_vector_of_zeros(self):
        one = once.decode_contribution(
            self.world.message(0, vector=np.zeros(20, np.uint32)), self.world.announced, 7, PART
        )
        assert (np.abs(unpack(one.vector, 32).view(np.int32).astype(np.int64)) > 1000).mean() > 0.9


class TestSeeds(Case):
    """Fresh keys for every message."""

    def test_two_messages_have_nothing_in_common(self):
        seen = []
        for _ in range(2):
            self.world.speakers[0] = replace(
                self.world.speakers[0], journal=type(self.world.nodes[1].journal)()
            )
            seen.append(once.decode_contribution(self.world.message(0), self.world.announced, 7, PART))
        assert seen[0].header.public != seen[1].header.public
        assert not set(seen[0].sealed) & set(seen[1].sealed)
        difference = unpack(seen[0].vector, 32) - unpack(seen[1].vector, 32)
        assert (np.abs(difference.view(np.int32).astype(np.int64)) > 1000).all()

    def test_a_members_key_of_another_node_opens_nothing(self):
        server = self.world.contributed()
        stolen = replace(self.world.nodes[1], sealing=self.world.nodes[2].sealing)
        self.world.nodes[1] = Node(**vars(stolen))
        state, word = self.propose(self.entries(server))
        assert len(once.decode_complaint(word).vehicles) == 4
