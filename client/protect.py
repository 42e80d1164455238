"""What a vehicle does to its contribution under differential privacy, before anything else sees it.

    channels -> one norm over all of them -> (its own noise, `local`) -> the wire, or the mask

Clip is here, and in no other place of the vehicle, where contributions are private; what it says of itself
beside (samples, steps, loss) becomes the same for everybody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from carpool.privacy.dp.joint import clip_jointly
from carpool.privacy.dp.local import LocalPlan
from carpool.privacy.dp.protection import Protection
from carpool.privacy.dp.randomness import Bits, bits_of
from carpool.privacy.errors import VehicleError
from carpool.privacy.spans import timed
from carpool.privacy.vectors import Vector


@dataclass(frozen=True)
class Protector:
    """A vehicle's half of a mechanism. seed: of `local` noise that is NOT PRIVATE; used for nothing else."""

    protection: Protection
    seed: int = field(default=0, repr=False)

    @cached_property
    def _bits(self) -> Bits:
        return bits_of(True, 0, "local")

    def bits(self, round_: int, vehicle: int) -> Bits:
        """What a vehicle's own noise in a round is drawn from."""
        if self.protection.private:
            return self._bits
        return bits_of(False, self.seed, f"local/{round_}/{vehicle}")

    @timed("privacy")
    def rows(
        self,
        arrays: Mapping[str, Vector],
        failed: dict[int, VehicleError],
        round_: int,
        vehicles: Sequence[int],
    ) -> dict[str, Vector]:
        """The channels of K vehicles, float32 [K, n], clipped and, under `local`, with noise.

        failed: those whose training came to nothing, by place; a row that cannot be clipped joins them.
        vehicles: who they are, K.
        """
        if not self.protection.joint:
            return dict(arrays)
        done = {name: stack.copy() for name, stack in arrays.items()}
        for k in range(len(next(iter(arrays.values())))):
            if k in failed:
                continue
            try:
                row = self._row({name: stack[k] for name, stack in arrays.items()}, round_, vehicles[k])
            except VehicleError as error:
                failed[k] = error
                continue
            for name, vector in row.items():
                done[name][k] = vector
        return done

    def _row(self, vectors: Mapping[str, Vector], round_: int, vehicle: int) -> Mapping[str, Vector]:
        p = self.protection
        clipped, _ = clip_jointly(vectors, p.clip_norm)
        if p.mechanism != "local":
            return clipped
        sizes = {name: vector.size for name, vector in vectors.items()}
        plan = LocalPlan(p.clip_norm, p.noise_multiplier, sizes)
        return plan.noised(clipped, self.bits(round_, vehicle))
