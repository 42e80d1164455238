"""What an experiment under secure aggregation must fulfil: where a theorem has a condition, it is checked."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from carpool.experiments.hints import shown

if TYPE_CHECKING:
    from carpool.experiments.config import Experiment

Found = Iterator[tuple[tuple[str, ...], str]]
KEY = "privacy.secagg"


def masked_problems(e: Experiment) -> Found:
    """Every broken rule that the file alone shows, if its channel is `secagg`."""
    if e.privacy.channel != "secagg":
        return
    yield from _committee(e)
    yield from _enough(e)
    yield from _ring(e)
    yield from _compression(e)
    yield from _arithmetic(e)


def _enough(e: Experiment) -> Found:
    """The quorum is large enough for n_min and for the losses that are planned for."""
    from carpool.experiments.combining import buffer_of

    s, how = e.selection, e.privacy.secagg
    if buffer_of(e):
        return  # there is no quorum, and its size is checked with the strategy
    if s.asked < how.n_min or s.needed < how.n_min:
        yield (
            (f"{KEY}.n_min", "selection.quorum", "selection.cohort"),
            f"{KEY}.n_min is {how.n_min}, but selection.quorum {s.quorum} of cohort {s.cohort} counts a "
            f"round with {s.needed}; raise the cohort so that quorum × cohort is at least {how.n_min}, "
            "or lower n_min",
        )
        return
    if e.privacy.protocol != "secagg+":
        return
    staying = (1 - how.dropout_fraction) * s.asked
    if s.needed < staying - 1e-9:
        yield (
            ("selection.quorum", f"{KEY}.dropout_fraction"),
            f"selection.quorum {s.quorum} of cohort {s.cohort} counts a round with {s.needed} of {s.asked} "
            f"asked, but {KEY}.dropout_fraction {how.dropout_fraction} plans for {math.ceil(staying)} that "
            "stay; raise "
            f"quorum to {math.ceil(staying) / s.cohort:.3g} or dropout_fraction to "
            f"{math.ceil(100 * (1 - s.needed / s.asked)) / 100:.2f}",
        )
    yield from _graph(e)


def _graph(e: Experiment) -> Found:
    from carpool.privacy.secagg.parameters import find

    s, how = e.selection, e.privacy.secagg
    size = e.strategy.bucket if e.strategy.bucket > 1 else s.asked
    try:
        find(size, how.corrupt_fraction, how.dropout_fraction, how.adversary)
    except ValueError as error:
        keys = (f"{KEY}.dropout_fraction", f"{KEY}.corrupt_fraction", "selection.cohort")
        yield keys, f"{KEY}: {error}"


def _ring(e: Experiment) -> Found:
    """A sum of everybody asked fits into the ring."""
    from carpool.experiments.combining import buffer_of
    from carpool.privacy.secagg import rlwe
    from carpool.privacy.secagg.quantise import Quantiser

    how, shot, most = e.privacy.secagg, e.privacy.protocol == "one-shot", e.selection.asked
    if size := buffer_of(e):  # see `announce` of server/secure_buffered.py
        least, under_way = how.per_version or how.n_min, e.asynchrony.concurrency or e.selection.asked
        most = max(size, how.n_min) + (1 + 2 * under_way // least) * (least - 1)
    if e.privacy.protocol != "secagg+" and how.bits == 16:
        yield (
            (f"{KEY}.bits", "privacy.protocol"),
            f"{KEY}.bits is 16, but {shown(e.privacy.protocol)} has 24 or 32; use 24",
        )
        return
    try:
        Quantiser(1, 1.0, most, how.bits, None, rlwe.VARIANCE if shot else 0.0)
    except ValueError as error:
        yield (f"{KEY}.bits", "selection.cohort"), f"{KEY}.bits is {how.bits}: {error}"


def _compression(e: Experiment) -> Found:
    if e.compression.name != "none":
        yield (
            ("compression.name", "privacy.channel"),
            f'compression.name is {shown(e.compression.name)}, but privacy.channel = "secagg" adds whole '
            f"vectors under masks, which cannot be made shorter; leave [compression] out and use {KEY}.bits "
            '= 16 or 24, or use channel = "sealed"',
        )


def _arithmetic(e: Experiment) -> Found:
    how = e.privacy.secagg
    if how.full_rounds and e.strategy.bucket > 1:
        yield (
            (f"{KEY}.full_rounds", "strategy.bucket"),
            f"{KEY}.full_rounds is {how.full_rounds}, but rounds of arithmetic alone have one sum and no "
            f"groups, and strategy.bucket is {e.strategy.bucket}; leave full_rounds out",
        )


def _committee(e: Experiment) -> Found:
    """The committee of one-shot can be made; other protocols have none to set."""
    how, key = e.privacy.committee, "privacy.committee"
    if e.privacy.protocol != "one-shot":
        for name, field in type(how).model_fields.items():
            if name != "absent" and getattr(how, name) != field.default:
                yield (
                    (f"{key}.{name}", "privacy.protocol"),
                    f"{key}.{name} is {shown(getattr(how, name))}, but only one-shot has a committee to "
                    f"choose, not {shown(e.privacy.protocol)}; leave it out",
                )
        return
    from carpool.privacy.secagg.committee import designated, find

    try:
        sizes = (
            designated(how.members, how.corrupt)
            if how.members
            else find(how.corrupt_fraction, how.dropout_fraction)
        )
    except ValueError as error:
        yield (f"{key}.members", f"{key}.corrupt"), f"{key}: {error}"
        return
    if not how.members and how.pool < sizes.members:
        yield (
            (f"{key}.pool", f"{key}.corrupt_fraction"),
            f"{key}.pool is {how.pool} nodes, but the committee has {sizes.members}; name at least as many",
        )
