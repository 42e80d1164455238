"""The `central` mechanism: discrete Gaussian noise, made by the aggregator, on the sum of clipped vectors.

Unit: what one contribution is of (vehicle; owner with one contribution a round; vehicle-day). Relation:
    zero-out or add-remove; replace-one moves a sum twice as far, which the accountant counts.
Sensitivity: one clip norm in L2 over ALL channels together, since `grid.Grid.whole`, which checks it in exact
    integers, is the only way into a sum, and what it refuses adds nothing.
Theorem: Gaussian mechanism, Balle and Wang 2018, arXiv:1805.06530, Theorem 8; in whole numbers by grid.py.
Event: "gaussian" a released sum, as planned: noise of the aggregator's own is not lost with vehicles.
Not covered: the aggregator, which sees sums without noise (and under `sealed` each update); who replied, as a
    round that is void for want of replies shows; a fresh copy of the noise on the same sum.

Every channel and number gets noise. A sum of no contributions is released like any other, noise alone, so
that nothing shows that it was empty; whether a round is void is for the server to decide before this, from
what is public. What is divided by is public, too: the planned cohort, never how many replied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from carpool.privacy.dp.events import Event
from carpool.privacy.dp.grid import MOST, Grid, GridSum, Total, check_noise, gaussian, noised_ring
from carpool.privacy.dp.randomness import Bits
from carpool.privacy.errors import RoundError
from carpool.privacy.secagg.masks import Ring
from carpool.privacy.vectors import Vector


@dataclass(frozen=True)
class CentralPlan:
    """How sums are released.

    clip_norm: weight units; noise_multiplier: standard deviation of the noise in a sum, in clip norms; sizes:
    numbers by channel; denominator: a public constant above 0, in contributions (the planned cohort; under
    Poisson sampling the expected one; where weights count, times their planned mean over the largest).
    Raises ValueError.
    """

    clip_norm: float
    noise_multiplier: float
    sizes: Mapping[str, int]
    denominator: float

    def __post_init__(self) -> None:
        check_noise(self.noise_multiplier)
        if not 0 < self.denominator <= MOST:  # NaN, too
            raise ValueError(f"sums are divided by {self.denominator}; use the planned cohort, above 0")
        _ = self.grid

    @cached_property
    def grid(self) -> Grid:
        """What one contribution is."""
        return Grid(self.sizes, self.clip_norm)

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on each number of a sum, weight units."""
        return self.noise_multiplier * self.clip_norm

    def begin(self) -> GridSum:
        """An empty sum for one round."""
        return GridSum(self.sizes, self.clip_norm)

    def event(self, sampling_rate: float = 1.0, rounds: int = 1) -> Event:
        """What `rounds` releases are charged as.

        sampling_rate: below 1 only where each vehicle is drawn independently with at most this probability
        (the Poisson selector), in secret from those the epsilon is stated against. Raises ValueError.
        """
        return Event("gaussian", self.noise_multiplier, sampling_rate, rounds)

    def release(self, total: GridSum | Ring, bits: Bits, width: int = 32) -> dict[str, Vector]:
        """The mean: noised sum over the denominator, float32 by channel, weight units; see `sums`."""
        return self.grid.floats(self._noised(total, bits, width), self.denominator)

    def sums(self, total: GridSum | Ring, bits: Bits, width: int = 32) -> dict[str, Vector]:
        """The noised sum, float32 by channel, weight units. Charge it first.

        total: taken, so that it is released once; or the sum mod 2^width of `Grid.whole`, uint32 [d], that a
        secure aggregation gave. bits: fresh ones from the operating system; where `bits.private` is False,
        what comes out is NOT PRIVATE. Raises RoundError for a sum of another form, or one that was taken.
        """
        return self.grid.floats(self._noised(total, bits, width))

    def _noised(self, total: GridSum | Ring, bits: Bits, width: int) -> Total:
        noise = gaussian(bits, self.noise_multiplier, self.grid.size)
        if not isinstance(total, GridSum):
            return noised_ring(total, noise, width)
        if total.grid != self.grid:
            raise RoundError(f"a sum of {total.grid} is not one of {self.grid}; begin it with this plan")
        noise += total.take()
        return noise
