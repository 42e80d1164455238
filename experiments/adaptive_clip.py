"""Adaptive clipping around a strategy: the clip norm follows a quantile of norms (privacy/dp/adaptive.py).

The clip norm C is a part of the server's state, and travels with the task. A vehicle sends its channels in
units in which what one contribution may be stays the same in every round: times U / C, with a bit of +-v
beside them, together never longer than privacy.dp.clip_norm. So privacy rests on that one bound, kept where
it always is (client/protect.py, server/private_fold.py, privacy/dp/forms.py), and on nothing in this file;
the bit pays by making U, and with it the signal, smaller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, make_dataclass, replace
from typing import TYPE_CHECKING, Any

from carpool.privacy.dp.adaptive import BIT, Split, next_clip, noisy_fraction
from carpool.privacy.errors import ConfigError
from carpool.privacy.vectors import Vector
from carpool.strategies.contract import Channel, Facts, LocalTask, Reduced, Sent, Strategy, Task, Trainer

if TYPE_CHECKING:
    from carpool.experiments.config import Experiment
    from carpool.experiments.private import Planned

CLIP = "clip norm"
"""Name of the scalar in the task."""
NEAR = 1 - 2.0**-20
"""A clipped vector is this much shorter, so that rounding never makes it too long."""


def bit_of(experiment: Experiment) -> dict[str, int]:
    """The size of the channel that adaptive clipping adds, by name; none without it."""
    return {BIT: 1} if experiment.privacy.dp.adaptive.quantile else {}


def clipping(strategy: Strategy[Any], plan: Planned | None, experiment: Experiment) -> Strategy[Any]:
    """The strategy with a clip norm that adapts, where the experiment asks for it; raises ConfigError."""
    dp = experiment.privacy.dp
    if plan is None or not dp.adaptive.quantile:
        return strategy
    try:
        noise = dp.adaptive.bits_noise or experiment.selection.cohort / 20
        split = Split(plan.protection.noise_multiplier, noise)
    except ValueError as error:
        raise ConfigError([f"[privacy.dp.adaptive] bits_noise: {error}"]) from error
    return adaptive(strategy, split, dp.clip_norm, target=dp.adaptive.quantile, rate=dp.adaptive.lr)


def adaptive(
    strategy: Strategy[Any], split: Split, clip_norm: float, *, target: float, rate: float
) -> Strategy[Any]:
    """The strategy with clip norm C that begins at `clip_norm`, which stays the mechanism's own bound."""
    unit = (
        clip_norm * split.noise_multiplier / split.delta_noise
    )  # so that split.joint_norm(unit) is clip_norm
    bit, names = split.bit(unit), [field.name for field in fields(strategy.state)]
    state_type = make_dataclass(
        f"Clipped{strategy.state.__name__}", [("clip", float)], bases=(strategy.state,), frozen=True
    )

    def inner(state: Any) -> Any:
        return strategy.state(**{name: getattr(state, name) for name in names})

    def outer(state: Any, clip: float) -> Any:
        return state_type(**{name: getattr(state, name) for name in names}, clip=clip)

    def init(params: Vector, facts: Facts) -> Any:
        return outer(strategy.init(params, facts), clip_norm)

    def task(state: Any, facts: Facts) -> Task:
        made = strategy.task(inner(state), facts)
        return replace(made, scalars={**made.scalars, CLIP: state.clip})

    def local(task: LocalTask, memory: Mapping[str, Any], trainer: Trainer, facts: Facts) -> Sent:
        scalars = dict(task.scalars)
        clip = scalars.pop(CLIP)
        sent = strategy.local(replace(task, scalars=scalars), memory, trainer, facts)
        square = sum(stack.double().square().sum(-1, keepdim=True) for stack in sent.vectors.values())
        norm = square.sqrt()  # type: ignore[union-attr]  # a strategy has channels, so this is no 0
        whole = norm <= clip
        factor = (unit / clip * NEAR * (clip / norm).where(~whole, norm.new_ones(()))).float()
        vectors = {name: stack * factor for name, stack in sent.vectors.items()}
        bits = factor.new_full(factor.shape, bit * NEAR)
        return replace(sent, vectors={**vectors, BIT: bits.where(whole, -bits)})

    def update(state: Any, reduced: Reduced, facts: Facts) -> Any:
        scale, clip = state.clip / (unit * NEAR), state.clip
        sums = {
            name: vector * vector.dtype.type(scale) for name, vector in reduced.sums.items() if name != BIT
        }
        channels = {name: channel for name, channel in reduced.channels.items() if name != BIT}
        found = strategy.update(inner(state), replace(reduced, sums=sums, channels=channels), facts)
        fraction = noisy_fraction(float(reduced.sums[BIT][0]), unit, split, reduced.count)
        return outer(found, next_clip(clip, fraction, target=target, rate=rate))

    return replace(
        strategy,
        state=state_type,
        init=init,
        task=task,
        local=local,
        update=update,
        model=lambda state: strategy.model(inner(state)),
        channels=(*strategy.channels, Channel(BIT, size=1, weight="one")),
    )
