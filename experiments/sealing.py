"""`privacy.channel = "sealed"` in a simulated run: the vehicles' half of it and the aggregator's.

    contribution - encode -> bytes - seal, sign -> ciphertext ... relay ... -> verify, open -> bytes -> decode

Vehicles send by the wire on every engine; nothing is handed over as an object.
"""

from __future__ import annotations

from carpool.experiments.simfleet import SimulatedFleet
from carpool.privacy import sealing_key
from carpool.privacy.identity import decode
from carpool.privacy.sealed_update import Purpose, open_update, seal_update
from carpool.privacy.sealing_key import announce_key
from carpool.privacy.spans import timed
from carpool.privacy.wire import TaskMessage

EPOCH = 1
"""A run has one sealing key to its end; certificates are renewed around it."""


class Sealing:
    """Both halves, with the keys of a simulated fleet."""

    def __init__(self, fleet: SimulatedFleet) -> None:
        self._fleet = fleet
        self._announced: tuple[bytes, bytes] = (b"", b"")

    @property
    def announced(self) -> bytes:
        """The aggregator's signed sealing key, as it reaches vehicles."""
        key, certificate, sealing = self._fleet.aggregator
        if self._announced[0] != certificate:
            made = announce_key(key, decode(certificate), sealing.public_key(), EPOCH)
            self._announced = certificate, made.encode()
        return self._announced[1]

    @timed("privacy")
    def seal(self, data: bytes, task: TaskMessage, node: int) -> bytes:
        """What vehicle `node` sends of a contribution to `task`; raises VehicleError."""
        fleet = self._fleet
        to = sealing_key.decode(self.announced).check(fleet.trust, fleet.now(), EPOCH)
        key, certificate = fleet.identity(node)
        purpose = Purpose(task.run, task.round, task.version, task.pass_number, node)
        return seal_update(data, purpose, key=key, certificate=certificate, to=to, epoch=EPOCH)

    @timed("privacy")
    def unseal(self, sealed: bytes, purpose: Purpose) -> bytes:
        """What was sealed for this purpose by its vehicle; raises VehicleError for anything else."""
        fleet = self._fleet
        secret = fleet.aggregator.sealing
        return open_update(sealed, purpose, sealing=secret, epoch=EPOCH, trust=fleet.trust, now=fleet.now())
