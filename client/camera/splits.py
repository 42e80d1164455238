"""Which sample goes to which vehicle: pure functions from keys or labels to one array of rows a vehicle.

Each gives disjoint, sorted int64 rows that cover 0..n-1, none empty, the same for the same generator.
Sizes are equal, or lognormal with `sigma` (McMahan et al. 2017 and Hsu et al. 2019 have them equal).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from carpool.client.camera.samples import Rows
from carpool.privacy.errors import DataError

Split = tuple[Rows, ...]
"""One int64 array of rows a vehicle."""


def quantities(total: int, vehicles: int, sigma: float, rng: np.random.Generator) -> Rows:
    """int64 [vehicles], at least 1 each, summing to `total`: equal, or lognormal with `sigma`.

    sigma >= 0, standard deviation of the logarithm. Raises DataError for more vehicles
    than there is to give.
    """
    if vehicles > total:
        raise DataError(f"fleet.vehicles is {vehicles}, and there are {total} samples to train on; lower it")
    weights = rng.lognormal(sigma=sigma, size=vehicles) if sigma > 0 else np.ones(vehicles)
    share = (total - vehicles) * weights / weights.sum()
    sizes: Rows = np.floor(share).astype(np.int64)
    missing = total - vehicles - int(sizes.sum())
    sizes[np.argsort(sizes - share, kind="stable")[:missing]] += 1  # the largest remainders
    sizes += 1
    return sizes


def iid(n: int, vehicles: int, rng: np.random.Generator, sigma: float = 0.0) -> Split:
    """Samples dealt at random."""
    sizes = quantities(n, vehicles, sigma, rng)
    return sorted_parts(np.split(rng.permutation(n), np.cumsum(sizes)[:-1]))


def shards(
    labels: Rows, vehicles: int, per_vehicle: int, rng: np.random.Generator, sigma: float = 0.0
) -> Split:
    """Sorted by label, cut into pieces, `per_vehicle` random pieces each. McMahan et al. 2017, Section 3.

    labels: int64 [n]. per_vehicle >= 1. With sigma > 0 a vehicle's pieces are as long as its weight says.
    """
    pieces = vehicles * per_vehicle
    if pieces > len(labels):
        raise DataError(
            f"fleet.vehicles x data.shards is {pieces}, and there are {len(labels)} to train on; lower one"
        )
    sizes = quantities(len(labels), vehicles, sigma, rng)
    owner = rng.permutation(np.repeat(np.arange(vehicles), per_vehicle))
    turn = np.zeros(vehicles, np.int64)
    lengths = np.empty(pieces, np.int64)
    for piece, vehicle in enumerate(owner):
        lengths[piece] = (sizes[vehicle] + turn[vehicle]) // per_vehicle
        turn[vehicle] += 1
    shuffled = rng.permutation(len(labels))  # inside a label the order is random, not that of the drives
    by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
    cut = np.split(by_label, np.cumsum(lengths)[:-1])
    return sorted_parts(
        [
            np.concatenate([cut[piece] for piece in np.flatnonzero(owner == vehicle)])
            for vehicle in range(vehicles)
        ]
    )


def dirichlet(
    labels: Rows, vehicles: int, alpha: float, rng: np.random.Generator, sigma: float = 0.0
) -> Split:
    """Class mixtures drawn from Dirichlet(alpha x the data's own mixture). Hsu et al. 2019, Section 3.

    labels: int64 [n]. alpha > 0: small is one class a vehicle, large is iid; who writes Dirichlet(a, ..., a)
    for this means alpha = a x classes. Sizes are fixed before, so no
    vehicle is empty and nothing is re-drawn; where a class runs out, the rest of the mixture is scaled up,
    and the vehicles served last (the order is random) get what is left.
    """
    if not (np.isfinite(alpha) and alpha > 0):
        raise DataError(f"data.alpha is {alpha}; it must be above 0, such as 0.3")
    sizes = quantities(len(labels), vehicles, sigma, rng)
    classes, index = np.unique(labels, return_inverse=True)
    left = np.bincount(index)
    prior = left / len(labels)
    shuffled = rng.permutation(len(labels))
    stacks = np.split(shuffled[np.argsort(index[shuffled], kind="stable")], np.cumsum(left)[:-1])
    parts: list[Rows] = [np.empty(0, np.int64)] * vehicles
    for vehicle in rng.permutation(vehicles):
        mixture = rng.dirichlet(alpha * prior)
        if not abs(mixture.sum() - 1) < 1e-6:  # alpha so small that the draw underflows: one class
            mixture = np.eye(len(classes))[rng.choice(len(classes), p=prior)]
        taken = draw(mixture, left, int(sizes[vehicle]), rng)
        parts[vehicle] = np.concatenate(
            [stack[rest - take : rest] for stack, rest, take in zip(stacks, left, taken, strict=True) if take]
        )
        left = left - taken
    return sorted_parts(parts)


def draw(mixture: NDArray[np.float64], left: Rows, size: int, rng: np.random.Generator) -> Rows:
    """int64 [classes]: `size` draws without replacement from what is `left`, in proportion to `mixture`."""
    taken = np.zeros_like(left)
    while (need := size - int(taken.sum())) > 0:
        rest = left - taken
        weights = np.where(rest > 0, mixture, 0.0)
        if weights.sum() < 1e-12:
            weights = rest.astype(np.float64)
        taken += np.minimum(rng.multinomial(need, weights / weights.sum()), rest)
    return taken


def whole(keys: Rows, vehicles: int, rng: np.random.Generator, sigma: float = 0.0) -> Split:
    """All samples of a key (a track, a drive, a recording car) to one vehicle, sizes as even as keys allow.

    keys: int64 [n]. The largest key first, to the vehicle that is furthest below its size; ties are random.
    """
    names, index, amount = np.unique(keys, return_inverse=True, return_counts=True)
    if vehicles > len(names):
        raise DataError(
            f"fleet.vehicles is {vehicles}, and the data has {len(names)} tracks, drives or vehicles; "
            'lower it, or set data.split = "iid" or "dirichlet"'
        )
    gap = quantities(len(keys), vehicles, sigma, rng).astype(np.float64)
    gap += rng.random(vehicles) * 1e-6
    empty = np.ones(vehicles, bool)
    owner = np.empty(len(names), np.int64)
    shuffled = rng.permutation(len(names))
    by_size = shuffled[np.argsort(-amount[shuffled], kind="stable")]
    for position, key in enumerate(by_size):
        must_fill = len(names) - position == np.count_nonzero(empty)
        vehicle = int(np.argmax(np.where(empty, gap, -np.inf) if must_fill else gap))
        owner[key] = vehicle
        gap[vehicle] -= amount[key]
        empty[vehicle] = False
    return rows_of(owner[index], vehicles)


def by_recorder(recorder: Rows, vehicles: int, rng: np.random.Generator) -> Split:
    """The fleet's vehicles are the cars that recorded, in the order of their numbers; more are dealt out."""
    names, index = np.unique(recorder, return_inverse=True)
    if vehicles == len(names):
        return rows_of(index.astype(np.int64), vehicles)
    return whole(recorder, vehicles, rng)


def hold_out(
    group: Rows, fraction: float, rng: np.random.Generator, labels: Rows | None = None
) -> tuple[Rows, Rows]:
    """Positions to train on and positions held back: whole groups, about `fraction` of them, not all.

    group: int64 [n]. 0 <= fraction < 1. With `labels` the fraction holds in each class (a group's most
    frequent label), and each keeps a group. Without, one group is held back as soon as there are two.
    """
    names, index = np.unique(group, return_inverse=True)
    kinds = np.zeros(len(names), np.int64) if labels is None else majority(index, labels, len(names))
    held = np.zeros(len(names), bool)
    owed = 0.0
    for kind in np.unique(kinds):
        members = rng.permutation(np.flatnonzero(kinds == kind))
        owed += fraction * len(members)
        number = min(round(owed), len(members) - 1, math.ceil(fraction * len(members)))
        owed = min(owed - number, 0.5)  # many classes of one group must not be paid for by the next large one
        held[members[:number]] = True
    if fraction > 0 and not held.any() and len(names) > 1:
        held[rng.integers(len(names))] = True
    back = held[index]
    return np.flatnonzero(~back).astype(np.int64), np.flatnonzero(back).astype(np.int64)


def majority(index: NDArray[np.intp], labels: Rows, groups: int) -> Rows:
    """int64 [groups]: the most frequent label of each group, the lowest of equals."""
    pairs, amount = np.unique(np.stack([index, labels]), axis=1, return_counts=True)
    result = np.zeros(groups, np.int64)
    best = np.lexsort((-pairs[1], amount))  # later wins below: more first, then the lower label
    result[pairs[0][best]] = pairs[1][best]
    return result


def every_kth(group: Rows, order: Rows, stride: int) -> Rows:
    """Positions of every `stride`-th sample of each group in time, its first included; stride >= 1."""
    if stride < 1:
        raise DataError(f"data.stride is {stride}; it must be 1 (every frame) or more")
    in_time = np.lexsort((order, group))
    sorted_group = group[in_time]
    start = np.r_[True, sorted_group[1:] != sorted_group[:-1]] if len(group) else np.zeros(0, bool)
    position = np.arange(len(group))
    rank = position - np.maximum.accumulate(np.where(start, position, 0))
    return np.sort(in_time[rank % stride == 0]).astype(np.int64)


def rows_of(owner: Rows, vehicles: int) -> Split:
    """The rows of each vehicle from the vehicle of each row."""
    by_owner = np.argsort(owner, kind="stable").astype(np.int64)
    return tuple(np.split(by_owner, np.cumsum(np.bincount(owner, minlength=vehicles))[:-1]))


def sorted_parts(parts: list[NDArray[np.int64]]) -> Split:
    """Rows in rising order, so that a vehicle reads its pool forwards."""
    return tuple(np.sort(part).astype(np.int64) for part in parts)
