"""Buckets, [asynchrony] and [compression] around an experiment's strategy, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from carpool.experiments import plugins
from carpool.experiments.checks import Found, Problem
from carpool.experiments.hints import shown
from carpool.privacy.errors import ConfigError
from carpool.privacy.packing import typical_bytes
from carpool.strategies.bucketing import bucketed, refuse_small
from carpool.strategies.compressed import LEVELS, compressed
from carpool.strategies.contract import Strategy
from carpool.strategies.staleness import buffered

if TYPE_CHECKING:
    from carpool.experiments.config import Asynchrony, Experiment

SCALAR = 1e4
"""Largest number of a channel of a few numbers under secure aggregation: steps, Lipschitz estimates."""
OF_A_BUFFER = ("max_staleness", "staleness", "exponent", "hinge")
"""Keys of [asynchrony] that only its own buffer uses; a strategy with a buffer has options for them."""


def build_strategy(e: Experiment) -> Strategy[Any]:
    """The strategy of the experiment as vehicles and server run it; raises ConfigError."""
    strategy = plugins.build(e.strategy)
    if problems := [text for _, text in _wrong(e, strategy)]:
        raise ConfigError(problems)
    return wrapped(strategy, e)


def wrapped(strategy: Strategy[Any], e: Experiment) -> Strategy[Any]:
    """The strategy in its wrappers; raises ValueError where one refuses it."""
    if e.strategy.bucket:
        strategy = bucketed(strategy, e.strategy.bucket)
    strategy = smaller(without_rounds(strategy, e), e)
    return ranged(strategy if e.privacy.dp.mechanism == "none" else alike(strategy), e)


def alike(strategy: Strategy[Any]) -> Strategy[Any]:
    """With every vehicle counted alike: under noise, what it says of its samples is not believed, or told."""
    return replace(strategy, weight=lambda header, facts: 1.0)


def ranged(strategy: Strategy[Any], e: Experiment) -> Strategy[Any]:
    """With a clip norm for every channel, where updates are masked: a masked number has a range.

    A channel that is not as long as the model has the range of `SCALAR` unless [privacy.secagg] says more.
    """
    how = e.privacy.secagg
    if e.privacy.channel != "secagg":
        return strategy
    channels = tuple(
        replace(c, clip=own if c.clip is None else min(c.clip, own))
        for c in strategy.channels
        for own in [how.ranges.get(c.name, how.clip_norm if c.size == "shared" else SCALAR)]
    )
    return replace(strategy, channels=channels)


def without_rounds(strategy: Strategy[Any], e: Experiment) -> Strategy[Any]:
    """With the buffer of [asynchrony], if it has one."""
    how = e.asynchrony
    if not how.buffer:
        return strategy
    a, b, oldest = how.exponent, how.hinge, how.max_staleness
    return buffered(strategy, how.buffer, kind=how.staleness, a=a, b=b, max_staleness=oldest)


def smaller(strategy: Strategy[Any], e: Experiment) -> Strategy[Any]:
    """With the [compression], if there is one."""
    how = e.compression
    if how.name == "none":
        return strategy
    return compressed(strategy, how.name, block=how.block, keep=how.keep, error_feedback=how.error_feedback)


def sent_share(e: Experiment, strategy: Strategy[Any], shared: int) -> float:
    """About how many bytes a vehicle sends for each one that plain float32 takes; 1 without compression."""
    sizes = strategy.sizes(shared)
    sent = sum(typical_bytes(c.packing, sizes[c.name], e.compression.keep) for c in strategy.channels)
    return sent / (4 * sum(sizes.values()))


def wrapping_problems(e: Experiment) -> list[Problem]:
    """What is wrong with the two sections, where the strategy by itself is right."""
    try:
        strategy = plugins.build(e.strategy)
    except ConfigError:
        return []  # reported by itself
    return [Problem(keys, text) for keys, text in _wrong(e, strategy)]


def _wrong(e: Experiment, strategy: Strategy[Any]) -> Found:
    found = [*_rows(e, strategy), *_asynchrony(e, strategy), *_compression(e)]
    wrappers = {"asynchrony.buffer": without_rounds, "compression.name": smaller}
    for key, wrap in wrappers.items() if not found else ():
        try:
            strategy = wrap(strategy, e)
        except ValueError as error:
            found.append(((key, "strategy.name"), f"[{key.split('.')[0]}]: {error}"))
    yield from found
    if strategy.buffer and not found:
        yield from _fleet(e, strategy.buffer)


def _compression(e: Experiment) -> Found:
    how = e.compression
    used = {
        "block": how.name in LEVELS,
        "keep": how.name.endswith("-k"),
        "error_feedback": how.name != "none",
    }
    for key, uses in used.items():
        if not uses and getattr(how, key) != type(how).model_fields[key].default:
            yield (
                (f"compression.{key}", "compression.name"),
                f"compression.{key} is {shown(getattr(how, key))}, which {shown(how.name)} does not use; "
                "leave it out",
            )


def _rows(e: Experiment, strategy: Strategy[Any]) -> Found:
    buffer = e.asynchrony.buffer or strategy.buffer
    try:
        if e.strategy.bucket:
            strategy = bucketed(strategy, e.strategy.bucket)
        refuse_small(strategy, buffer or e.selection.cohort)
    except ValueError as error:
        where = "asynchrony.buffer" if buffer else "selection.cohort"
        yield ("strategy.bucket" if e.strategy.bucket else "strategy.options", where), f"[strategy]: {error}"


def _asynchrony(e: Experiment, strategy: Strategy[Any]) -> Found:
    how = e.asynchrony
    if strategy.buffer:
        own = f"strategy {strategy.name} has a buffer of its own"
        for key in ("buffer", *_changed(how)):
            if getattr(how, key) != type(how).model_fields[key].default:
                yield (
                    (f"asynchrony.{key}", "strategy.name"),
                    f"asynchrony.{key} is {shown(getattr(how, key))}, but {own}; leave it out and set "
                    "strategy.options",
                )
    elif not how.buffer:
        for key in (*_changed(how), *(("concurrency",) if how.concurrency else ())):
            yield (
                (f"asynchrony.{key}", "asynchrony.buffer"),
                f"asynchrony.{key} is {shown(getattr(how, key))}, but asynchrony.buffer is 0, so the run has "
                "rounds; set asynchrony.buffer to the contributions of a step, or leave it out",
            )
    elif how.staleness != "hinge" and how.hinge != type(how).model_fields["hinge"].default:
        yield (
            ("asynchrony.hinge", "asynchrony.staleness"),
            f'asynchrony.hinge is {how.hinge}, which only staleness = "hinge" uses, not '
            f"{shown(how.staleness)}; leave it out",
        )
    elif how.staleness == "constant" and how.exponent != type(how).model_fields["exponent"].default:
        yield (
            ("asynchrony.exponent", "asynchrony.staleness"),
            f"asynchrony.exponent is {how.exponent}, but asynchrony.staleness is "
            '"constant", which has none; leave it out',
        )


def _changed(how: Asynchrony) -> Iterator[str]:
    fields = type(how).model_fields
    return (key for key in OF_A_BUFFER if getattr(how, key) != fields[key].default)


def _fleet(e: Experiment, buffer: int) -> Found:
    vehicles, concurrency = e.fleet.vehicles, e.asynchrony.concurrency
    if buffer > vehicles:
        yield (
            ("asynchrony.buffer", "fleet.vehicles"),
            f"a step takes {buffer} contributions of different vehicles, but fleet.vehicles is {vehicles}; "
            "lower the buffer or raise fleet.vehicles",
        )
    if concurrency > vehicles:
        yield (
            ("asynchrony.concurrency", "fleet.vehicles"),
            f"asynchrony.concurrency is {concurrency}, but fleet.vehicles is {vehicles}; lower the first or "
            "raise the second",
        )
    if e.selection.name == "poisson":
        yield (
            ("selection.name", "asynchrony.buffer"),
            'selection.name is "poisson", which draws a cohort a round, but a strategy with a buffer has no '
            'rounds; use "uniform"',
        )
