"""What an experiment asks of secure aggregation, as vehicles and server both read it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from carpool.privacy.dp.protection import NOISED_BEFORE, Protection
from carpool.privacy.secagg.parameters import Adversary
from carpool.privacy.secagg.plus_policy import Policy
from carpool.privacy.secagg.quantise import Bits
from carpool.privacy.secagg.sumform import Form, SumForm, parts_of

Name = Literal["secagg+", "one-shot", "helpers"]


class ChannelLike(Protocol):
    """What there is to know of a strategy's channel."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def weight(self) -> str:
        """ "strategy" or "one"."""

    @property
    def clip(self) -> float | None:
        """The L2 norm that vehicles clip to."""


@dataclass(frozen=True)
class Settings:
    """protocol; n_min: fewest vehicles in a released sum; most_weight: a larger weight counts as this.

    bits: of the ring; rotate: channels are rotated at random before they are rounded; adversary, gamma,
    delta: for the graph of `secagg+`; extras: seeds for noise that can be taken back, of each vehicle;
    protection: the noise, None without; per_version: of buffers, fewest vehicles that started from the same
    version, 0: n_min; most: vehicles that forms have room for, however few are asked: what is charged is
    of one form.
    """

    protocol: Name
    n_min: int
    most_weight: float
    bits: Bits = 32
    rotate: bool = False
    adversary: Adversary = "semi-malicious"
    gamma: float = 0.05
    delta: float = 0.4
    extras: int = 0
    protection: Protection | None = None
    per_version: int = 0
    most: int = 0

    @property
    def least(self) -> int:
        """Fewest vehicles of a version in a buffer's sum."""
        return self.per_version or self.n_min

    @property
    def policy(self) -> Policy:
        """What a vehicle holds a round of `secagg+` to."""
        return Policy(self.n_min, self.gamma, self.delta, self.adversary, self.extras)

    def form(
        self,
        channels: Sequence[ChannelLike],
        sizes: Mapping[str, int],
        *,
        most: int,
        about: str,
        variance: float = 0.0,
        seed: int = 0,
        vehicle: int = 0,
    ) -> Form:
        """The form of a round's vectors; about: run, round and pass in words, public, for the rotation.

        seed, vehicle: for noise that is NOT PRIVATE, where the protection says so.

        Raises ValueError for a channel without a clip norm, and where the ring is too small for `most`.
        """
        rotation = hashlib.sha256(b"carpool/secagg/rotation/" + about.encode()).digest()[:16]
        if self.protection is not None and self.protection.mechanism not in NOISED_BEFORE:
            return self._private(sizes, most, rotation, variance, seed, f"{about}/{vehicle}")
        rows = []
        for channel in channels:
            if channel.clip is None:
                raise ValueError(f"channel {channel.name} has no clip norm, so its numbers have no range")
            rows.append((channel.name, sizes[channel.name], channel.clip, channel.weight == "strategy"))
        turned = rotation if self.rotate else None
        return SumForm(parts_of(rows), most, self.most_weight, self.bits, turned, variance)

    def _private(
        self, sizes: Mapping[str, int], most: int, rotation: bytes, variance: float, seed: int, about: str
    ) -> Form:
        from carpool.privacy.dp import forms

        if self.protection is None:
            raise ValueError("there is no noise to make room for")
        return forms.form_for(
            self.protection,
            sizes,
            most=most,
            n_min=self.n_min,
            bits=self.bits,
            rotation=rotation,
            gamma=self.gamma,
            delta=self.delta,
            extras=self.extras,
            variance=variance,
            seed=seed,
            purpose=f"skellam/{about}",
        )


def buffer_about(run: str, round_id: bytes) -> str:
    """A buffer in words, for the rotation of its form."""
    return f"{run}/buffer/{round_id.hex()}"
