"""What an experiment with example-level noise (`sgd`) must fulfil, and which strategies do.

A strategy works if it trains each vehicle at most once a round, for as long as [train] says, and asks for no
loss: that is tried on a small fleet of springs, so that it holds for a strategy of one's own, too. Of ours,
qfedavg (loss), ditto (two trainings) and fedrep (two of other lengths) do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from carpool.experiments.hints import shown
from carpool.privacy.errors import CarpoolError, PrivacyRefused

if TYPE_CHECKING:
    from torch import Tensor

    from carpool.experiments.config import Experiment
    from carpool.strategies.contract import Facts, LocalTask, Sent, Strategy, Trainer

Found = Iterator[tuple[tuple[str, ...], str]]
KEY = "privacy.dp"
ROUNDS = 2


def example_problems(e: Experiment) -> Found:
    """Every broken rule that the file alone shows, if its mechanism is `sgd`."""
    dp, switch = e.privacy.dp, f"{KEY}.mechanism"
    if dp.mechanism != "sgd":
        return
    if dp.unit != "example":
        text = f'{KEY}.unit is {shown(dp.unit)}, but mechanism "sgd" hides single examples; use "example"'
        yield (f"{KEY}.unit", switch), text
    if dp.relation == "add-remove":
        yield (
            (f"{KEY}.relation", switch),
            f'{KEY}.relation is "add-remove", under which mechanism "sgd" would have to hide how many '
            'examples a vehicle has; use "zero-out", which costs the same, or "replace-one"',
        )
    if e.train.precision != "float32":
        yield (
            ("train.precision", switch),
            f'train.precision is {shown(e.train.precision)}, but mechanism "sgd" measures gradients in '
            '"float32"; use that',
        )
    if e.train.batching == "stacked":
        yield (
            ("train.batching", switch),
            'train.batching is "stacked", but mechanism "sgd" trains one vehicle after another; use '
            '"sequential" or "auto"',
        )
    if e.model.buffers != "refuse":
        yield (
            ("model.buffers", switch),
            f"model.buffers is {shown(e.model.buffers)}, but running statistics would go past the noise of "
            'mechanism "sgd"; use "refuse" and GroupNorm',
        )


def refusal(strategy: Strategy[Any]) -> str:
    """Why a strategy does not work with `sgd`, in a sentence; empty where it does. Runs its code."""
    from carpool.experiments.springs import fleet_for

    trained: set[int] = set()

    def local(task: LocalTask, memory: Mapping[str, Tensor], trainer: Trainer, facts: Facts) -> Sent:
        return strategy.local(task, memory, Once(trainer, facts.round, trained), facts)

    try:
        fleet_for(strategy).run(replace(strategy, local=local), ROUNDS)
    except CarpoolError as error:  # also where it is broken in another way: what was not seen is not allowed
        return (
            f'strategy {strategy.name} does not fit privacy.dp.mechanism "sgd", which pays for one training '
            f"of a vehicle a round and tells no loss: {error}; use another one, such as fedavg or scaffold"
        )
    return ""


class Once:
    """A trainer that allows what `PrivateTrainer` does, and in one pass of a round only."""

    def __init__(self, trainer: Trainer, round_: int, trained: set[int]) -> None:
        self._trainer, self._round, self._trained = trainer, round_, trained

    @property
    def steps(self) -> Tensor:
        """Of the trainer."""
        return self._trainer.steps

    @property
    def samples(self) -> Tensor:
        """Of the trainer."""
        return self._trainer.samples

    @property
    def lr(self) -> float:
        """Of the trainer."""
        return self._trainer.lr

    @property
    def momentum(self) -> float:
        """Of the trainer."""
        return self._trainer.momentum

    def train(self, start: Tensor, *, epochs: int | None = None, **how: Any) -> Tensor:
        """Once a round; raises PrivacyRefused."""
        if epochs is not None:
            raise PrivacyRefused("it sets the number of epochs itself")
        if self._round in self._trained:
            raise PrivacyRefused("it trains a vehicle more than once a round")
        self._trained.add(self._round)
        return self._trainer.train(start, **how)

    def loss(self, weights: Tensor) -> Tensor:
        """Raises PrivacyRefused."""
        raise PrivacyRefused("it asks for the loss on the vehicle's examples")
