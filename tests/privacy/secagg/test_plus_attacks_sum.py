"""The table of attacks on secagg+, second half: from sealed shares to the sum. See test_plus_attacks.py."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from carpool.privacy import signing
from carpool.privacy.errors import RoundError, VehicleError
from carpool.privacy.secagg import messages as m
from carpool.privacy.secagg import plus_keys as keys
from carpool.privacy.secagg import plus_vehicle as pv
from carpool.privacy.secagg import shamir
from carpool.privacy.secagg.journal import FileJournal
from carpool.privacy.secagg.plus_server import PlusServer
from tests.privacy.secagg.fleet import (
    NOW,
    TRUST,
    announced,
    members,
    plain,
)
from tests.privacy.secagg.plus_case import TERMS, Case


class TestShares(Case):
    """Sealed shares, and vectors that would be masked twice."""

    def test_swapped_shares(self):
        answers = self.until(2)
        self.refuses("no neighbours|cannot be opened", 2, answers[self.other.vehicle])

    def test_own_key(self):
        """A vehicle is never its own neighbour: it takes no share of its own secrets, nor gives one."""
        answers = self.until(2)
        sealed = m.decode_sealed(answers[self.one.vehicle])
        own = {**sealed, self.one.vehicle: next(iter(sealed.values()))}
        self.refuses("no neighbours", 2, m.encode_sealed(own))
        answers = self.round.until(4).answers
        shares = m.decode_shares(self.one.on(4, answers[self.one.vehicle]))
        assert self.one.vehicle not in {*shares.seeds, *shares.keys}

    def test_under_threshold_of_shares(self):
        sealed = m.decode_sealed(self.until(2)[self.one.vehicle])
        self.refuses("only 2", 2, m.encode_sealed(dict(list(sealed.items())[:2])))

    def test_tampered_shares(self):
        data = bytearray(self.until(2)[self.one.vehicle])
        data[-1] ^= 1
        self.refuses("cannot be opened", 2, bytes(data))

    def test_shares_for_another_place(self):
        data = self.until(2)[self.one.vehicle]
        moved = replace(self.one.state, point=self.one.state.point % 5 + 1)
        self.refuses("another place", 2, data, moved)

    def test_another_number_of_extra_seeds(self):
        data = bytearray(self.until(2)[self.one.vehicle])
        data[2] = 1
        self.refuses("0 extra seeds are expected", 2, bytes(data))

    def test_a_second_masked_vector(self):
        """Under fewer masks, or of another vector: refused also after a restart from the state before."""
        data = self.until(2)[self.one.vehicle]
        state = self.one.state
        first = self.one.on(2, data)
        self.refuses("out of turn", 2, data)
        fewer = m.encode_sealed(dict(list(m.decode_sealed(data).items())[:3]))
        self.refuses("before .masked", 2, fewer, state)
        assert self.one.on(2, data, state) == first  # the very same may be sent again
        self.one.vector = self.one.vector + np.uint32(1)
        self.refuses("before .masked", 2, data, state)

    def test_the_range_of_a_vector_has_room_for_its_noise(self):
        assert announced(8, 3, levels=1000, noise=400).limit == 1000 + 10 * 20 + 30
        self.facts = announced(8, 3, levels=1000, noise=400)
        data = self.until(2)[self.one.vehicle]
        self.one.vector = np.full(8, 1231, np.uint32)
        self.refuses("at most 1230 do not wrap", 2, data)
        self.one.vector = np.full(8, 1230, np.uint32)
        self.one.on(2, data)

    def test_a_vector_that_would_wrap_the_sum(self):
        data = self.until(2)[self.one.vehicle]
        for far in (20_000_001, -20_000_001):
            self.one.vector = np.array([far] + [0] * 7, np.int64).astype(np.uint32)
            self.refuses("do not wrap", 2, data)
        for vector in (np.zeros(7, np.uint32), np.zeros(8, np.int64)):
            self.one.vector = vector
            self.refuses("announced are uint32", 2, data)
        self.one.vector = np.array([20_000_000, -20_000_000] + [0] * 6, np.int64).astype(np.uint32)
        self.one.on(2, data)


class TestLists(Case):
    """Who is in the sum: equivocation, small sums, vehicles that do not exist."""

    def test_equivocation_over_who_left(self):
        """Two lists: neither vehicle finds enough signatures of its neighbours over its own."""
        self.until(3)
        everybody = sorted(self.round.server.masked)
        signatures = {}
        for place, one in enumerate(self.fleet):
            shown = everybody if place < 2 else [v for v in everybody if v != self.one.vehicle]
            signatures |= m.decode_signatures(one.on(3, m.encode_list(shown)))
        for one in self.fleet[:2]:
            near = {v: s for v, s in signatures.items() if v != one.vehicle}
            self.refuses("does not hold", 4, m.encode_signatures(near), one=one)

    def test_overlap(self):
        """A second list, by which both shares of somebody would be given: refused, restarted or not."""
        data = self.until(3)[self.one.vehicle]
        state = self.one.state
        first = self.one.on(3, data)
        fewer = m.encode_list(m.decode_list(data)[:-1])
        self.refuses("out of turn", 3, fewer)
        self.refuses("before .signed", 3, fewer, state)
        assert self.one.on(3, data, state) == first

    def test_overlap_of_the_answer(self):
        gone = {self.other.vehicle: 2}
        answers = self.until(4, gone)
        shares = m.decode_shares(self.one.on(4, answers[self.one.vehicle]))
        assert not set(shares.seeds) & set(shares.keys)
        assert set(shares.keys) == {self.other.vehicle}
        assert set(shares.seeds) == {one.vehicle for one in self.fleet[2:]}

    def test_a_list_without_oneself_or_too_short_or_long(self):
        everybody = list(m.decode_list(self.until(3)[self.one.vehicle]))
        without = [v for v in everybody if v != self.one.vehicle]
        for bad in (without, everybody[:2], [*everybody, *range(10**6, 10**6 + 96)]):
            self.refuses("n_min is 3", 3, m.encode_list(bad))

    def test_a_list_made_long_by_vehicles_that_do_not_exist(self):
        everybody = list(m.decode_list(self.until(3)[self.one.vehicle]))
        self.refuses("not in the roster", 3, m.encode_list([*everybody[:2], 10**6]))

    def test_a_neighbour_in_the_sum_whose_mask_is_not_in_the_vector(self):
        sealed = m.decode_sealed(self.until(2)[self.one.vehicle])
        hidden = max(sealed)
        self.one.on(2, m.encode_sealed({v: blob for v, blob in sealed.items() if v != hidden}))
        everybody = sorted(one.vehicle for one in self.fleet)
        self.refuses("no shares came", 3, m.encode_list(everybody))

    def test_under_threshold_in_the_list(self):
        everybody = list(m.decode_list(self.until(3)[self.one.vehicle]))
        self.refuses("only 2 neighbours are in the sum", 3, m.encode_list(everybody[:3]))


class TestOpening(Case):
    """The only step that reveals anything."""

    def test_second_request(self):
        data = self.until(4)[self.one.vehicle]
        self.one.on(4, data)
        self.refuses("twice", 4, data)
        assert self.one.state.shared == ()

    def test_second_request_after_a_restart(self, tmp_path):
        """The state from before the answer is restored, and the very same is asked: refused."""
        path = tmp_path / "journal"
        for one in self.fleet:
            one.journal = FileJournal(path.with_suffix(f".{one.vehicle}"))
        data = self.until(4)[self.one.vehicle]
        saved = pv.dump(self.one.state)
        self.one.on(4, data)
        self.one.journal = FileJournal(path.with_suffix(f".{self.one.vehicle}"))
        self.refuses("before .opened", 4, data, pv.load(saved))

    def test_the_journal_is_written_before_the_answer(self):
        data = self.until(4)[self.one.vehicle]
        state, bound = self.one.state, []

        class Full:
            def get(self, name):
                return None

            def bind(self, name, value):
                bound.append((name, value))
                raise RuntimeError("disk full")

        self.one.journal = Full()
        with pytest.raises(RuntimeError, match="disk full"):
            self.one.on(4, data)
        assert bound == [(b"r" * 16 + b"opened", keys.list_hash(self.facts, state.counted))]

    def test_under_threshold_of_signatures(self):
        found = m.decode_signatures(self.until(4)[self.one.vehicle])
        self.refuses("2 neighbours signed", 4, m.encode_signatures(dict(list(found.items())[:2])))

    def test_signatures_of_strangers(self):
        found = m.decode_signatures(self.until(4)[self.one.vehicle])
        self.refuses("are no neighbours", 4, m.encode_signatures({**found, 1 << 40: bytes(64)}))

    def test_signatures_of_who_is_not_in_the_sum(self):
        found = m.decode_signatures(self.until(4, {self.other.vehicle: 2})[self.one.vehicle])
        parts = [keys.list_hash(self.facts, self.one.state.counted)]
        forged = signing.sign(self.other.key, "carpool/secagg+/consistent", keys.VERSION, parts)
        more = m.encode_signatures({**found, self.other.vehicle: forged})
        self.refuses("not in the sum", 4, more)

    def test_more_noise_than_the_policy_takes_off_is_never_opened(self):
        """The server cannot ask: what is revealed follows from the list and the vehicle's own policy."""
        terms = replace(TERMS, extras=2)
        self.fleet = members(10, 8, terms=terms)
        self.one, self.other = self.fleet[:2]
        answers = self.until(4, {self.other.vehicle: 2})
        state = self.one.state
        data = self.one.on(4, answers[self.one.vehicle])
        assert m.decode_shares(data, 1).revealed == 1  # losses: 1; levels at 0, 2, 3
        for one in self.fleet[2:]:
            self.round.server.open(one.vehicle, one.on(4, answers[one.vehicle]))
        with pytest.raises(VehicleError, match="1 revealed seeds are expected, not of 2"):
            self.round.server.open(self.one.vehicle, data[:10] + b"\x02" + data[11:])
        self.one.journal, self.one.policy = copy.deepcopy(self.fleet[2].journal), replace(terms, extras=1)
        self.refuses("policy has changed", 4, answers[self.one.vehicle], state)

    def test_no_secret_is_printed(self):
        self.until(2)
        state = self.one.state
        for secret in (state.seed, state.agreement_key, state.sealing_key):
            for shown in (repr(state), repr(self.one.participant)):
                assert secret.hex() not in shown
                assert repr(secret) not in shown
        assert repr(self.one.key) not in repr(self.one.participant)


class TestVehiclesAsAdversaries(Case):
    """What the server refuses: the vehicle is out, the sum stays right, or the round is void."""

    def test_a_tampered_vector(self):
        answers, server = self.until(2), self.round.server
        data = self.one.on(2, answers[self.one.vehicle])
        for at in (2, 70, len(data) - 1):
            damaged = bytearray(data)
            damaged[at] ^= 1
            with pytest.raises(VehicleError):
                server.mask(self.one.vehicle, bytes(damaged))
        server.mask(self.one.vehicle, data)
        with pytest.raises(VehicleError, match="repeated"):
            server.mask(self.one.vehicle, data)

    def test_keys_that_no_neighbour_could_use(self):
        """A point of small order, well signed: taken up, it would stop every neighbour."""
        one = m.decode_advertisement(self.one.begin(self.facts))
        for weak in (bytes(32), b"\x01" + bytes(31), b"\xec" + b"\xff" * 31):
            for sealing, agreement in ((weak, one.agreement), (one.sealing, weak)):
                parts = [keys.context(self.facts), sealing, agreement]
                signature = signing.sign(self.one.key, "carpool/secagg+/keys", keys.VERSION, parts)
                odd = replace(one, sealing=sealing, agreement=agreement, signature=signature)
                server = PlusServer(self.facts, TERMS, TRUST, lambda: NOW + 1)
                with pytest.raises(VehicleError, match="small order"):
                    server.advertise(self.one.vehicle, odd.encode())

    @pytest.mark.parametrize("trip", [1, 2, 3, 4])
    def test_duplicates_and_impostors(self, trip):
        answers, server = self.until(trip), self.round.server
        take = (server.advertise, server.share, server.mask, server.sign, server.open)[trip]
        data = self.one.on(trip, answers[self.one.vehicle])
        with pytest.raises(VehicleError):
            take(10**6, data)
        take(self.one.vehicle, data)
        with pytest.raises(VehicleError, match="repeated"):
            take(self.one.vehicle, data)

    def test_bad_shares_void_the_round(self):
        for which in ("seeds", "keys"):
            self.setup_method()
            gone = {self.fleet[4].vehicle: 2} if which == "keys" else {}
            answers, server = self.until(4, gone), self.round.server
            for place, one in enumerate(self.fleet[:4] if gone else self.fleet):
                shares = m.decode_shares(one.on(4, answers[one.vehicle]))
                if place == 0:
                    wrong = {v: bytes([s[0] ^ 1]) + s[1:] for v, s in getattr(shares, which).items()}
                    shares = replace(shares, **{which: wrong})
                server.open(one.vehicle, shares.encode())
            with pytest.raises(RoundError, match="do not agree"):
                server.sum()

    def test_a_seed_that_is_not_the_masks(self):
        """Shares of another seed agree with each other; what gives them away is the range of the sum."""
        self.until(1)
        odd = self.fleet[4]
        own, answers, server = odd.state, self.round.answers, self.round.server
        for one in self.fleet:
            data = one.on(1, answers[one.vehicle])
            if one is odd:
                wrong = replace(one.state, seed=b"\x01" * 16)
                data = seal_again(wrong, own, own.agreement_key, server._points)
            server.share(one.vehicle, data)
        self.round.trip, self.round.answers = 2, server.deliveries()
        self.round.until(5)
        with pytest.raises(RoundError, match="steps, 5 vehicles give 100000000 at most"):
            server.sum()

    def test_a_key_that_is_not_the_advertised_one(self):
        """Who shared another key than its own and left: found, not subtracted."""
        self.until(1)
        odd = self.fleet[4]
        data = self.round.answers[odd.vehicle]
        own = odd.state
        state, _ = pv.on_roster(odd.participant, own, data, NOW + 1)
        sealed = seal_again(state, own, b"\x01" * 32, self.round.server._points)
        for one in self.fleet[:4]:
            self.round.server.share(one.vehicle, one.on(1, self.round.answers[one.vehicle]))
        self.round.server.share(odd.vehicle, sealed)
        self.round.trip, self.round.answers = 2, self.round.server.deliveries()
        self.round.until(5, {odd.vehicle: 2})
        with pytest.raises(RoundError, match="not what it advertised"):
            self.round.server.sum()

    def test_too_few_open(self):
        self.until(5, {one.vehicle: 4 for one in self.fleet[:3]})
        with pytest.raises(RoundError, match="do not open 3"):
            self.round.server.sum()

    def test_the_others_sum_without_who_was_refused(self):
        answers, server = self.until(2), self.round.server
        for one in self.fleet:
            data = one.on(2, answers[one.vehicle])
            if one is self.one:
                with pytest.raises(VehicleError):
                    server.mask(one.vehicle, data[:-1] + bytes([data[-1] ^ 1]))
            else:
                server.mask(one.vehicle, data)
        self.round.trip, self.round.answers = 3, server.lists()
        self.round.until(5)
        np.testing.assert_array_equal(server.sum(), plain(self.fleet, server.masked))
        assert self.one.vehicle not in server.masked


def seal_again(state, own, key, points):
    """The sealed shares of a vehicle that shares another agreement key than it advertised."""
    private = X25519PrivateKey.from_private_bytes(own.sealing_key)
    rows = shamir.split(state.seed + key, 3, [points[one.vehicle] for one in state.near])
    sealed = {}
    for one, row in zip(state.near, rows, strict=True):
        cipher, about = keys.sealing(own.announced, private, one.sealing, state.vehicle, one.vehicle)
        plain_ = points[one.vehicle].to_bytes(8, "little") + row.tobytes()
        sealed[one.vehicle] = cipher.encrypt(bytes(12), plain_, about)
    return m.encode_sealed(sealed)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400))
def test_noise_is_no_message(data):
    """Truncated, reordered or made-up bytes raise VehicleError and nothing else."""
    for decoder in (
        m.decode_advertisement,
        m.decode_roster,
        m.decode_sealed,
        lambda d: m.decode_sealed(d, 2),
        lambda d: m.decode_masked(d, 10),
        lambda d: m.decode_masked(d, 10, 16),
        m.decode_list,
        m.decode_signatures,
        m.decode_shares,
        lambda d: m.decode_shares(d, 3),
    ):
        for kind in range(1, 8):
            try:
                decoder(bytes((m.VERSION, kind)) + data)
            except VehicleError:
                continue
