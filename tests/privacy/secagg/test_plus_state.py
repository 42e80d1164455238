"""A vehicle's state over restarts: the same sum, nothing kept that is not needed, no hostile bytes taken."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carpool.privacy.errors import VehicleError
from carpool.privacy.secagg import plus_vehicle as pv
from carpool.privacy.secagg.journal import FileJournal
from carpool.privacy.secagg.plus_state import Phase
from tests.privacy.secagg.fleet import Given, Round, announced, members, plain

TERMS = Given(2, 0.05, 0.4, "curious")


def played(n=5, extras=2, trips=1, leaves=0):
    fleet = members(n, 6, terms=replace(TERMS, extras=extras))
    gone = {one.vehicle: 2 for one in fleet[1 : 1 + leaves]}
    Round(fleet, announced(6)).until(trips, gone)
    return fleet


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(st.integers(4, 7), st.integers(0, 16), st.integers(1, 5), st.integers(0, 1))
def test_a_state_survives_its_bytes_in_every_phase(n, extras, trips, leaves):
    for one in played(n, extras, trips, leaves):
        state = one.state
        assert state.phase == Phase(trips) or leaves
        data = pv.dump(state)
        assert pv.load(data) == state
        assert pv.dump(pv.load(data)) == data


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.integers(4, 6), st.data())
def test_vehicles_restarted_between_any_two_steps_give_the_same_sum(tmp_path_factory, n, data):
    """Whoever restarts has its saved state and its journal's file, nothing else."""
    folder = tmp_path_factory.mktemp("journals")
    fleet = members(n, 6, terms=replace(TERMS, extras=2))
    for one in fleet:
        one.journal = FileJournal(folder / str(one.vehicle))
    round_ = Round(fleet, announced(6))
    gone = {fleet[0].vehicle: data.draw(st.sampled_from([2, 3, 9]))} if n > 4 else {}
    for _ in range(5):
        round_.advance(gone)
        for one in fleet:
            if data.draw(st.booleans()):
                one.state = pv.load(pv.dump(one.state))
                one.journal = FileJournal(folder / str(one.vehicle))
    np.testing.assert_array_equal(round_.server.sum(), plain(fleet, round_.server.masked))
    assert len(round_.server.masked) == n - (gone.get(fleet[0].vehicle) == 2)


def test_secrets_are_there_as_long_as_they_are_needed():
    fleet = members(5, 6, terms=replace(TERMS, extras=2))
    round_ = Round(fleet, announced(6)).until(2)
    one = fleet[0]
    state = one.state
    own = (state.sealing_key, state.agreement_key, state.seed, *state.extras)
    assert [len(secret) for secret in own] == [32, 32, 16, 16, 16]
    assert all(secret in pv.dump(state) for secret in own)
    round_.until(3)
    others = [row for _, row in one.state.shared]
    assert [len(row) for row in others] == [32 + 64 + 2 * 32] * 4
    for trips, needed in ((3, True), (4, True), (5, False)):
        round_.until(trips)
        data = pv.dump(one.state)
        assert not any(secret in data for secret in own)
        assert all(row in data for row in others) is needed


def sealed_again(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


@pytest.mark.parametrize("trips", [1, 2, 3, 4, 5])
def test_a_damaged_state_is_refused(trips):
    data = pv.dump(played(trips=trips)[0].state)
    for cut in (0, 1, 31, 32, 33, 60, len(data) // 2, len(data) - 1):
        with pytest.raises(VehicleError, match="damaged"):
            pv.load(data[:cut])
    for at in range(0, len(data), 37):
        with pytest.raises(VehicleError, match="damaged"):
            pv.load(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
    for more in (data + b"\0", b"\0" + data):
        with pytest.raises(VehicleError, match="damaged"):
            pv.load(more)


@pytest.mark.parametrize("trips", [1, 2, 3, 4, 5])
def test_sizes_and_phases_that_do_not_fit_are_refused(trips):
    """With the right hash; before anything of the size that they claim is made."""
    body = pv.dump(played(trips=trips)[0].state)[:-32]
    assert pv.load(sealed_again(body)).phase == trips
    for cut in range(len(body) - 1, 40, -61):
        with pytest.raises(VehicleError):
            pv.load(sealed_again(body[:cut]))
    odd = [(0, (0, 2, 255)), (1, {0, 1, 2, 3, 4, 5, 6} - {trips}), (26, (17, 255))]
    for at, values in (*odd, *((count, (body[count] ^ 1, 255)) for count in range(27, 47))):
        for value in values:
            with pytest.raises(VehicleError):
                pv.load(sealed_again(body[:at] + bytes([value]) + body[at + 1 :]))


def test_parts_that_do_not_fit_each_other_are_refused():
    states = {phase: played(trips=phase)[0].state for phase in Phase}
    graph = states[Phase.SHARED].graph
    stranger = 1 << 40
    changes = {
        Phase.BEGUN: [{"point": 1}, {"roster_size": 5}, {"counted": (1,)}, {"roster": (1,)}],
        Phase.SHARED: [
            {"point": 0},
            {"point": 6},
            {"roster_size": 6},
            {"roster": states[Phase.SHARED].roster[1:], "roster_size": 4, "graph": replace(graph, n=4)},
            {"roster": (*states[Phase.SHARED].roster[1:], stranger)},
            {"roster": states[Phase.SHARED].roster[::-1]},
            {"near": states[Phase.SHARED].near[1:]},
            {"near": states[Phase.SHARED].near[::-1]},
            {"graph": replace(graph, threshold=1)},
            {"graph": replace(graph, threshold=5)},
            {"graph": replace(graph, degree=3)},
            {"vehicle": states[Phase.SHARED].near[0].vehicle},
            {"counted": states[Phase.SHARED].roster},
        ],
        Phase.MASKED: [
            {"shared": states[Phase.MASKED].shared[:1]},
            {"shared": ((0, states[Phase.MASKED].shared[0][1]), *states[Phase.MASKED].shared[1:])},
            {"shared": ()},
            {"counted": states[Phase.MASKED].roster},
        ],
        Phase.SIGNED: [
            {"counted": ()},
            {"counted": (1, 2)},
            {"counted": (*states[Phase.SIGNED].counted, stranger)},
            {"roster": states[Phase.MASKED].roster},
            {"shared": ()},
        ],
        Phase.OPENED: [
            {"counted": ()},
            {"roster_size": 4},
            {"near": states[Phase.SIGNED].near},
            {"shared": states[Phase.SIGNED].shared},
        ],
    }
    taken = []
    for phase, change in ((phase, change) for phase, rows in changes.items() for change in rows):
        try:
            pv.load(pv.dump(replace(states[phase], **change)))
        except VehicleError:
            continue
        taken.append((phase.name, sorted(change)))
    assert not taken


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([1, 2, 3, 4, 5]))
def test_noise_is_no_state(data, phase):
    for body in (data, bytes((1, phase)) + data):
        with pytest.raises(VehicleError):
            pv.load(sealed_again(body))


def test_a_state_of_a_round_of_another_protocol():
    from carpool.privacy.secagg.announcement import Protocol

    state = played()[0].state
    odd = replace(state, announced=replace(state.announced, protocol=Protocol.HELPERS))
    with pytest.raises(VehicleError, match="do not fit"):
        pv.load(pv.dump(odd))
