"""The noise that is there, against the noise that is claimed and charged: level, independence, price.

On a cohort of zeros what is released is noise. Its level is judged by an upper confidence limit, so that a
sound mechanism is accused with probability 1e-6 a check, and what lies below is missing for sure. The same
limit, put in the place of the charged noise, gives the lowest epsilon that the releases allow.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from carpool.privacy.audit.limits import (
    FALSE_ALARM,
    MOST_PAIRS,
    correlation,
    correlation_limit,
    upper_std,
)
from carpool.privacy.audit.report import Book
from carpool.privacy.audit.rounds import Claim, Numbers, Part, in_clips
from carpool.privacy.audit.running import Training
from carpool.privacy.dp import accounting
from carpool.privacy.dp.events import Event

Rows = Mapping[str, Numbers]
"""Independent noise by block, in clip norms: float64 [rounds, size]."""
_EXACT = 1e-9
_PRICE = 1e-6


def rows(claim: Claim, training: Training, *, data: bool = False) -> Rows:
    """The noise of each block. data: the cohort was not of zeros, and its exact sums are taken off."""
    found = {}
    for name, block in claim.blocks.items():
        noise = np.stack([in_clips(block, released.vectors[name]) for released in training])
        if data:
            sums = [(released.exact or {})[name] for released in training]
            noise -= np.stack([in_clips(block, total, divided=False) for total in sums])
        found[name] = claim.mixed(noise)
    return found


def check_level(book: Book, claim: Claim, training: Training, noise: Rows, probe: str, lost: float) -> None:
    """Charge, level and price of each part; lost: the share of the planned vehicles that is."""
    promised = lost <= claim.tolerated + _EXACT
    true: list[Event] = []
    least: list[Event] = []
    for part in claim.parts:
        events = _charged(book, claim, part, training, probe)
        said = min((event.noise_multiplier for event in events), default=part.noise_multiplier)
        if promised and events:
            holds = said >= part.noise_multiplier * (1 - _EXACT)
            book.judge("charge", f"{probe}, {part.name}", part.noise_multiplier, said, holds=holds)
        limit = _levels(book, part, noise, said, probe)
        true += events
        least += [replace(event, noise_multiplier=limit) for event in events]
    _check_price(book, claim, true, least, probe, promised)


def _charged(book: Book, claim: Claim, part: Part, training: Training, probe: str) -> list[Event]:
    """The part's charges: one for each release, or one for the training where noise is correlated."""
    events = [released.charged[part.name] for released in training if part.name in released.charged]
    wanted = len(training) if claim.mixing is None else 1
    if not book.judge("charges", f"{probe}, {part.name}", wanted, len(events), holds=len(events) >= wanted):
        return events
    return events[:1] if claim.mixing is None else events


def _levels(book: Book, part: Part, noise: Rows, said: float, probe: str) -> float:
    """Judge each block, and all together; the lowest upper limit of the standard deviation, in clip norms."""
    several = len(part.blocks) > 1
    alpha = FALSE_ALARM / (len(part.blocks) + several)
    squares = {name: float(np.sum(noise[name] ** 2)) for name in part.blocks}
    counts = {name: noise[name].size for name in part.blocks}
    limits = {name: upper_std(squares[name], counts[name], alpha) for name in part.blocks}
    if several:
        limits["all blocks"] = upper_std(sum(squares.values()), sum(counts.values()), alpha)
    for name, limit in limits.items():
        book.judge("noise", f"{probe}, {name}", said, limit, holds=limit >= said * (1 - _EXACT))
    return min(limits.values())


def _check_price(
    book: Book, claim: Claim, true: list[Event], least: list[Event], probe: str, promised: bool
) -> None:
    if not true:
        return
    charged, seen = _price(claim, true), _price(claim, least)
    if promised:
        book.judge("price", probe, claim.epsilon, charged, holds=charged <= claim.epsilon * (1 + _PRICE))
    claimed = claim.epsilon if promised else charged
    book.judge("epsilon", probe, claimed, seen, holds=seen <= claimed * (1 + _PRICE))
    if promised:
        book.lowest = seen if math.isnan(book.lowest) else max(book.lowest, seen)


def _price(claim: Claim, events: Sequence[Event]) -> float:
    times = claim.rounds if claim.mixing is None else 1
    many = [replace(event, count=event.count * times) for event in events]
    if any(event.noise_multiplier == 0 for event in many):
        return math.inf
    return accounting.epsilon(many, claim.delta, claim.relation).epsilon


def check_independence(book: Book, claim: Claim, noise: Rows, names: Sequence[str]) -> None:
    """No two rows of a block, nor two blocks of a row, alike; names: of the rows."""
    whole = np.concatenate([noise[name] for name in claim.blocks], axis=1)
    blocks = {**noise, "all blocks": whole} if len(claim.blocks) > 1 else noise
    tests = [
        (f"{names[i]} and {names[j]}, {name}", values[i], values[j])
        for name, values in blocks.items()
        for i, j in itertools.combinations(range(len(names)), 2)
    ]
    for one, other in itertools.combinations(claim.blocks, 2):
        for i, label in enumerate(names):
            common = min(noise[one].shape[1], noise[other].shape[1])
            tests.append((f"{label}, {one} and {other}", noise[one][i, :common], noise[other][i, :common]))
    tests = [test for test in tests if correlation_limit(len(test[1])) < 1]
    for probe, first, second in tests[:MOST_PAIRS]:
        seen, limit = abs(correlation(first, second)), correlation_limit(len(first))
        book.judge("correlation", probe, limit, seen, holds=seen <= limit)
    if len(tests) > MOST_PAIRS:
        book.skip(f"correlation: {len(tests) - MOST_PAIRS} of {len(tests)} pairs")
