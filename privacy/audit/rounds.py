"""What the audit asks of a mechanism, and what a mechanism claims: plain data, and one callable.

A mechanism, ours or a stranger's, is plugged in as a `Round`: a function from an `Ask` to what was released.
The audit is gray-box: it hands in the contributions, the randomness and who is lost, and sees what leaves.
Everything below is measured in clip norms and in the SUM: what is released, times its block's public
divisor, over its block's clip norm. So means and sums, and channels of different sizes, compare.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from carpool.privacy.dp.events import RELATIONS, Event, Relation

Array = NDArray[Any]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Contribution:
    """What one vehicle has to say: tensors by name, the weight it reports for itself, both perhaps hostile.

    silent: the neighbour of the zero-out relation, whose MESSAGE is zeros (whatever is made from its tensors
    on the way, a bit that says whether they were clipped, too) while its noise stays. Its tensors are zeros.
    """

    vehicle: str
    tensors: Mapping[str, Array]
    weight: float = 1.0
    silent: bool = False


@dataclass(frozen=True)
class Ask:
    """One round to run.

    cohort: of those asked, who would contribute; number: of the round in its training, from 1; randomness:
    ALL that is random in this training follows from it, the round's number and the vehicle's name (None: the
    mechanism's own, as in production); lost: vehicles that leave before their upload is whole; late: vehicles
    that leave right after it (whether they count is the mechanism's choice); exact: the sum is wanted, too.
    """

    cohort: tuple[Contribution, ...]
    number: int = 1
    randomness: int | None = None
    lost: frozenset[str] = frozenset()
    late: frozenset[str] = frozenset()
    exact: bool = False


@dataclass(frozen=True)
class Released:
    """What left in one round.

    vectors: ALL that leaves, by block (metrics and buffers too); none of it if the round was void. counted,
    refused: names of the vehicles in the sum, and of those dropped for what they sent. charged: by part of
    the claim, what the ledger was charged (one event; none for what an earlier round paid). exact: the sum
    before its noise, by block, in the unit of vectors times divisor, where asked for and known.
    """

    vectors: Mapping[str, Array]
    counted: tuple[str, ...]
    refused: tuple[str, ...] = ()
    charged: Mapping[str, Event] = field(default_factory=dict)
    exact: Mapping[str, Array] | None = None


class Round(Protocol):
    """A mechanism. It raises RoundError or PrivacyRefused, or releases no vectors, for a void round."""

    def __call__(self, ask: Ask, /) -> Released:
        """Run one round."""


@dataclass(frozen=True)
class Block:
    """One vector that is released: how many numbers, the public constant it is divided by, its clip norm.

    clip: what one clip norm is in this block, in the unit of the sum (channels may be scaled apart).
    """

    size: int
    clip: float
    divisor: float = 1.0


@dataclass(frozen=True)
class Part:
    """Blocks that one noise and one charge cover together.

    noise_multiplier: standard deviation of the noise on each number of the sum, in clip norms; sensitivity:
    how far neighbours of the claimed relation may move all blocks together, L2, in clip norms.
    """

    name: str
    blocks: Mapping[str, Block]
    noise_multiplier: float
    sensitivity: float = 1.0


@dataclass(frozen=True)
class Claim:
    """What a mechanism says of itself, and the audit holds it to.

    tensors: shapes of what a vehicle hands in; clip_norm: of that, weight units; planned: vehicles asked;
    epsilon, delta: of `rounds` rounds in which nobody is lost; noise: who adds it; tolerated: largest share
    of the planned vehicles that may be lost before the noise is less than the parts' (it must be charged as
    it is, whatever is lost). mixing [T, T], for noise that is correlated over a training of T = `rounds`
    rounds: mixing @ noise is independent over the rounds, of the parts' noise multiplier, and what the parts'
    sensitivity bounds is mixing @ (difference of whole trainings); takes: rounds, from 1, that one vehicle
    may take part in, the worst for it. Raises ValueError.
    """

    tensors: Mapping[str, tuple[int, ...]]
    clip_norm: float
    parts: tuple[Part, ...]
    planned: int
    epsilon: float
    delta: float
    rounds: int = 1
    relation: Relation = "zero-out"
    noise: Literal["server", "vehicle"] = "server"
    tolerated: float = 1.0
    mixing: Numbers | None = None
    takes: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        names = [name for part in self.parts for name in part.blocks]
        if not self.tensors or not names or len(set(names)) != len(names):
            raise ValueError(
                f"blocks {names} of {len(self.tensors)} tensors: each is claimed once, one or more"
            )
        if self.relation not in RELATIONS or self.planned < 1 or self.rounds < 1:
            raise ValueError(
                f"relation {self.relation!r}, {self.planned} vehicles, {self.rounds} rounds: use one of "
                f"{', '.join(RELATIONS)} and 1 or more"
            )
        if self.mixing is not None and self.mixing.shape != (self.rounds, self.rounds):
            raise ValueError(f"the mixing of {self.rounds} rounds has shape {self.mixing.shape}")
        if not self.takes or not all(1 <= number <= self.span for number in self.takes):
            raise ValueError(f"a vehicle takes part in rounds {self.takes} of {self.span}")

    @property
    def span(self) -> int:
        """Rounds that must be looked at together: 1, or a whole training where noise is correlated."""
        return 1 if self.mixing is None else self.rounds

    @property
    def blocks(self) -> Mapping[str, Block]:
        """All blocks of all parts."""
        return {name: block for part in self.parts for name, block in part.blocks.items()}

    @property
    def size(self) -> int:
        """Numbers that a vehicle hands in."""
        return sum(math.prod(shape) for shape in self.tensors.values())

    def mixed(self, rows: Numbers) -> Numbers:
        """Rows [T, n] of a block as the independent ones that the claim is about."""
        return rows if self.mixing is None else self.mixing[: len(rows), : len(rows)] @ rows


def in_clips(block: Block, vector: Array, *, divided: bool = True) -> Numbers:
    """A released vector (or, not divided, an exact sum) in clip norms of the sum, float64 [size]."""
    scale = (block.divisor if divided else 1.0) / block.clip
    return np.asarray(vector, np.float64).reshape(-1) * scale
