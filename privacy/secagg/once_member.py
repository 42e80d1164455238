"""A committee member certifies one list a round, without I/O; what it then adds up is another file's.

    proposal -> complaint | list -> approval | certificate -> release

An entry of a proposal is good if its header is an enrolled vehicle's own for this round and a task of it, and
this member's part belongs to it and opens. The list must be of good entries, n_min or more (and per_task of
each task). Its hash is written to the journal, then signed; no other list of the round ever is, not even
after a restart. The member releases once a quorum has signed the very same list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from carpool.privacy import merkle, signing
from carpool.privacy.errors import VehicleError
from carpool.privacy.identity import Trust
from carpool.privacy.secagg import once
from carpool.privacy.secagg.announcement import VERSION, Announcement, Logged
from carpool.privacy.secagg.committee import Committee, Drawn, Sizes
from carpool.privacy.secagg.journal import Journal

Open = Callable[[once.Header, bytes], bytes]
"""header, sealed part -> what was sealed for this member; raises VehicleError."""


@dataclass(frozen=True, repr=False)
class Node:
    """A stationary node of a committee. Secret: key, sealing (X25519, of the epoch); not printed.

    expected, n_min, per_task: its own policy, which no announcement can lower; see `check_tasks`. logged,
    drawn: what looks rounds and committees up in the log, None without one.
    """

    number: int
    key: Ed25519PrivateKey
    sealing: bytes
    journal: Journal
    trust: Trust
    expected: Sizes
    n_min: int
    per_task: int = 0
    logged: Logged | None = None
    drawn: Drawn | None = None

    def __repr__(self) -> str:
        return f"Node({self.number})"


@dataclass(frozen=True, repr=False)
class MemberState:
    """A member in a round. Secret: opened, by vehicle what was sealed for this member; not printed.

    point: its place in the committee, from 1; headers: of good entries; list_hash: of the list it signed.
    """

    announced: Announcement
    committee: Committee
    point: int
    headers: Mapping[int, once.Header] = field(default_factory=dict)
    opened: Mapping[int, bytes] = field(default_factory=dict)
    list_hash: bytes = b""

    def __repr__(self) -> str:
        return f"MemberState(point={self.point}, round={self.announced.round_id.hex()[:8]})"


def join_round(
    node: Node, announced: Announcement, committee: Committee, variance: float, now: float
) -> MemberState:
    """Check the round and the committee against the node's policy. Raises VehicleError."""
    check_round(announced, committee, node.trust, node.expected, node.n_min, variance, now)
    check_tasks(announced, node.n_min, node.per_task)
    nodes = [one.node for one in committee.members]
    if node.number not in nodes:
        raise VehicleError(f"node {node.number} is not in this committee")
    check_log(announced, committee, node.logged, node.drawn)
    return MemberState(announced, committee, nodes.index(node.number) + 1)


def check_round(
    announced: Announcement,
    committee: Committee,
    trust: Trust,
    expected: Sizes,
    n_min: int,
    variance: float,
    now: float,
) -> None:
    """What vehicles and members ask of a round before they take part. Raises VehicleError."""
    announced.check(trust, now, variance)
    if announced.committee != committee.hash:
        raise VehicleError("the announcement is for another committee")
    committee.check(expected, trust, now)
    if announced.n_min < n_min:
        raise VehicleError(f"the round is for {announced.n_min} vehicles or more; the policy is {n_min}")


def check_log(
    announced: Announcement, committee: Committee, logged: Logged | None, drawn: Drawn | None
) -> None:
    """Raise VehicleError where there is a log, and the committee or the round is not in it."""
    if drawn is not None:
        drawn(committee)
    if logged is not None:
        logged(announced)


def check_tasks(announced: Announcement, n_min: int, per_task: int) -> None:
    """Raise VehicleError where a sum over several tasks may hold fewer of one than the policy allows.

    A server that knows what comes of all the other tasks (it may have made them up) sees the sum of this one
    alone, so that fewer than n_min give as much less privacy. per_task 0: n_min.
    """
    least = per_task or n_min
    if len(announced.tasks) > 1 and announced.per_task < least:
        raise VehicleError(
            f"the round sums {len(announced.tasks)} tasks, {announced.per_task} vehicles or more of each; "
            f"the policy is {least}"
        )


def on_proposal(
    node: Node, state: MemberState, entries: Sequence[once.Entry], open_part: Open, now: float
) -> tuple[MemberState, bytes]:
    """Open what is good, and complain about the rest. Raises VehicleError for a vehicle named twice."""
    if len({one.header.vehicle for one in entries}) != len(entries):
        raise VehicleError("a vehicle stands in the proposal twice")
    headers, opened, bad = {}, {}, []
    for one in entries:
        vehicle = one.header.vehicle
        try:
            opened[vehicle] = _open(node, state, one, open_part, now)
        except VehicleError:
            bad.append(vehicle)
        else:
            headers[vehicle] = one.header
    blank = once.Complaint(tuple(sorted(bad)), b"")
    form = complaint_form(state.announced, state.point, blank)
    word = replace(blank, signature=signing.sign(node.key, *form))
    return replace(state, headers=headers, opened=opened), word.encode()


def _open(node: Node, state: MemberState, one: once.Entry, open_part: Open, now: float) -> bytes:
    one.header.check(state.announced, node.trust, now)
    leaf, members = merkle.leaf(one.sealed), len(state.committee.members)
    if not merkle.included(leaf, state.point - 1, members, one.path, one.header.tree):
        raise VehicleError("a sealed part is not the one that the vehicle signed")
    return open_part(one.header, one.sealed)


def on_list(node: Node, state: MemberState, data: bytes) -> tuple[MemberState, bytes]:
    """Sign the list, on disk first; VehicleError for one that is unsound, or a second one of this round."""
    announced, vehicles = state.announced, once.decode_list(data)
    if not announced.n_min <= len(vehicles) <= announced.most:
        raise VehicleError(f"the list has {len(vehicles)} vehicles; n_min is {announced.n_min}")
    if not set(vehicles) <= set(state.headers):
        raise VehicleError("the list has vehicles whose entries do not hold")
    tasks = Counter(state.headers[v].task for v in vehicles)
    if min(tasks.values()) < announced.per_task:
        raise VehicleError(f"the list has a task of fewer than {announced.per_task} vehicles")
    hashed = once.list_hash(announced, [state.headers[v].hash for v in vehicles])
    promise = node.journal.get(announced.round_id)
    if promise is None:
        node.journal.bind(announced.round_id, announced.digest + hashed)
    elif promise != announced.digest + hashed:
        raise VehicleError("this member signed another list of this round")
    state = replace(
        state,
        list_hash=hashed,
        headers={v: state.headers[v] for v in vehicles},
        opened={v: state.opened[v] for v in vehicles},
    )
    form = approval_form(announced, state.point, hashed)
    return state, once.encode_approval(hashed, signing.sign(node.key, *form))


def check_certificate(state: MemberState, data: bytes) -> None:
    """Raise VehicleError unless a quorum signed the very list that this member signed."""
    if not state.list_hash or not state.opened:
        raise VehicleError("the server asked for a release before a list was signed, or twice")
    members = state.committee.members
    hashed, signatures = once.decode_certificate(data, len(members))
    if hashed != state.list_hash:
        raise VehicleError("the certificate is for another list than this member signed")
    for point, signature in signatures.items():
        form = approval_form(state.announced, point, hashed)
        signing.verify(members[point - 1].key, signature, *form)
    if len(signatures) < state.committee.sizes.quorum:
        raise VehicleError(f"{len(signatures)} members signed; {state.committee.sizes.quorum} must")


Form = tuple[str, int, list[bytes]]
"""What a signature is over: purpose, version, parts."""


def complaint_form(announced: Announcement, point: int, word: once.Complaint) -> Form:
    """Of a complaint."""
    listed = b"".join(v.to_bytes(8, "little") for v in word.vehicles)
    return "carpool/once/complaint", VERSION, [announced.digest, _two(point), listed]


def approval_form(announced: Announcement, point: int, hashed: bytes) -> Form:
    """Of an approval."""
    return "carpool/once/approval", VERSION, [announced.digest, _two(point), hashed]


def release_form(announced: Announcement, point: int, hashed: bytes, digest: bytes) -> Form:
    """Of a release; digest: SHA-256 of its payload."""
    return "carpool/once/release", VERSION, [announced.digest, _two(point), hashed, digest]


def _two(point: int) -> bytes:
    return point.to_bytes(2, "little")
