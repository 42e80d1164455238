"""Who lies in a masked round: it costs itself or the round, never the run, and no wrong model comes of it.

The refusals themselves are tested beside the protocols (tests/privacy/secagg); here is what a whole round
makes of them, on the real grid, with real agents and committee.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from carpool.experiments.asked import Asked
from carpool.privacy import signing
from carpool.privacy.errors import VehicleError
from carpool.privacy.secagg import announcement as ann
from carpool.privacy.secagg import messages as m
from carpool.privacy.secagg import once_vehicle, oneshot_vehicle, packed, plus_vehicle, shamir
from carpool.privacy.secagg.plus_keys import context
from carpool.privacy.wire import ANNOUNCED, decode_task, encode
from tests.experiments.masked_fleet import World, identities
from tests.experiments.test_masked_rounds import PROTOCOLS, adds_up

LIAR = 2
ONCE = PROTOCOLS[1:]


def flipped(data: bytes, at: int) -> bytes:
    """With one bit turned."""
    changed = bytearray(data)
    changed[at % len(data)] ^= 1
    return bytes(changed)


def without(world: World, monkeypatch: pytest.MonkeyPatch, gone: set[int], **facts: Any) -> Any:
    """A round in which everybody but these is in the sum; the outcome."""
    state, outcome = world.play(monkeypatch, **facts)
    rest = set(range(world.n)) - gone
    assert outcome.decision.counted, outcome.secagg["why"]
    assert set(outcome.usable) == {v + 1 for v in rest}
    [(total, count)] = world.sums[-1:]
    limit = 32 * np.sqrt(count) if world.protocol == "one-shot" else 0
    assert np.abs(world.apart(total, world.plain(rest, round_=facts.get("round_", 1)))).max() <= limit
    adds_up(world, outcome)
    return outcome


def void(world: World, monkeypatch: pytest.MonkeyPatch, why: str) -> Any:
    """A round that comes to nothing and says why; the model stays, nobody commits, the log has its end."""
    state, outcome = world.play(monkeypatch)
    assert not outcome.decision.counted
    assert why in outcome.secagg["why"], outcome.secagg["why"]
    assert outcome.usable == {}
    assert not state.params.any()
    adds_up(world, outcome)
    return outcome


# ---- a vehicle that lies ---------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1, 5, 100, 150, 200, -1])
def test_tampered_keys_cost_their_sender_alone(monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    world = World(6)
    world.veil.says = lambda v, trip, data: flipped(data, place) if (v, trip) == (LIAR, 1) else data
    outcome = without(world, monkeypatch, {LIAR})
    assert LIAR + 1 in outcome.refused


@pytest.mark.parametrize("kind", ["sealing", "agreement"])
def test_a_key_of_small_order_costs_its_sender_alone(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Signed by its vehicle, and of use to nobody: each neighbour would have to leave."""
    world, low = World(6), bytes.fromhex("ee" + "ff" * 30 + "ff")

    def says(vehicle: int, trip: int, data: bytes) -> bytes:
        if (vehicle, trip) != (LIAR, 1):
            return data
        one = replace(m.decode_advertisement(data), **{kind: low})
        announced = world.veil.agent(LIAR)._state.announced  # type: ignore[attr-defined]
        key, _ = identities().identity(LIAR + 1)
        parts = [context(announced), one.sealing, one.agreement]
        signed = signing.sign(key, "carpool/secagg+/keys", m.VERSION, parts)
        return replace(one, signature=signed).encode()

    world.veil.says = says
    outcome = without(world, monkeypatch, {LIAR})
    assert "small order" in outcome.refused[LIAR + 1]
    for point in (bytes(32), b"\1" + bytes(31), low):
        with pytest.raises(ValueError, match=r".+"):
            X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(point))


@pytest.mark.parametrize("place", [3, 20, 80, -1])
def test_a_tampered_vector_is_not_added(monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    """Its sender has shared its secrets: the others' masks for it are taken off again."""
    world = World(6)
    world.veil.says = lambda v, trip, data: flipped(data, place) if (v, trip) == (LIAR, 3) else data
    outcome = without(world, monkeypatch, {LIAR})
    assert outcome.secagg["dropped"]["mask"] == 1


@pytest.mark.parametrize("trip", [2, 4, 5])
def test_noise_in_place_of_a_later_answer(monkeypatch: pytest.MonkeyPatch, trip: int) -> None:
    world = World(6)
    world.veil.says = lambda v, t, data: b"\0" * len(data) if (v, t) == (LIAR, trip) else data
    outcome = without(world, monkeypatch, {LIAR} if trip == 2 else set())
    assert LIAR + 1 in outcome.refused


@pytest.mark.parametrize("trip", [1, 2, 3, 4, 5])
def test_a_message_of_an_earlier_round_or_of_another_vehicle(
    monkeypatch: pytest.MonkeyPatch, trip: int
) -> None:
    """Its own sealed or opened shares of a round before fit nobody's: with them the round is void."""
    for other in (LIAR, LIAR + 1):
        world = World(6)
        first, _ = world.play(monkeypatch, 1)
        known = dict(world.veil.said)

        def says(v: int, t: int, data: bytes, known: Any = known, other: int = other) -> bytes:
            return known[other, trip] if (v, t) == (LIAR, trip) else data

        world.veil.says = says
        if other == LIAR and trip in (2, 5):
            state, outcome = world.play(monkeypatch, 2, first)
            assert not outcome.decision.counted
            assert state is first
            assert "cannot be opened" in outcome.secagg["why"] or "0 masked vectors" in outcome.secagg["why"]
            continue
        outcome = without(world, monkeypatch, {LIAR} if trip <= 3 else set(), round_=2)
        assert LIAR + 1 in outcome.refused


def test_shares_that_do_not_agree_void_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    world, true = World(6, threshold=3), shamir.split

    def split(secret: bytes, *given: Any, **named: Any) -> Any:
        rows = true(secret, *given, **named)
        if world.veil.agents_asked == LIAR:  # type: ignore[attr-defined]
            rows = [np.asarray(row).copy() for row in rows]
            rows[0][0] = (int(rows[0][0]) + 1) % (2**31 - 1)
        return rows

    def hears(vehicle: int, trip: int, data: bytes) -> bytes:
        world.veil.agents_asked = vehicle  # type: ignore[attr-defined]
        return data

    world.veil.hears = hears
    monkeypatch.setattr(shamir, "split", split)
    outcome = void(world, monkeypatch, f"a secret of vehicle {LIAR + 1} cannot be opened: its shares do not")
    assert not outcome.secagg["released"]


def wrapped(world: World, monkeypatch: pytest.MonkeyPatch, change: Callable[[np.ndarray], None]) -> None:
    """Let the liar put what it likes under its mask: its own checks do not hold it."""
    true = world.veil._made

    def made(node: int) -> Any:
        agent = true(node)
        if node != LIAR + 1:
            return agent
        encoder = agent.encoder

        class Lying(type(encoder)):  # type: ignore[misc]
            def encoded(self, form: Any, *given: Any, **named: Any) -> Any:
                vector = super().encoded(form, *given, **named)
                change(vector)
                return vector & np.uint32(2**form.bits - 1)

        agent.encoder = Lying(encoder.settings, encoder.strategy, encoder.variance)
        return agent

    monkeypatch.setattr(world.veil, "_made", made)
    monkeypatch.setattr(plus_vehicle, "_check_vector", lambda announced, vector: None)
    monkeypatch.setattr(once_vehicle, "largest", lambda vector, bits: 0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_vector_that_wraps_voids_the_round_and_not_the_run(
    monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    world = World(6, protocol)

    def far(vector: np.ndarray) -> None:
        vector[:1] += np.uint32(1 << 31)

    with monkeypatch.context() as patch:
        wrapped(world, patch, far)
        outcome = void(world, patch, "void round")
    assert outcome.secagg["sums"][0]["why"]
    again = World(6, protocol)
    assert again.play(monkeypatch)[1].decision.counted


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_vehicle_with_a_million_samples_voids_the_round(
    monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    """By weights that six vehicles cannot have."""
    world = World(6, protocol)

    def heavy(vector: np.ndarray) -> None:
        vector[-3:-2] += np.uint32(6 * world.form().levels)

    with monkeypatch.context() as patch:
        wrapped(world, patch, heavy)
        void(world, patch, "the weights of 6 vehicles add up" if protocol == "secagg+" else "void round")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_liar_in_a_group_voids_that_group_alone(monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    from tests.experiments.test_masked_rounds import Rows, groups_of

    rows = Rows(4)
    world = World(12, protocol, n_min=3, cohort=12, quorum=0.5, strategy=rows.strategy)

    def far(vector: np.ndarray) -> None:
        vector[:1] += np.uint32(1 << 31)

    with monkeypatch.context() as patch:
        wrapped(world, patch, far)
        _, outcome = world.play(patch)
    assert outcome.decision.counted
    assert len(rows.given[0].sets["delta"]) == 2
    spoilt = next(group for group in groups_of(world) if LIAR in group)
    assert set(outcome.usable) == {v + 1 for v in range(12) if v not in spoilt}


@pytest.mark.parametrize("protocol", ONCE)
@pytest.mark.parametrize("place", [0, 3, 12, 60, 150, 300, 500, -30, -1])
def test_a_tampered_message_is_not_added(monkeypatch: pytest.MonkeyPatch, protocol: str, place: int) -> None:
    world = World(5, protocol)
    world.veil.says = lambda v, trip, data: flipped(data, place) if v == LIAR else data
    outcome = without(world, monkeypatch, {LIAR})
    assert LIAR + 1 in outcome.refused


@pytest.mark.parametrize("protocol", ONCE)
def test_a_message_of_an_earlier_round_or_of_another_vehicle_is_not_added(
    monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    for other in (LIAR, LIAR + 1):
        world = World(5, protocol)
        world.play(monkeypatch, 1)
        old = world.veil.said[other, 1]
        world.veil.says = lambda v, trip, data, old=old: old if v == LIAR else data  # type: ignore[misc]
        without(world, monkeypatch, {LIAR}, round_=2)


def test_a_share_that_does_not_open_takes_its_sender_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members complain about it, and its vector comes off the sum again."""
    world, true, asked = World(5, "one-shot"), oneshot_vehicle.seal_cipher, [0]

    def cipher(private: Any, public: bytes, fields: bytes, point: int) -> Any:
        header = int.from_bytes(fields[3:11], "little")
        spoilt = header == LIAR + 1 and point == 4 and len(asked) == 1
        return true(private, public, b"other" + fields if spoilt else fields, point)

    monkeypatch.setattr(oneshot_vehicle, "seal_cipher", cipher)
    outcome = without(world, monkeypatch, {LIAR})
    assert outcome.secagg["dropped"] == {"send": 0, "certify": 1}
    assert outcome.secagg["steps"] == {"asked": 5, "sent": 5, "certified": 4, "released": 4}


def test_a_key_that_is_no_key_voids_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    world, true, calls = World(5, "one-shot"), packed.split, []

    def split(values: Any, *given: Any, **named: Any) -> Any:
        calls.append(0)
        return true(values + 1000 if len(calls) == 3 else values, *given, **named)

    monkeypatch.setattr(packed, "split", split)
    void(world, monkeypatch, "a vehicle shared badly")


# ---- a server that lies to one vehicle, or to all --------------------------------------------------------


def reannounced(world: World, **changes: Any) -> Callable[[Asked], Asked]:
    """What the liar among servers sends vehicle LIAR: an announcement signed by the true aggregator."""

    def told(asked: Asked) -> Asked:
        if asked.index != LIAR or asked.message is None:
            return asked
        record = asked.message.content[ANNOUNCED]
        true = ann.decode_announcement(record["announcement"])
        aggregator = identities().aggregator
        other = ann.announce(replace(true, **changes), aggregator.certificate, aggregator.key)
        content = {"announcement": other.encode(), "committee": record["committee"]}
        message: Any = type("Message", (), {"content": {**asked.message.content, ANNOUNCED: content}})()
        return replace(asked, message=message)

    return told


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_another_task_for_one_vehicle(monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    """It does not answer: its mask would not cancel, nor is what it trained in anybody's sum."""
    world = World(5, protocol)

    def told(asked: Asked) -> Asked:
        if asked.index != LIAR:
            return asked
        task = decode_task(asked.wire)
        other = {name: vector + np.float32(1) for name, vector in task.vectors.items()}
        return replace(asked, wire=encode(replace(task, vectors=other)))

    world.veil.told = told
    without(world, monkeypatch, {LIAR})
    assert "for another task" in world.veil.why[LIAR]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"n_min": 2}, "the policy is 3"),
        ({"levels": 1000}, "announced with levels = 1000"),
        ({"bits": 24, "levels": 1000}, "announced with bits = 24"),
        ({"numbers": 5}, "announced with numbers = 5"),
        ({"deadline": 1_000_000}, "the round was over"),
        ({"tasks": (bytes(32),)}, "another task"),
        ({"most": 2}, "levels"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_announcement_for_one_vehicle(
    monkeypatch: pytest.MonkeyPatch, protocol: str, changes: dict[str, Any], why: str
) -> None:
    world = World(5, protocol, n_min=3)
    world.veil.told = reannounced(world, **changes)
    without(world, monkeypatch, {LIAR})
    assert why in world.veil.why[LIAR]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_same_announcement_under_another_id_splits_nobody_off(
    monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    """A vehicle that is told of another round answers for that one: the server cannot use it in this."""
    world = World(5, protocol)
    world.veil.told = reannounced(world, round_id=b"x" * 16)
    outcome = without(world, monkeypatch, {LIAR})
    assert LIAR + 1 in outcome.refused


def test_a_committee_of_the_servers_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    world, other = World(5, "one-shot"), World(5, "one-shot")

    def told(asked: Asked) -> Asked:
        if asked.index != LIAR or asked.message is None:
            return asked
        record = asked.message.content[ANNOUNCED]
        content = {
            "announcement": record["announcement"],
            "committee": other.council.committee.encode(),
        }
        message: Any = type("Message", (), {"content": {**asked.message.content, ANNOUNCED: content}})()
        return replace(asked, message=message)

    world.veil.told = told
    without(world, monkeypatch, {LIAR})
    assert "another committee" in world.veil.why[LIAR]


def test_an_announcement_that_is_no_bytes_or_missing_is_refused() -> None:
    world = World(4)
    base = {"name": "a", "index": 0, "round": 1, "since": 0.0, "at": 0.0, "part": 1.0, "wire": b""}
    for content in (
        {},
        {ANNOUNCED: {"announcement": b""}},
        {ANNOUNCED: {"announcement": 1, "committee": b""}},
    ):
        message: Any = type("Message", (), {"content": content})()
        with pytest.raises(VehicleError, match="announcement"):
            world.veil.first(Asked(**base, message=message), b"")  # type: ignore[arg-type]


def test_a_beacon_that_is_not_the_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody shares a secret in a graph that the server may have chosen."""
    world = World(5)
    world.log.drawn = b"c" * 32
    outcome = void(world, monkeypatch, "0 vehicles are left after 'share'")
    assert set(world.veil.why) == set(range(5))
    assert all("not the log's" in why for why in world.veil.why.values())
    assert outcome.secagg["dropped"]["share"] == 5


def test_a_roster_with_another_vehicles_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(5)
    world.veil.hears = lambda v, trip, data: flipped(data, -100) if (v, trip) == (LIAR, 2) else data
    without(world, monkeypatch, {LIAR})
    assert "are not those in the roster" in world.veil.why[LIAR]


@pytest.mark.parametrize("trip", [2, 3, 4, 5])
def test_the_same_trip_twice(monkeypatch: pytest.MonkeyPatch, trip: int) -> None:
    """The second request is refused, and what is said of the round ends with it."""
    world = World(5)
    again: list[str] = []
    true = world.veil.answer

    def answer(index: int, number: int, data: bytes) -> bytes:
        first = true(index, number, data)
        if (index, number) == (LIAR, trip):
            with pytest.raises(VehicleError) as caught:
                true(index, number, data)
            again.append(str(caught.value))
        return first

    monkeypatch.setattr(world.veil, "answer", answer)
    without(world, monkeypatch, {LIAR} if trip == 2 else set())
    assert again
    assert "twice" in again[0] or "out of turn" in again[0] or "in no masked round" in again[0]


@pytest.mark.parametrize("left", [1, 2])
def test_a_list_that_differs_by_a_vehicle_opens_nothing(monkeypatch: pytest.MonkeyPatch, left: int) -> None:
    """One vehicle is told that another is not in the sum: its signature does not fit the others' list."""
    world = World(5, threshold=3)

    def hears(vehicle: int, trip: int, data: bytes) -> bytes:
        if (vehicle, trip) != (LIAR, 4):
            return data
        return m.encode_list(m.decode_list(data)[:-left])

    world.veil.hears = hears
    outcome = without(world, monkeypatch, set())
    assert LIAR + 1 in outcome.refused
    assert outcome.secagg["dropped"]["sign"] == 1


def test_trips_of_a_round_that_nobody_began_are_refused() -> None:
    world = World(4)
    for trip in (2, 3, 4, 5):
        with pytest.raises(VehicleError, match="in no masked round"):
            world.veil.answer(0, trip, b"")
    once = World(4, "helpers")
    with pytest.raises(VehicleError, match="said all that it says"):
        once.veil.answer(0, 2, b"")
