"""A masked round's arithmetic without its cryptography, for simulations that say so: NOTHING IS HIDDEN HERE.

The same whole numbers are added up mod 2^bits, the same noise is in them and taken off again, the same
vehicles are missing: the sum is the one that the protocol gives. A vehicle answers with its numbers and its
seeds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from carpool.client.secure import Encoder, Work, drawn_by
from carpool.privacy.errors import VehicleError
from carpool.privacy.secagg import announcement as ann
from carpool.privacy.secagg.masks import KEY, Ring, pack
from carpool.privacy.secagg.sumform import Form
from carpool.privacy.spans import timed

READY = b"ready"
VECTOR = 3


@dataclass
class RingAgent:
    """A simulated vehicle. several: whether its vector goes in a later trip, as in `secagg+`."""

    encoder: Encoder
    several: bool
    _held: tuple[Form, Ring] | None = field(default=None, repr=False)

    @timed("privacy")
    def first(self, announcement: bytes, committee: bytes, work: Work) -> bytes:
        """That it has trained, or its numbers."""
        form = self.encoder.form(ann.decode_announcement(announcement), work)
        vector = self.encoder.encoded(form, work)
        if self.several:
            self._held = form, vector
            return READY
        return bytes(pack(form.finish(vector, 0, ()), form.bits))

    @timed("privacy")
    def answer(self, trip: int, data: bytes) -> bytes:
        """Its numbers with the noise of a roster of so many, and the seeds of that noise."""
        if trip != VECTOR or self._held is None or len(data) != 8:
            raise VehicleError(f"trip {trip} of a round of arithmetic alone is out of turn")
        (form, vector), self._held = self._held, None
        roster = int.from_bytes(data, "little")
        levels, draw = self.encoder.settings.policy.levels(roster), drawn_by(form)
        seeds = tuple(draw(KEY) for _ in range(levels))
        return b"".join((*seeds, pack(form.finish(vector, roster, seeds), form.bits)))

    def forget(self) -> None:
        """Drop the numbers of a round that never came to its end."""
        self._held = None
