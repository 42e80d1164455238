"""Opening the secrets of a `secagg+` round from the shares that came: many secrets at once.

A secret that cannot be opened, or whose shares do not agree, voids the round (RoundError).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from carpool.privacy.errors import RoundError
from carpool.privacy.secagg import messages as m
from carpool.privacy.secagg import shamir
from carpool.privacy.secagg.masks import KEY
from carpool.privacy.secagg.plus_keys import mask_key

_NOTHING = m.Shares({}, {})


@dataclass(frozen=True, repr=False)
class Openings:
    """near: everybody's neighbours; points: everybody's, from 1; opened: the shares that came, by holder."""

    near: Mapping[int, tuple[int, ...]]
    points: Mapping[int, int]
    threshold: int
    opened: Mapping[int, m.Shares]

    def seeds(self, vehicles: Sequence[int], revealed: int) -> dict[int, bytes]:
        """Each one's seed, followed by its `revealed` extra ones, 16 bytes each."""
        return self._secrets(vehicles, {h: one.seeds for h, one in self.opened.items()}, KEY * (1 + revealed))

    def keys(self, vehicles: Sequence[int]) -> dict[int, bytes]:
        """Each one's agreement key, 32 bytes."""
        return self._secrets(vehicles, {h: one.keys for h, one in self.opened.items()}, 32)

    def _secrets(
        self, vehicles: Sequence[int], held: Mapping[int, Mapping[int, bytes]], length: int
    ) -> dict[int, bytes]:
        """The secrets, `length` bytes each; those with equally many shares are opened together."""
        alike: dict[int, list[tuple[int, list[int], bytes]]] = {}
        for vehicle in vehicles:
            holders = [h for h in self.near[vehicle] if vehicle in held.get(h, {})]
            shares = b"".join(held[h][vehicle] for h in holders)
            alike.setdefault(len(holders), []).append((vehicle, [self.points[h] for h in holders], shares))
        found: dict[int, bytes] = {}
        for count, group in alike.items():
            if count < self.threshold:
                raise _shut(group[0][0], f"{count} shares do not open {self.threshold}")
            points = np.array([row for _, row, _ in group], np.uint64)
            rows = np.frombuffer(b"".join(shares for _, _, shares in group), "<u4").astype(np.uint64)
            rows = rows.reshape(len(group), count, length // 2)
            secrets, fine = shamir.combine_many(points, rows, self.threshold)
            if not fine.all():
                raise _shut(group[int(np.argmin(fine))][0], "its shares do not agree")
            found |= {vehicle: secret for (vehicle, _, _), secret in zip(group, secrets, strict=True)}
        return {vehicle: found[vehicle] for vehicle in vehicles}


def left_masks(
    about: bytes,
    keys: Mapping[int, bytes],
    advertised: Mapping[int, m.Advertisement],
    near: Mapping[int, tuple[int, ...]],
    masked: Collection[int],
) -> tuple[list[bytes], list[bytes]]:
    """The masks that the neighbours of who left have put on, as keys: to add to the sum, and to subtract.

    about: the round's context; keys: the agreement keys of who left. RoundError for one that is not its own.
    """
    add: list[bytes] = []
    subtract: list[bytes] = []
    for gone, private in keys.items():
        key = X25519PrivateKey.from_private_bytes(private)
        if key.public_key().public_bytes_raw() != advertised[gone].agreement:
            raise RoundError(f"the opened key of vehicle {gone} is not what it advertised; void round")
        for v in near[gone]:
            if v in masked:
                common = mask_key(key, advertised[v].agreement, about, gone, v)
                (subtract if gone > v else add).append(common)
    return add, subtract


def _shut(vehicle: int, why: str) -> RoundError:
    return RoundError(f"a secret of vehicle {vehicle} cannot be opened: {why}; void round")
