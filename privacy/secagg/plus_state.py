"""Where a vehicle of `secagg+` stands in a round, and its bytes, which carry it over a restart.

    version, phase | vehicle, point, degree, threshold, roster's size, extra seeds, counts | announcement |
    keys, seed, extra seeds | neighbours' advertisements | roster | their shares | list | SHA-256 of all

What the phase does not have takes no bytes. The hash finds a damaged disk, which would make a wrong sum; it
does not make a stranger's file safe: a state is the vehicle's own, in a file that only it can read. It is to
be saved before the answer that came with it is sent, and its predecessor erased.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from carpool.privacy.errors import VehicleError
from carpool.privacy.identity import SIZE as CERTIFICATE
from carpool.privacy.secagg import messages as m
from carpool.privacy.secagg.announcement import Announcement, Protocol, decode_announcement
from carpool.privacy.secagg.noise_levels import MOST_EXTRAS
from carpool.privacy.secagg.parameters import GraphParameters
from carpool.privacy.signing import SIGNATURE

VERSION = 1
_HEAD = struct.Struct("<BBQIIIIBIIIII")
_NEAR = 2 + 8 + CERTIFICATE + 2 * m.KEYS + SIGNATURE
_SUM = 32


class Phase(IntEnum):
    """What the vehicle has said last."""

    BEGUN = 1
    SHARED = 2
    MASKED = 3
    SIGNED = 4
    OPENED = 5


@dataclass(frozen=True, repr=False)
class VehicleState:
    """A vehicle in the middle of a round. Secrets: the keys, seed, extras and shared; not printed.

    Only what the protocol still needs is there: keys (X25519), seed and extras (16 bytes each) until the
    vector is masked; point, graph and near (the neighbours' keys) from the roster on; roster until the list
    is signed; shared, what neighbours shared with this vehicle (of seed, key and extra seeds, in a row), from
    the vector to the opening; counted, who is in the sum, from the signature on.
    """

    announced: Announcement
    vehicle: int
    phase: Phase = Phase.BEGUN
    sealing_key: bytes = b""
    agreement_key: bytes = b""
    seed: bytes = b""
    extras: tuple[bytes, ...] = ()
    point: int = 0
    graph: GraphParameters | None = None
    roster_size: int = 0
    roster: tuple[int, ...] = ()
    near: tuple[m.Advertisement, ...] = ()
    shared: tuple[tuple[int, bytes], ...] = ()
    counted: tuple[int, ...] = ()

    def __repr__(self) -> str:
        round_ = self.announced.round_id.hex()[:8]
        return f"VehicleState(vehicle={self.vehicle}, round={round_}, {self.phase.name})"

    @property
    def levels(self) -> int:
        """Extra seeds that each vehicle shared, as far as the state still shows it."""
        if self.shared:
            return (len(self.shared[0][1]) - m.SEED - m.KEY) // m.SEED
        return len(self.extras)


def dump(state: VehicleState) -> bytes:
    """The bytes of a state; secret as the state is."""
    announced, graph = state.announced.encode(), state.graph
    head = _HEAD.pack(
        VERSION,
        state.phase,
        state.vehicle,
        state.point,
        graph.degree if graph else 0,
        graph.threshold if graph else 0,
        state.roster_size,
        state.levels,
        len(announced),
        len(state.near),
        len(state.roster),
        len(state.shared),
        len(state.counted),
    )
    parts = [head, announced, state.sealing_key, state.agreement_key, state.seed, *state.extras]
    parts += [one.encode() for one in state.near]
    parts.append(np.array(state.roster, "<u8").tobytes())
    parts += [v.to_bytes(8, "little") + shares for v, shares in state.shared]
    parts.append(np.array(state.counted, "<u8").tobytes())
    body = b"".join(parts)
    return body + hashlib.sha256(body).digest()


def load(data: bytes) -> VehicleState:
    """The state that `dump` made the bytes of; raises VehicleError for anything else."""
    body = data[:-_SUM]
    if len(body) < _HEAD.size or hashlib.sha256(body).digest() != data[-_SUM:]:
        raise VehicleError("the saved state of the round is damaged; the vehicle is out of this round")
    version, phase, vehicle, point, degree, threshold, size, levels, *counts = _HEAD.unpack_from(body)
    if version != VERSION or phase not in list(Phase) or levels > MOST_EXTRAS:
        raise VehicleError(
            f"a state of version {version}, phase {phase} and {levels} extra seeds is malformed"
        )
    announced, near, roster, shared, counted = counts
    if max(near, roster, shared, counted) > m.MOST_VEHICLES:
        raise VehicleError(f"a state of {max(near, roster, shared, counted)} vehicles is malformed")
    secret = phase in (Phase.BEGUN, Phase.SHARED)
    seeds = 1 + levels if phase == Phase.SHARED else 0
    row = 8 + m.SEED * (1 + levels) + m.KEY
    widths = [announced, 32 * secret, 32 * secret, *[16] * seeds, *[_NEAR] * near, 8 * roster]
    widths += [*[row] * shared, 8 * counted]
    if _HEAD.size + sum(widths) != len(body):
        raise VehicleError(f"a state of phase {phase} has not {len(body)} bytes")
    at, parts = _HEAD.size, []
    for width in widths:
        parts.append(body[at : at + width])
        at += width
    last = 3 + seeds
    rows = parts[last + near + 1 : -1]
    state = VehicleState(
        decode_announcement(parts[0]),
        vehicle,
        Phase(phase),
        parts[1],
        parts[2],
        parts[3] if seeds else b"",
        tuple(parts[4:last]),
        point,
        GraphParameters(size, degree, threshold) if near else None,
        size,
        _ids(parts[last + near]),
        tuple(m.decode_advertisement(one) for one in parts[last : last + near]),
        tuple((int.from_bytes(one[:8], "little"), one[8:]) for one in rows),
        _ids(parts[-1]),
    )
    _check(state, levels)
    return state


def _check(state: VehicleState, levels: int) -> None:
    """Raise VehicleError unless the parts of a state fit its phase and each other."""
    phase, graph, near = state.phase, state.graph, [one.vehicle for one in state.near]
    begun, opened = phase is Phase.BEGUN, phase is Phase.OPENED
    lists = [near, list(state.roster), [v for v, _ in state.shared], list(state.counted)]
    fits = (
        state.announced.protocol is Protocol.SECAGG_PLUS
        and len(state.announced.tasks) == 1
        and all(one == sorted(set(one)) for one in lists)
        and bool(near) is (not begun and not opened)
        and bool(state.roster) is (phase in (Phase.SHARED, Phase.MASKED))
        and bool(state.shared) is (phase in (Phase.MASKED, Phase.SIGNED))
        and bool(state.counted) is (phase >= Phase.SIGNED)
        and bool(state.roster_size) is bool(state.point) is not begun
        and state.levels == levels
        and state.vehicle not in near
    )
    if state.roster:
        fits = fits and len(state.roster) == state.roster_size and {*near, state.vehicle} <= set(state.roster)
    if state.counted:
        fits = fits and len(state.counted) <= state.roster_size and state.vehicle in state.counted
    if graph is not None:
        fits = fits and 1 < graph.threshold <= graph.degree == len(near) < graph.n
        fits = fits and 1 <= state.point <= graph.n and set(lists[2]) <= set(near)
        fits = fits and (not state.shared or len(state.shared) >= graph.threshold)
    if not fits:
        raise VehicleError(f"the parts of a saved state of phase {phase.name.lower()} do not fit together")


def _ids(data: bytes) -> tuple[int, ...]:
    return tuple(np.frombuffer(data, "<u8").tolist())
