"""Integer noise by table inversion: exact to 2^-110 in total variation, with no float at decision time.

A draw is a uniform number u of 128 bits against a table's thresholds (carpool.privacy.dp.tables), of which
only the bits that decide are read: 16 for nearly every draw; 64 more where the cell of these holds a
threshold; the last 48 where all 64 are equal to the threshold's, once in 2^64 such draws. The words are read
in a fixed order, so that the same stream gives the same noise on every machine.

    block of 2^16 draws: 2 bytes a draw, padded to a word | 2 words for each undecided one | 2 for each tie

Beyond a table's LARGEST = 8192: a Skellam number is the sum of Skellam numbers of smaller variance (exact); a
discrete Gaussian is x + k y with x of parameter 3 k (Micciancio and Walter 2017, eprint 2017/259: the
chance of z is exp(-z^2 / 2 sigma^2) times a sum over z + k Z that varies by a share of less than 2^-250).

Not covered: time, which depends on what is drawn (Jin et al. 2022, arXiv:2112.05307).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carpool.privacy.dp.randomness import Bits
from carpool.privacy.dp.tables import LARGEST, Table, gaussian_table, skellam_table

Whole = NDArray[np.int64]
DRAWS = 1 << 16
"""A block: it stays in the second-level cache with its table."""
LARGEST_GAUSSIAN = 2.0**23
LARGEST_SKELLAM = 64 * LARGEST**2
"""Of the variance: a sum of 64."""


def discrete_gaussian(bits: Bits, sigma: float, n: int) -> Whole:
    """n draws of the discrete Gaussian, P(k) = exp(-k^2 / 2 sigma^2) / sum, as int64 [n].

    sigma: 0 (then zeros) to LARGEST_GAUSSIAN. Raises ValueError for another, NaN included, and for n < 0.
    """
    out = _zeros(n)
    if not 0 <= sigma <= LARGEST_GAUSSIAN:
        raise ValueError(
            f"sigma {sigma} of a discrete Gaussian; use 0 to {LARGEST_GAUSSIAN:.0f}, a coarser scale"
        )
    if sigma > LARGEST:
        k = math.ceil(2 * sigma / LARGEST)
        _add(gaussian_table(math.sqrt(sigma * sigma - 9.0 * k * k) / k), bits, out)
        out *= k
        _add(gaussian_table(3.0 * k), bits, out)
    elif sigma > 0:
        _add(gaussian_table(sigma), bits, out)
    return out


def skellam(bits: Bits, variance: float, n: int) -> Whole:
    """n draws of the Skellam distribution of mean 0 as int64 [n]; arguments as `add_skellam`."""
    out = _zeros(n)
    add_skellam(bits, variance, out)
    return out


def add_skellam(bits: Bits, variance: float, vector: NDArray[Any]) -> None:
    """Add Skellam noise to int32, int64 or uint32 [n] in place (the last wraps, mod 2^32).

    variance: 0 (then nothing is added) to LARGEST_SKELLAM, above LARGEST^2 as a sum of equal ones. Raises
    ValueError for another, NaN included, or a vector of another kind.
    """
    if vector.dtype not in (np.int32, np.int64, np.uint32) or vector.ndim != 1:
        raise ValueError(f"noise is added to one row of whole numbers, not to {vector.dtype} {vector.shape}")
    if not 0 <= variance <= LARGEST_SKELLAM:
        raise ValueError(f"a Skellam variance of {variance}; use 0 to {LARGEST_SKELLAM:.0f}, a coarser scale")
    if variance > 0:
        times = math.ceil(variance / LARGEST**2)
        for _ in range(times):
            _add(skellam_table(variance / times), bits, vector)


def _zeros(n: int) -> Whole:
    if n < 0:
        raise ValueError(f"a number of draws is 0 or more, not {n}")
    return np.zeros(n, np.int64)


def _add(table: Table, bits: Bits, vector: NDArray[Any]) -> None:
    found = np.empty(min(DRAWS, len(vector)), np.int32)
    for start in range(0, len(vector), DRAWS):
        part = vector[start : start + DRAWS]
        _draw(table, bits, found[: len(part)])
        np.add(
            part,
            found[: len(part)].view(np.uint32) if part.dtype == np.uint32 else found[: len(part)],
            out=part,
        )


def _draw(table: Table, bits: Bits, out: NDArray[np.int32]) -> None:
    """Fill a block, int32 [n <= DRAWS]."""
    n = len(out)
    cells = bits.words((n + 1) // 2).view("<u2")[:n]
    table.guide.take(cells, out=out, mode="clip")
    undecided = np.flatnonzero(cells < table.open) if table.open < len(table.guide) else np.arange(n)
    if not len(undecided):
        return
    place = cells.take(undecided)
    more = bits.words(2 * len(undecided)).view("<u8")
    cut = table.cut.take(place)
    value = table.guide.take(place) + (more > cut)
    tie = more == cut
    if table.several:
        crowded = np.flatnonzero(place < table.several)
        cell = table.cells[place[crowded]].astype(np.uint64)
        high = (cell << np.uint64(48)) | (more[crowded] >> np.uint64(16))
        upto = np.searchsorted(table.high, high, "right")
        value[crowded] = table.first + upto
        tie[crowded] = (upto > 0) & (table.high[upto - 1] == high)
    for which in np.flatnonzero(tie).tolist():
        last = int(bits.words(2).view("<u8")[0]) >> 16
        u = (int(table.cells[place[which]]) << 112) | (int(more[which]) << 48) | last
        value[which] = table.exact(u)
    out[undecided] = value
