"""A hash over all that a server of `secagg+` took and sent in a round, so that it can be held against others.

A record a step: its name, then vehicle and SHA-256 of each message taken, then of each message sent, both in
the order of vehicles; each record is hashed onto the one before. The order of arrival is not in it. What was
refused is not in it either, since it changed nothing. For masked vectors the hash is over the signature and
the vector's SHA-256, which the signature is over.
"""

from __future__ import annotations

from collections.abc import Mapping

from carpool.privacy import signing
from carpool.privacy.secagg.plus_keys import VERSION


class Transcript:
    """The running hash, 32 bytes; it begins with the announcement's digest."""

    def __init__(self, announced: bytes) -> None:
        self.hash = signing.digest("carpool/secagg+/transcript", VERSION, [announced])
        self._taken: dict[int, bytes] = {}

    def take(self, vehicle: int, digest: bytes) -> None:
        """Note a message that was taken in this step, one a vehicle."""
        self._taken[vehicle] = digest

    def close(self, step: str, sent: Mapping[int, bytes]) -> None:
        """End a step. sent: SHA-256 of each message sent, by vehicle; of what is for everybody, by 0."""
        parts = [self.hash, step.encode(), _rows(self._taken), _rows(sent)]
        self.hash = signing.digest("carpool/secagg+/transcript", VERSION, parts)
        self._taken = {}


def _rows(digests: Mapping[int, bytes]) -> bytes:
    return b"".join(v.to_bytes(8, "little") + digests[v] for v in sorted(digests))
