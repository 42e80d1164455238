"""How much noise each vehicle adds in parts, so that a sum has the planned noise whoever leaves. XNoise.

Unit: one vehicle; relation: the mechanism's own, nothing is decided here.
Sensitivity: none of its own; it is arithmetic over variances, s being the variance that a sum must keep.
Theorem: Jiang et al. 2024 (Dordis, EuroSys), arXiv:2209.12528, XNoise: variances of independent noises add.
Event: the caller charges `realised` times s, once the list of the sum is certified and before it is opened.
Not covered: vehicles that add no noise (calibrate s to the honest ones), more losses than planned (`realised`
then says how much is missing), and what the noise's distribution does when it is split (Skellam is closed).

With U vehicles in the roster, T = floor(delta U) planned losses and L = min(extras, T) levels, at boundaries
0 = l_0 < ... < l_L = T, each vehicle adds a base of variance s / U and components j = 1..L of variance
s / (U - l_j) - s / (U - l_(j-1)), each from a seed of its own. When D vehicles are missing from the sum, the
seeds of the components with l_(j-1) >= D are revealed and these are taken off; what stays has s or more.
"""

from __future__ import annotations

import itertools
import math

MOST_EXTRAS = 16
"""Most levels: each is one more seed that every vehicle shares with its neighbours."""


def boundaries(roster: int, delta: float, extras: int) -> tuple[int, ...]:
    """l_0 = 0 < l_1 < ... < l_L = T, losses among `roster` vehicles; (0,) without levels. ValueError.

    >>> boundaries(100, 0.1, 4)
    (0, 3, 5, 8, 10)
    """
    if roster < 1 or not 0 <= delta < 1 or not 0 <= extras <= MOST_EXTRAS:
        raise ValueError(
            f"{roster} vehicles, leaving share {delta} and {extras} extra seeds: use 1 vehicle or more, a "
            f"share from 0 to below 1 and at most {MOST_EXTRAS} seeds"
        )
    planned = min(math.floor(delta * roster + 1e-9), roster - 1)
    levels = min(extras, planned)
    return (0, *(-(-j * planned // levels) for j in range(1, levels + 1)))


def shares(roster: int, delta: float, extras: int) -> tuple[float, ...]:
    """Variances of one vehicle's base and components 1..L, float, in units of s; all above 0."""
    at = boundaries(roster, delta, extras)
    steps = (  # one fraction each: a difference of two would lose digits
        (high - low) / ((roster - high) * (roster - low)) for low, high in itertools.pairwise(at)
    )
    return (1 / roster, *steps)


def revealed(roster: int, counted: int, delta: float, extras: int) -> tuple[int, ...]:
    """The components, from 1, whose seeds are opened when `counted` of `roster` vehicles are in the sum.

    With more losses than planned, none. Raises ValueError.
    """
    at = boundaries(roster, delta, extras)
    lost = _lost(roster, counted)
    return tuple(j for j in range(1, len(at)) if at[j - 1] >= lost)


def realised(roster: int, counted: int, delta: float, extras: int) -> float:
    """The variance that stays in the sum, in units of s: at least 1 for every planned loss if L > 0."""
    at = boundaries(roster, delta, extras)
    lost = _lost(roster, counted)
    kept = next((limit for limit in at if limit >= lost), at[-1])
    return counted / (roster - kept)


def _lost(roster: int, counted: int) -> int:
    if not 0 <= counted <= roster:
        raise ValueError(f"{counted} vehicles are in the sum, but {roster} in the roster")
    return roster - counted
