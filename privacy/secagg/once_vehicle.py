"""What a vehicle checks before it says the one thing that it says, in `one-shot` and `helpers`.

The round is written to the journal before the message is made: a vehicle speaks once in a round, and a
restart does not make it speak again. It may drive away as soon as the server has the message.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from carpool.privacy.errors import VehicleError
from carpool.privacy.identity import Trust
from carpool.privacy.secagg import once
from carpool.privacy.secagg.announcement import Announcement, Logged
from carpool.privacy.secagg.committee import Committee, Drawn, Sizes
from carpool.privacy.secagg.journal import Journal
from carpool.privacy.secagg.masks import Ring
from carpool.privacy.secagg.once_member import check_log, check_round, check_tasks


@dataclass(frozen=True, repr=False)
class Speaker:
    """A vehicle. Secret: key; not printed.

    expected, n_min, per_task: its policy, which no announcement lowers; see `once_member.check_tasks`.
    logged, drawn: what looks rounds and committees up in the log, None without one.
    """

    vehicle: int
    certificate: bytes
    key: Ed25519PrivateKey
    journal: Journal
    trust: Trust
    expected: Sizes
    n_min: int
    per_task: int = 0
    logged: Logged | None = None
    drawn: Drawn | None = None

    def __repr__(self) -> str:
        return f"Speaker({self.vehicle})"


def enter(
    speaker: Speaker,
    announced: Announcement,
    committee: Committee,
    task: bytes,
    vector: Ring,
    variance: float,
    now: float,
) -> None:
    """Check everything, then bind the round in the journal. Raises VehicleError.

    task: the hash of what this vehicle really trained on; vector: uint32 [d] of numbers in -Q..Q mod 2^bits.
    """
    check_round(announced, committee, speaker.trust, speaker.expected, speaker.n_min, variance, now)
    check_tasks(announced, speaker.n_min, speaker.per_task)
    if task not in announced.tasks:
        raise VehicleError("the round is for another task than this vehicle trained on")
    if vector.dtype != np.uint32 or vector.shape != (announced.numbers,):
        raise VehicleError(f"the vector is {vector.dtype} {vector.shape}, announced are {announced.numbers}")
    limit = announced.limit
    if (far := largest(vector, announced.bits)) > limit:
        raise VehicleError(f"a number of the vector is {far} steps; at most {limit} do not wrap in the sum")
    check_log(announced, committee, speaker.logged, speaker.drawn)
    if speaker.journal.get(announced.round_id) is not None:
        raise VehicleError("this vehicle has spoken in this round; ask it in a new one")
    speaker.journal.bind(announced.round_id, announced.digest)


def largest(vector: Ring, bits: int) -> int:
    """The largest |number| of a vector mod 2^bits, read as -2^(bits-1)..2^(bits-1) - 1."""
    shift = np.uint32(32 - bits)
    whole = (vector << shift).view(np.int32) >> np.int32(shift)
    return max(int(whole.max(initial=0)), -int(whole.min(initial=0)))


def finish(
    speaker: Speaker,
    announced: Announcement,
    fields: bytes,
    sealed: Sequence[bytes],
    vector: memoryview,
) -> bytes:
    """The message: signed header, sealed parts, vector."""
    header = once.sign_header(fields, sealed, speaker.key)
    return once.Contribution(header, tuple(sealed), vector).encode()


def fields_of(
    speaker: Speaker, announced: Announcement, task: bytes, vector: memoryview, public: bytes
) -> bytes:
    """The header's signed fields for a masked vector's bytes."""
    digest = hashlib.sha256(vector).digest()
    return once.core(announced, speaker.vehicle, task, digest, speaker.certificate, public)
