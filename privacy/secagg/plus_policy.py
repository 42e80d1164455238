"""What a vehicle of `secagg+` holds and insists on: its own policy, which no announcement lowers."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from carpool.privacy.errors import VehicleError
from carpool.privacy.identity import Trust
from carpool.privacy.secagg.announcement import Logged
from carpool.privacy.secagg.journal import Journal
from carpool.privacy.secagg.noise_levels import MOST_EXTRAS, boundaries
from carpool.privacy.secagg.parameters import Adversary, GraphParameters, find

Beacon = Callable[[bytes, bytes], None]
"""(commitment to the roster, beacon) -> nothing; VehicleError unless the public log gave it for that."""


@dataclass(frozen=True)
class Policy:
    """The terms on which a vehicle takes part; the server must be run with the same, or vehicles refuse.

    n_min: fewest vehicles in a sum; gamma: share of the roster that may lie with the server; delta: share
    that may leave; extras: further 16-byte seeds that each vehicle shares at most (noise_levels.py), 0..16.
    Raises ValueError.
    """

    n_min: int
    gamma: float
    delta: float
    adversary: Adversary
    extras: int = 0

    def __post_init__(self) -> None:
        if self.n_min < 2 or not 0 <= self.extras <= MOST_EXTRAS:
            raise ValueError(
                f"n_min is {self.n_min} and extras {self.extras}; a sum needs 2 vehicles or more, and a "
                f"vehicle shares at most {MOST_EXTRAS} extra seeds"
            )

    def graph(self, n: int) -> GraphParameters:
        """The neighbours and the threshold for a roster of n vehicles; ValueError where none is safe."""
        return find(n, self.gamma, self.delta, self.adversary)

    def levels(self, n: int) -> int:
        """Extra seeds that each of n vehicles shares: `extras`, or as many as losses are planned for."""
        return len(boundaries(n, self.delta, self.extras)) - 1


@dataclass(frozen=True, repr=False)
class Participant:
    """A vehicle. Secret: key (Ed25519, of its certificate); not printed.

    journal: on disk, and the same in every round and after every restart; beacon: what checks a roster's
    public randomness against the log, None where there is no log to check it against; draw: so many bytes for
    the seeds of noise, secret unless it is an experiment that says NOT PRIVATE; logged: what looks a round up
    in the log, None without one.
    """

    vehicle: int
    certificate: bytes
    key: Ed25519PrivateKey
    trust: Trust
    policy: Policy
    journal: Journal
    beacon: Beacon | None = None
    draw: Callable[[int], bytes] = secrets.token_bytes
    logged: Logged | None = None

    def bind(self, round_id: bytes, step: bytes, value: bytes, again: bool = False) -> None:
        """Write down what is about to be said in a step of a round; VehicleError if something was before.

        again: the same may be said once more, by a vehicle that restarted in between.
        """
        before = self.journal.get(round_id + step)
        if before is None:
            self.journal.bind(round_id + step, value)
        elif before != value or not again:
            said = step.decode() or "keys"
            raise VehicleError(f"this vehicle has spoken in this round before ({said}); ask it in a new one")

    def __repr__(self) -> str:
        return f"Participant({self.vehicle})"
