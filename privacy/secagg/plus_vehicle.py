"""The vehicle's half of `secagg+`, a state machine without I/O. Bell et al. 2020, arXiv:2009.11248, Figure 3.

    begin      -> advertisement
    roster     -> sealed shares for the neighbours
    sealed     -> masked vector
    list (U3)  -> own signature over it
    signatures -> shares, once

Each step takes the state and a message and gives the next state and the answer. Whatever the server says that
an honest one could not raises VehicleError, and the vehicle says nothing more in this round.

`dump` and `load` carry a state over a restart (plus_state.py): save it, then send the answer. A server that
makes a vehicle restart from an older state gains nothing: what may be said once in a round is bound in the
journal before it is said, and said again only if it is the same, or, for shares, never.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from carpool.privacy import signing
from carpool.privacy.errors import VehicleError
from carpool.privacy.identity import decode
from carpool.privacy.secagg import messages as m
from carpool.privacy.secagg import noise_levels, shamir
from carpool.privacy.secagg.announcement import Announcement, Protocol
from carpool.privacy.secagg.graph import around, order, positions
from carpool.privacy.secagg.masks import KEY, Ring, add_masks, farthest, pack
from carpool.privacy.secagg.parameters import GraphParameters
from carpool.privacy.secagg.plus_keys import (
    VERSION,
    check_keys,
    context,
    list_hash,
    mask_key,
    roster_commitment,
    roster_hash,
    sealing,
)
from carpool.privacy.secagg.plus_policy import Participant
from carpool.privacy.secagg.plus_state import Phase, VehicleState, dump, load

__all__ = [
    "VehicleState",
    "begin",
    "dump",
    "list_hash",
    "load",
    "on_list",
    "on_roster",
    "on_sealed",
    "on_signatures",
]
Step = tuple[VehicleState, bytes]
"""The next state, and the answer."""
_NO_GRAPH = GraphParameters(0, 0, 0)


def begin(participant: Participant, announced: Announcement, task_hash: bytes, now: float) -> Step:
    """Fresh keys for this round, and the advertisement. Raises VehicleError, and then says nothing.

    task_hash: SHA-256 over all that the vehicle was sent for this round; now: Unix seconds.
    """
    if announced.protocol is not Protocol.SECAGG_PLUS:
        raise VehicleError(f"the round is of {announced.protocol.name.lower()}, not of secagg+")
    announced.check(participant.trust, now, 0.0)
    if task_hash not in announced.tasks:
        raise VehicleError("the round is for another task than this vehicle was sent")
    if announced.n_min < participant.policy.n_min:
        raise VehicleError(
            f"the round is for {announced.n_min} vehicles or more; the policy is {participant.policy.n_min}"
        )
    if participant.logged is not None:
        participant.logged(announced)
    participant.bind(announced.round_id, b"", announced.digest)
    sealing_key, agreement_key = (X25519PrivateKey.generate().private_bytes_raw() for _ in range(2))
    state = VehicleState(announced, participant.vehicle, sealing_key=sealing_key, agreement_key=agreement_key)
    return state, _advertisement(participant, state)


def _advertisement(participant: Participant, state: VehicleState) -> bytes:
    """The same bytes whenever it is made: Ed25519 signatures have no randomness."""
    keys = (state.sealing_key, state.agreement_key)
    publics = [X25519PrivateKey.from_private_bytes(k).public_key().public_bytes_raw() for k in keys]
    parts = [context(state.announced), *publics]
    signature = signing.sign(participant.key, "carpool/secagg+/keys", VERSION, parts)
    return m.Advertisement(state.vehicle, participant.certificate, publics[0], publics[1], signature).encode()


def on_roster(participant: Participant, state: VehicleState, data: bytes, now: float) -> Step:
    """Check everybody's keys and the neighbourhood; share the secrets with it. Raises VehicleError."""
    _turn(participant, state, Phase.BEGUN, "a roster")
    roster, announced = m.decode_roster(data), state.announced
    graph, points = _graph(participant, state, roster)
    listed = dict(zip(roster.vehicles, roster.hashes, strict=True))
    for one in roster.neighbours:
        if hashlib.sha256(one.encode()).digest() != listed[one.vehicle]:
            raise VehicleError(f"the keys of vehicle {one.vehicle} are not those in the roster")
        check_keys(one, announced, participant.trust, now)
    if hashlib.sha256(_advertisement(participant, state)).digest() != listed[state.vehicle]:
        raise VehicleError("the roster has other keys for this vehicle than its own")
    # Never again with these keys, not even the same roster: fresh secrets would be sealed under old nonces.
    participant.bind(announced.round_id, b"roster", hashlib.sha256(data).digest())
    levels = participant.policy.levels(graph.n)
    state = replace(
        state,
        phase=Phase.SHARED,
        seed=secrets.token_bytes(KEY),
        extras=tuple(participant.draw(KEY) for _ in range(levels)),
        point=points[state.vehicle],
        graph=graph,
        roster_size=graph.n,
        roster=roster.vehicles,
        near=roster.neighbours,
    )
    secret = b"".join((state.seed, state.agreement_key, *state.extras))
    rows = shamir.split(secret, graph.threshold, [points[one.vehicle] for one in state.near])
    own = X25519PrivateKey.from_private_bytes(state.sealing_key)
    sealed = {}
    for one, row in zip(state.near, rows, strict=True):
        cipher, about = sealing(announced, own, one.sealing, state.vehicle, one.vehicle)
        plain = points[one.vehicle].to_bytes(8, "little") + row.astype("<u4").tobytes()
        sealed[one.vehicle] = cipher.encrypt(bytes(12), plain, about)
    return state, m.encode_sealed(sealed, levels)


def _graph(
    participant: Participant, state: VehicleState, roster: m.Roster
) -> tuple[GraphParameters, Mapping[int, int]]:
    """The graph's parameters and everybody's point, if the roster has the neighbours that these give."""
    announced, vehicles = state.announced, roster.vehicles
    if len(vehicles) < announced.n_min:
        raise VehicleError(f"the roster has {len(vehicles)} vehicles; n_min is {announced.n_min}")
    if state.vehicle not in vehicles:
        raise VehicleError("the roster leaves this vehicle out")
    if participant.beacon is not None:
        participant.beacon(roster_commitment(announced, vehicles, roster.hashes), roster.beacon)
    try:
        graph = participant.policy.graph(len(vehicles))
    except ValueError as error:
        raise VehicleError(f"the roster is unsafe: {error}") from error
    seed = roster_hash(announced, roster.beacon, vehicles, roster.hashes)
    points = positions(vehicles, seed)
    mine = around(order(vehicles, seed), points[state.vehicle] - 1, graph)
    if tuple(one.vehicle for one in roster.neighbours) != mine:
        raise VehicleError("the roster's neighbours are not those that the public randomness gives")
    return graph, points


def on_sealed(participant: Participant, state: VehicleState, data: bytes, vector: Ring) -> Step:
    """Take the neighbours' shares; mask the vector uint32 [d], which stays as it is. Raises VehicleError.

    vector: numbers in -Q..Q mod 2^bits, from the quantiser, and what noise adds to them.
    """
    graph = _turn(participant, state, Phase.SHARED, "shares")
    announced = state.announced
    _check_vector(announced, vector)
    sealed, near = m.decode_sealed(data, len(state.extras)), {one.vehicle: one for one in state.near}
    if not set(sealed) <= set(near):
        raise VehicleError("the server sent shares of vehicles that are no neighbours")
    if len(sealed) < graph.threshold:
        raise VehicleError(f"only {len(sealed)} neighbours shared; {graph.threshold} are needed")
    own = X25519PrivateKey.from_private_bytes(state.sealing_key)
    shared = tuple((v, _open(state, own, near[v], blob)) for v, blob in sorted(sealed.items()))
    masked = np.array(vector, np.uint32)
    agreement, about = X25519PrivateKey.from_private_bytes(state.agreement_key), context(announced)
    common = {v: mask_key(agreement, near[v].agreement, about, state.vehicle, v) for v in sealed}
    plus = [state.seed, *(common[v] for v in common if v > state.vehicle)]
    add_masks(masked, plus, [common[v] for v in common if v < state.vehicle])
    packed = pack(masked, announced.bits)
    digest = hashlib.sha256(packed).digest()
    # Two vectors under the same masks, or the same under fewer, would show what the masks hide.
    said = signing.digest("carpool/secagg+/said", VERSION, [data, digest])
    participant.bind(announced.round_id, b"masked", said, again=True)
    signature = signing.sign(participant.key, "carpool/secagg+/masked", VERSION, [about, digest])
    state = replace(
        state,
        phase=Phase.MASKED,
        sealing_key=b"",
        agreement_key=b"",
        seed=b"",
        extras=(),
        shared=shared,
    )
    return state, m.Masked(packed, signature).encode()


def _check_vector(announced: Announcement, vector: Ring) -> None:
    if vector.dtype != np.uint32 or vector.shape != (announced.numbers,):
        raise VehicleError(
            f"the vector is {vector.dtype} {vector.shape}, announced are uint32 ({announced.numbers},)"
        )
    limit = announced.limit
    if (far := farthest(vector, limit, announced.bits)) > limit:
        raise VehicleError(f"a number of the vector is {far} steps; at most {limit} do not wrap in the sum")


def _open(state: VehicleState, own: X25519PrivateKey, sender: m.Advertisement, sealed: bytes) -> bytes:
    """What a neighbour shared with this vehicle: of seed, key and extra seeds, in a row."""
    cipher, about = sealing(state.announced, own, sender.sealing, sender.vehicle, state.vehicle)
    try:
        plain = cipher.decrypt(bytes(12), sealed, about)
    except InvalidTag as error:
        raise VehicleError(f"the shares of vehicle {sender.vehicle} cannot be opened") from error
    if int.from_bytes(plain[:8], "little") != state.point:
        raise VehicleError(f"the shares of vehicle {sender.vehicle} are for another place in the order")
    return plain[8:]


def on_list(participant: Participant, state: VehicleState, data: bytes) -> Step:
    """Sign who is in the sum (U3). Raises VehicleError.

    The list must have n_min vehicles of the roster, this one among them, threshold neighbours, and no
    neighbour whose mask is not in this vehicle's vector.
    """
    graph = _turn(participant, state, Phase.MASKED, "the list of the sum")
    counted, announced = m.decode_list(data), state.announced
    if not announced.n_min <= len(counted) <= announced.most or state.vehicle not in counted:
        raise VehicleError(
            f"the sum has {len(counted)} vehicles; n_min is {announced.n_min}, at most {announced.most} do "
            "not wrap, and this vehicle is one of them"
        )
    listed, shared = set(counted), {v for v, _ in state.shared}
    if not listed <= set(state.roster):
        raise VehicleError("the sum has vehicles that are not in the roster")
    if listed & {one.vehicle for one in state.near} - shared:
        raise VehicleError("the sum has neighbours of which no shares came")
    if len(listed & shared) < graph.threshold:
        raise VehicleError(
            f"only {len(listed & shared)} neighbours are in the sum; {graph.threshold} are needed"
        )
    hashed = list_hash(announced, counted)
    participant.bind(announced.round_id, b"signed", hashed, again=True)
    signature = signing.sign(participant.key, "carpool/secagg+/consistent", VERSION, [hashed])
    state = replace(state, phase=Phase.SIGNED, roster=(), counted=counted)
    return state, m.encode_signatures({state.vehicle: signature})


def on_signatures(participant: Participant, state: VehicleState, data: bytes) -> Step:
    """The shares that open the sum, once: of seeds for who is in it, of keys for who left.

    With a seed's share go those of the noise components that the number of losses does not need
    (noise_levels.py). Raises VehicleError unless `threshold` neighbours signed the very list that this
    vehicle signed. The state returned has no secrets any more.
    """
    graph = _turn(participant, state, Phase.SIGNED, "signatures")
    near, counted = {one.vehicle: one for one in state.near}, set(state.counted)
    hashed, found = list_hash(state.announced, state.counted), m.decode_signatures(data)
    if not set(found) <= set(near):
        raise VehicleError(f"vehicles {sorted(set(found) - set(near))} are no neighbours")
    if len(found) < graph.threshold:
        raise VehicleError(f"{len(found)} neighbours signed the list; {graph.threshold} are needed")
    if not set(found) <= counted:
        raise VehicleError("a signature is of a vehicle that is not in the sum")
    for vehicle, signature in islice(found.items(), graph.threshold):  # as many as it takes
        public = decode(near[vehicle].certificate).key
        signing.verify(public, signature, "carpool/secagg+/consistent", VERSION, [hashed])
    policy, base = participant.policy, m.SEED + m.KEY
    if policy.levels(state.roster_size) != state.levels:
        raise VehicleError(f"the policy has changed since {state.levels} extra seeds were shared")
    participant.bind(state.announced.round_id, b"opened", hashed)
    open_ = noise_levels.revealed(state.roster_size, len(counted), policy.delta, policy.extras)
    seeds = {
        v: b"".join((row[: m.SEED], *(row[base + m.SEED * (j - 1) : base + m.SEED * j] for j in open_)))
        for v, row in state.shared
        if v in counted
    }
    keys = {v: row[m.SEED : base] for v, row in state.shared if v not in counted}
    done = VehicleState(
        state.announced,
        state.vehicle,
        Phase.OPENED,
        point=state.point,
        roster_size=state.roster_size,
        counted=state.counted,
    )
    return done, m.Shares(seeds, keys, len(open_)).encode()


def _turn(participant: Participant, state: VehicleState, phase: Phase, what: str) -> GraphParameters:
    """The state's graph; raises VehicleError unless it is this vehicle's state and in this phase."""
    if state.vehicle != participant.vehicle:
        raise VehicleError(f"the state is of vehicle {state.vehicle}, this is {participant.vehicle}")
    if state.phase is not phase:
        raise VehicleError(f"the server sent {what} out of turn or twice")
    return state.graph or _NO_GRAPH
