"""Public randomness: 32 bytes that draw committees and the graphs of `secagg+`, out of the transparency log.

    seed = SHA-256("carpool/beacon" || purpose || about || state of the log || source || number || value)

state: the last checkpoint BEFORE the use (its origin, size and root, not its signature or time). value: what
a public source outside (such as drand) published as its `number`-th, or nothing. Purposes are told apart.

What holds, and against whom. A seed draws from a list (a pool of nodes; the vehicles' keys). Bell et al. and
the committee's binomial law are about ONE draw that does not depend on who is in the list.

1. No value from outside, honest-but-curious or semi-malicious server (it writes the log and takes up vehicles
   as an honest one would, then does as it likes): the draw is as random as the vehicles' fresh keys in the
   roster (`roster_hash`) and what is in the log; the parameters' bounds hold.
2. No value from outside, malicious server: NOTHING holds about the draw. It knows what the seed is made of
   before it settles the list, and can try lists, entries or keys of its own vehicles until the draw suits it:
   2^w tries cost w bits of the 2^-40. The log shows the list that it settled on, not the tries.
3. A value from outside, the list committed to in the log (`pool`, `keys`) under a checkpoint that others hold
   before the value is published (`Source.first_after`): the server gets one draw a commitment. It can still
   let a round lapse and commit again; every try is one more commitment in the log.
4. A value from outside that was published BEFORE the list was settled is no better than 2.

A `secagg+` round commits to its ordered list of keys first (entry `keys`; the announcement holds no beacon),
and the seed is that of the very checkpoint that signs the commitment (following.py), so that a value from
outside fits in between. Runs have none: 1 and 2 are what holds for them.

In this version nothing fetches a value or checks a source's signature (drand's are BLS12-381, which
`cryptography` does not have): whoever gives one vouches for it, and the log's entry `beacon` lets everybody
compare it later. That nobody knew the value earlier is the source's promise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from carpool.privacy import signing
from carpool.privacy.errors import PrivacyRefused
from carpool.privacy.transparency import Checkpoint

LABEL, VERSION = "carpool/beacon", 1
PURPOSES = ("committee", "graph")
SEED = 32


@dataclass(frozen=True)
class External:
    """The `number`-th value (32 bytes) of a public source."""

    source: str
    number: int
    value: bytes

    def __post_init__(self) -> None:
        name = self.source
        if not (0 < len(name) <= 64 and name.isascii() and name.isprintable() and " " not in name):
            raise ValueError(f"a source of randomness has a name of 1 to 64 characters, not {name!r}")
        if len(self.value) != SEED or not 0 <= self.number < 1 << 63:
            raise ValueError(
                f"value {self.number} of {self.source} has {len(self.value)} bytes; a public value has "
                f"{SEED} and a number of 0 or more"
            )

    @property
    def fields(self) -> dict[str, Any]:
        """Of the log's entry of kind `beacon`."""
        return {"source": self.source, "position": self.number, "value": self.value.hex()}


@dataclass(frozen=True)
class Source:
    """A source that publishes its value 1 at `genesis` (Unix seconds), and one every `period` seconds then.

    margin: seconds by which clocks may differ, and that the source's own servers may know a value earlier.
    """

    name: str
    genesis: int
    period: int
    margin: int = 30

    def __post_init__(self) -> None:
        if self.period < 1 or self.margin < 0:
            raise ValueError(f"a period of {self.period} s and a margin of {self.margin} s are no source's")

    def first_after(self, at: float) -> int:
        """The number of the first value that nobody knew at Unix seconds `at`.

        >>> [Source("drand", 1000, 30, margin=0).first_after(at) for at in (0, 999, 1000, 1029, 1030)]
        [1, 1, 2, 2, 3]
        """
        return max(1, math.floor((at + self.margin - self.genesis) / self.period) + 2)

    def check(self, external: External, committed: Checkpoint) -> None:
        """Raise PrivacyRefused unless the value is the first after the commitment: not known, not chosen."""
        wanted = self.first_after(committed.at)
        if external.source != self.name or external.number != wanted:
            raise PrivacyRefused(
                f"the randomness is value {external.number} of {external.source}; for a commitment of "
                f"{committed.at} it must be value {wanted} of {self.name}"
            )


def seed(purpose: str, about: bytes, state: Checkpoint, external: External | None = None) -> bytes:
    """The randomness, 32 bytes, of one use. about: the round or the epoch; state: the checkpoint before it.

    With `external`, `state` has the commitment to the list in it. Raises ValueError for an unknown purpose.
    """
    if purpose not in PURPOSES:
        raise ValueError(f"randomness is for one of {', '.join(PURPOSES)}, not for {purpose!r}")
    parts = [purpose.encode(), about, state.hash]
    if external is not None:
        parts += [external.source.encode(), external.number.to_bytes(8, "little"), external.value]
    return signing.digest(LABEL, VERSION, parts)


def for_epoch(epoch: int, state: Checkpoint, external: External | None = None) -> bytes:
    """What draws a committee from the pool of an epoch (`secagg.committee.sample`)."""
    return seed("committee", epoch.to_bytes(8, "little"), state, external)


def for_round(round_id: bytes, state: Checkpoint, external: External | None = None) -> bytes:
    """The beacon of a `secagg+` round; the graph's seed is made of it and of everybody's keys."""
    if len(round_id) != 16:
        raise ValueError(f"a round's id has 16 bytes, not {len(round_id)}")
    return seed("graph", round_id, state, external)


def check(claimed: bytes, expected: bytes) -> None:
    """Raise PrivacyRefused unless the randomness that the server names is what the log gives."""
    if claimed != expected:
        raise PrivacyRefused(
            f"the round's randomness {claimed.hex()[:16]}… is not the log's {expected.hex()[:16]}…; the "
            "server may have chosen it"
        )
