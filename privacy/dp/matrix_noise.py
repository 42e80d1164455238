"""The noise of a `matrix.Plan`, round by round, in whole grid steps: exact over a restart.

Its state is a secret key and how many rounds were made: a restart makes them again from the key, bit for bit,
and a keyed digest of all of them shows that it did. Memory is O(bands d), or O(log T d) for the tree. The key
is as secret as the sums: whoever has it takes the noise off. A round's noise goes onto ONE sum; a round that
may have been published is published again as it was, or left out, never with another sum.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from carpool.privacy.dp.matrix import FRACTION, SLACK, Plan, delta_slack, raw_sigma
from carpool.privacy.dp.randomness import Bits, KeyedBits, SeededBits, derived
from carpool.privacy.dp.toeplitz import inverse
from carpool.privacy.dp.tree import WEIGHT_BITS, levels, weights
from carpool.privacy.dp.wide import wide_gaussian
from carpool.privacy.errors import PrivacyRefused, RunError

Numbers = NDArray[np.int64]
Draw = Callable[[], Numbers]
"""One vector of raw noise, int64 [d]."""
_TAIL = 16
"""No number is expected beyond so many standard deviations: probability e^-128."""


class State(Protocol):
    """What turns raw noise into the noise of the next round."""

    def step(self, round_: int, draw: Draw) -> Numbers:
        """The noise of round 1, 2, ...; draws as many raw vectors as it needs."""


class ToeplitzState:
    """x_t = round((z_t - sum_(j>=1) a_j x_(t-j)) / 2^FRACTION): the last bands - 1 rounds' noise, int64."""

    def __init__(self, coefficients: tuple[int, ...], d: int) -> None:
        self._rest = np.array(coefficients[1:], np.int64)
        self._last = np.zeros((len(self._rest), d), np.int64)

    def step(self, round_: int, draw: Draw) -> Numbers:
        """The noise of a round, int64 [d]."""
        noise, kept = draw(), len(self._rest)
        if kept:
            turned = np.empty_like(self._rest)
            turned[(round_ - 1 - np.arange(kept)) % kept] = self._rest
            noise -= turned @ self._last
        noise += 1 << (FRACTION - 1)
        noise >>= FRACTION
        if kept:
            self._last[round_ % kept] = noise
        return noise


class TreeState:
    """What the estimate of the running sum gained in a round: the noise of the nodes of its binary digits."""

    def __init__(self, rounds: int, d: int) -> None:
        self._weights = weights(levels(rounds))
        self._nodes: list[Numbers] = []
        self._before = np.zeros(d, np.int64)

    def step(self, round_: int, draw: Draw) -> Numbers:
        """The noise of a round, int64 [d]."""
        estimate, level = draw(), 0
        while round_ >> level & 1 == 0:  # every digit that turns 0 completes a node above
            level += 1
            children = self._nodes.pop() + estimate
            own = draw()
            children -= own
            children *= self._weights[level]
            children += 1 << (WEIGHT_BITS - 1)
            children >>= WEIGHT_BITS
            estimate = own + children
        self._nodes.append(estimate)
        now: Numbers = np.sum(self._nodes, axis=0, dtype=np.int64)
        now += 1 << (FRACTION - 1)
        now >>= FRACTION
        gained = now - self._before
        self._before = now
        return gained


class MatrixNoise:
    """The noise of rounds 1 .. T of a plan, one after the other."""

    def __init__(self, plan: Plan, width: float, d: int, secret: bytes | int) -> None:
        """Raw noise of standard deviation `width` clip norms (`plan.width`) for vectors of d numbers.

        secret: 16 bytes from os.urandom, kept with the checkpoint and used for this training alone; an int is
        a seed, and NOT private. Raises ValueError for a width that is too small to pass for continuous noise
        (see `delta_slack`) or too large for 64 bits, and for another d or secret.
        """
        if d < 1:
            raise ValueError(f"noise has 1 number or more, not {d}")
        _check_width(plan, width, d)
        self.plan, self.width, self.d, self.round = plan, width, d, 0
        self.private = isinstance(secret, bytes)
        self._secret, self._sigma = secret, raw_sigma(width)
        self._state: State = (
            ToeplitzState(plan.coefficients, d) if plan.coefficients else TreeState(plan.rounds, d)
        )
        self._digest = hashlib.blake2b(key=derived(_bytes(secret), "matrix/digest"), digest_size=32)
        self._digest.update(repr((plan.facts(), width, d)).encode())

    def next(self) -> Numbers:
        """The noise of the next round in grid steps, a new int64 [d]; PrivacyRefused after the last."""
        if self.round >= self.plan.rounds:
            raise PrivacyRefused(
                f"the noise was made for {self.plan.rounds} rounds and all are used; stop here, or start "
                "a new training with its own charge"
            )
        bits = self._bits(self.round + 1)
        noise = self._state.step(self.round + 1, lambda: wide_gaussian(bits, self._sigma, self.d))
        self.round += 1
        self._digest.update(noise.astype("<i8", copy=False).data)
        return noise

    def digest(self) -> bytes:
        """32 bytes of the key, the plan and all noise so far; for the checkpoint, beside `round`."""
        return self._digest.copy().digest()

    def forward(self, round_: int, digest: bytes) -> None:
        """Make again the noise up to and with `round_`, as after a restart, and compare; raises RunError.

        The time is that of the rounds made again.
        """
        if not self.round <= round_ <= self.plan.rounds:
            raise RunError(
                f"the noise stands at round {self.round} of {self.plan.rounds} and cannot go to {round_}; "
                "begin again from the key"
            )
        while self.round < round_:
            self.next()
        if not hmac.compare_digest(self.digest(), digest):
            raise RunError(
                f"the noise of rounds 1 to {round_} is not what it was before the restart: another key, plan "
                "or version of the sampler; go on with those that the training began with"
            )

    def _bits(self, round_: int) -> Bits:
        # A stream a round, so that a round's noise never depends on how many words another one used.
        if isinstance(self._secret, bytes):
            return KeyedBits(self._secret, f"matrix/round/{round_}")
        return SeededBits(self._secret + (round_ << 64))

    def __repr__(self) -> str:
        return f"MatrixNoise({self.plan.kind}, round {self.round} of {self.plan.rounds}, d={self.d})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("noise is never copied or sent: the copy would repeat it; make it from the key")


def _bytes(secret: bytes | int) -> bytes:
    if isinstance(secret, bytes):
        return secret
    if not 0 <= secret < 1 << 64:
        raise ValueError(f"a seed is from 0 up to 2^64 - 1, not {secret}")
    return secret.to_bytes(16, "little")


def _check_width(plan: Plan, width: float, d: int) -> None:
    if not 0 < width < float("inf"):
        raise ValueError(f"raw noise has a finite width above 0, not {width}")
    slack = delta_slack(plan, width, d)
    if slack > SLACK:
        raise ValueError(
            f"raw noise of {width:g} clip norms on {d} numbers would add {slack:.1g} to delta by being "
            f"discrete, more than {SLACK:g}; use noise {(slack / SLACK) ** 0.5:.2g} times as wide"
        )
    largest = _largest(plan, raw_sigma(width) * _TAIL)
    if largest >= 2.0**63:
        most = width * 2.0**63 / largest
        raise ValueError(f"raw noise of {width:g} clip norms does not fit 64 bits; use less than {most:.3g}")


def _largest(plan: Plan, raw: float) -> float:
    """No number on the way exceeds this while raw noise stays within `raw`."""
    if not plan.coefficients:
        return raw * (3 * levels(plan.rounds) + 3) * (1 << WEIGHT_BITS)
    out = raw * float(np.abs(inverse(plan.column, plan.rounds)).sum()) / (1 << FRACTION)
    return raw + out * float(np.abs(np.array(plan.coefficients)).sum())
