"""What somebody does who follows a server's log without having it: takes nothing that is not in it.

    Shown     an entry, its proof of inclusion, a signed checkpoint, the proof that the log only grew
    Follower  the last checkpoint that was believed; checks what is shown, and draws beacons from it

A vehicle of `secagg+` thus gets the round's beacon: the list of keys is committed to by the last entry under
a checkpoint, and the beacon is made of that checkpoint and no later one (beacon.py: what that is worth).
"""

from __future__ import annotations

from dataclasses import dataclass

from carpool.privacy import beacon
from carpool.privacy.errors import PrivacyRefused, VehicleError
from carpool.privacy.identity import Trust
from carpool.privacy.logentries import Entry
from carpool.privacy.merkle import Hash
from carpool.privacy.transparency import Checkpoint, follow, included


@dataclass(frozen=True)
class Shown:
    """Entry `number` as its line (without end), shown to be under `checkpoint`.

    grown: consistency proof from the follower's last checkpoint, empty for its first one.
    """

    checkpoint: Checkpoint
    grown: tuple[Hash, ...]
    number: int
    line: bytes
    proof: tuple[Hash, ...]


class Follower:
    """Believes in one history of one log. known: the last checkpoint, None before the first."""

    def __init__(self, trust: Trust, known: Checkpoint | None = None) -> None:
        self._trust, self.known = trust, known

    def entry(self, shown: Shown) -> Entry:
        """The entry; raises VehicleError where anything of it does not hold, and then believes as before."""
        try:
            believed = follow(self.known, shown.checkpoint, shown.grown, self._trust)
            found = included(shown.line, shown.number, believed, shown.proof)
        except PrivacyRefused as error:
            raise VehicleError(f"the server's log does not hold: {error}") from error
        self.known = believed
        return found

    def beacon(self, shown: Shown, commitment: bytes) -> bytes:
        """The beacon, 32 bytes, of the round whose list of keys has the SHA-256 `commitment`.

        Raises VehicleError unless this very list is the last thing that the log says.
        """
        found = self.entry(shown)
        if found["kind"] != "keys" or found["hash"] != commitment.hex():
            raise VehicleError(f"entry {shown.number} of the log does not commit to this list of keys")
        if shown.checkpoint.size != shown.number + 1:
            raise VehicleError(
                f"the checkpoint has {shown.checkpoint.size} entries and the commitment is entry "
                f"{shown.number}; a beacon is made of the first checkpoint over the commitment"
            )
        return beacon.for_round(bytes.fromhex(found["round"]), shown.checkpoint)
