"""Example-level noise: which experiments and strategies are refused, and in which words."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from carpool.experiments.example_checks import example_problems, refusal
from carpool.privacy.errors import StrategyError
from carpool.strategies.catalogue import CATALOGUE
from carpool.strategies.fedavg import fedavg

REFUSED = {"qfedavg": "loss", "ditto": "more than once", "fedrep": "epochs"}


@pytest.mark.slow
@pytest.mark.parametrize("name", CATALOGUE)
def test_of_our_strategies_those_with_a_loss_or_two_trainings_are_refused(name):
    found = refusal(CATALOGUE[name]())
    assert (REFUSED[name] in found) if name in REFUSED else found == ""


@pytest.mark.slow
def test_a_training_in_a_later_pass_is_seen():
    rfa = CATALOGUE["rfa"](passes=2)
    assert refusal(rfa) == ""

    def local(task, memory, trainer, facts):
        if facts.pass_number > 1:
            trainer.train(next(iter(task.vectors.values())))
        return rfa.local(task, memory, trainer, facts)

    assert "more than once a round" in refusal(replace(rfa, local=local))


def test_what_cannot_be_tried_is_refused():
    def local(task, memory, trainer, facts):
        raise StrategyError("not today")

    assert "not today" in refusal(replace(fedavg(), local=local))


def experiment(**changes):
    """The parts of an experiment that the rules look at."""
    dp = {"mechanism": "sgd", "unit": "example", "relation": "zero-out"}
    train = {"precision": "float32", "batching": "auto"}
    model = {"buffers": "refuse"}
    for section in (dp, train, model):
        section.update({key: value for key, value in changes.items() if key in section})
    return SimpleNamespace(
        privacy=SimpleNamespace(dp=SimpleNamespace(**dp)),
        train=SimpleNamespace(**train),
        model=SimpleNamespace(**model),
    )


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"unit": "vehicle"}, 'use "example"'),
        ({"relation": "add-remove"}, "how many examples"),
        ({"precision": "bfloat16"}, '"float32"'),
        ({"batching": "stacked"}, '"sequential"'),
        ({"buffers": "average"}, "GroupNorm"),
    ],
)
def test_each_rule_has_a_sentence_with_the_value_and_the_fix(change, word):
    ((keys, text),) = example_problems(experiment(**change))
    assert word in text
    assert keys[-1] == "privacy.dp.mechanism"
    assert str(next(iter(change.values()))) in text


def test_nothing_is_wrong_with_the_defaults_or_with_another_mechanism():
    assert not list(example_problems(experiment()))
    assert not list(example_problems(experiment(mechanism="local", unit="vehicle", relation="add-remove")))
