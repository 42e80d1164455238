"""What may not be combined: each rule by itself, since some switches cannot be set in this version."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from carpool.experiments import combining
from carpool.experiments.checks import Found
from carpool.experiments.combining import combination_problems, option_problems
from carpool.experiments.config import SELECTORS, Experiment
from carpool.experiments.masked_checks import masked_problems
from carpool.experiments.noise_checks import noise_problems
from carpool.experiments.toml_files import put
from carpool.server.selectors.catalogue import CATALOGUE


def experiment(**changes: object) -> Experiment:
    document: dict[str, object] = {"experiment": {"name": "x"}}
    for dotted, value in changes.items():
        put(document, tuple(dotted.split(".")), value)
    return Experiment.model_validate(document, context={"problems": []})


MASKED = {"privacy.channel": "secagg"}


@pytest.mark.parametrize(
    ("rule", "changes", "value", "fix"),
    [
        (combining.losses_under_masks, {**MASKED, "selection.name": "oort"}, '"oort"', '"uniform"'),
        (
            combining.losses_under_masks,
            {**MASKED, "selection.name": "power-of-choice"},
            '"power-of-choice"',
            'privacy.channel = "sealed"',
        ),
        (
            combining.sets_under_masks,
            {**MASKED, "strategy.name": "median", "strategy.bucket": 4, "selection.cohort": 48},
            "groups of 4",
            "a bucket of 12 or more",
        ),
        (  # two groups of 10
            combining.sets_under_masks,
            {**MASKED, "strategy.name": "median", "strategy.bucket": 12, "selection.cohort": 20},
            "groups of 10",
            "make cohort a multiple",
        ),
        (
            combining.unseen_by_noise,
            {"privacy.dp.mechanism": "central", "strategy.name": "median"},
            '"median"',
            'mechanism = "local"',
        ),
        (
            combining.unseen_by_noise,
            {"privacy.dp.mechanism": "local", "strategy.name": "fedbuff"},
            '"fedbuff"',
            "use one of rounds",
        ),
        (
            combining.attackers_apart,
            {"attack.name": "alie", "experiment.engine": "ray"},
            '"alie"',
            'engine = "inline"',
        ),
        (combining.nobody, {"attack.name": "ipm", "attack.fraction": 0.001}, "0.001", "is 0 of them"),
        (combining.nobody, {"attack.name": "ipm", "attack.fraction": 0.999}, "0.999", "some honest"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_way_out(
    rule: Callable[[Experiment], Found], changes: dict[str, object], value: str, fix: str
) -> None:
    e = experiment(**changes)
    [(keys, text)] = list(rule(e))
    assert value in text
    assert fix in text
    assert set(keys) & set(changes)
    assert text in [problem.text for problem in combination_problems(e)]


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        (combining.losses_under_masks, {"selection.name": "oort"}),
        (combining.losses_under_masks, {**MASKED, "selection.name": "refl"}),
        (
            combining.sets_under_masks,
            {**MASKED, "strategy.name": "median", "strategy.bucket": 12, "selection.cohort": 36},
        ),
        (combining.attackers_apart, {"attack.name": "sign-flip", "experiment.engine": "ray"}),
        (combining.attackers_apart, {"attack.name": "alie"}),
        (combining.nobody, {"attack.name": "none", "attack.fraction": 0.001}),
    ],
)
def test_what_goes_together_is_left_alone(
    rule: Callable[[Experiment], Found], changes: dict[str, object]
) -> None:
    assert list(rule(experiment(**changes))) == []


def test_a_set_rule_under_masks_is_offered_groups_or_the_sealed_channel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from carpool.experiments import plugins

    e = experiment(**MASKED)
    assert list(combining.sets_under_masks(e)) == []
    monkeypatch.setattr(plugins, "build", lambda section: SimpleNamespace(needs_set=True))
    [(_, text)] = list(combining.sets_under_masks(e))
    assert "strategy.bucket to at least 12" in text
    assert '"sealed"' in text
    assert list(combining.sets_under_masks(experiment())) == []


@pytest.mark.parametrize("name", ["top-k", "random-k", "int8"])
def test_nothing_is_compressed_under_masks(name: str) -> None:
    [(keys, text)] = list(masked_problems(experiment(**MASKED, **{"compression.name": name})))
    assert keys == ("compression.name", "privacy.channel")
    assert f'"{name}"' in text
    assert "privacy.secagg.bits = 16" in text
    assert list(masked_problems(experiment(**{"compression.name": name}))) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"selection.cohort": 10, "selection.quorum": 1.0}, "n_min is 12"),
        ({"selection.quorum": 0.8}, "raise quorum to 0.9 or dropout_fraction to 0.47"),
        ({"privacy.secagg.dropout_fraction": 0.45}, "corrupt + 2 x leaving share is 0.95"),
        ({"privacy.secagg.corrupt_fraction": 0.2}, "share is 1"),
        ({"privacy.protocol": "helpers", "privacy.secagg.bits": 16}, "24 or 32"),
        (
            {"privacy.secagg.bits": 16, "selection.cohort": 30000, "fleet.vehicles": 60000},
            "does not fit into 16 bits",
        ),
        ({"privacy.committee.pool": 100}, "only one-shot has a committee"),
        ({"privacy.protocol": "one-shot", "privacy.committee.pool": 59}, "the committee has 60"),
        (
            {"privacy.protocol": "one-shot", "privacy.committee.members": 3, "privacy.committee.corrupt": 3},
            "cannot",
        ),
    ],
)
def test_the_conditions_of_the_protocols_are_enforced(changes: dict[str, object], words: str) -> None:
    found = list(masked_problems(experiment(**MASKED, **changes)))
    assert any(words in text for _, text in found), found
    assert list(masked_problems(experiment(**MASKED))) == []


def test_a_buffer_is_not_summed_under_masks_that_are_made_in_rounds() -> None:
    buffered = {**MASKED, "strategy.name": "fedbuff", "strategy.options": {"buffer": 12}}
    [(_, text)] = list(combining.rounds_under_masks(experiment(**buffered)))
    assert '"one-shot"' in text
    assert not list(combining.rounds_under_masks(experiment(**buffered, **{"privacy.protocol": "helpers"})))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"selection.name": "oort", "selection.options": {"penalyt": 1.0}}, "did you mean 'penalty'?"),
        ({"attack.name": "alie", "attack.options": {"zz": 1.0}}, "did you mean 'z'?"),
        ({"selection.options": {"candidates": 2.0}}, "uniform has no option"),
    ],
)
def test_the_catalogues_are_asked_about_the_options(changes: dict[str, object], text: str) -> None:
    [problem] = option_problems(experiment(**changes))
    assert text in problem.text
    assert problem.keys[0].endswith(".options")


def test_what_is_refused_by_itself_is_not_refused_twice() -> None:
    changes = {"privacy.dp.mechanism": "central", "selection.name": "oort"}
    assert combination_problems(experiment(**changes))
    assert option_problems(experiment(**changes)) == []
    assert option_problems(experiment()) == []


PRIVATE = {"privacy.dp.mechanism": "central"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"privacy.dp.mechanism": "distributed"}, 'privacy.channel is "plain"'),
        ({"privacy.dp.mechanism": "local", "privacy.dp.relation": "add-remove"}, "add-remove"),
        ({**PRIVATE, "privacy.dp.unit": "example"}, '"vehicle"'),
        ({**PRIVATE, "selection.name": "power-of-choice"}, '"uniform"'),
        ({**PRIVATE, "privacy.dp.sampling": "poisson"}, 'use sampling = "none"'),
        (
            {**PRIVATE, **MASKED, "privacy.dp.sampling": "poisson", "selection.name": "poisson"},
            'channel = "sealed", where every round is released',
        ),
        ({**PRIVATE, "privacy.dp.matrix.bands": 3}, '"matrix" uses'),
        ({"privacy.dp.mechanism": "matrix", "privacy.dp.matrix.bands": 31}, "use at most 30"),
        ({"privacy.dp.mechanism": "matrix", "privacy.dp.matrix.min_separation": 4}, "need 120 vehicles"),
        ({"privacy.dp.mechanism": "matrix", "privacy.dp.adaptive.quantile": 0.5}, '"central" or "distri'),
        ({**PRIVATE, "privacy.dp.adaptive.lr": 0.5}, "set quantile = 0.5"),
        ({**PRIVATE, "compression.name": "top-k"}, "leave [compression] out"),
        ({**PRIVATE, "privacy.dp.fleet_epsilon": 3.0}, "name the fleet's ledger"),
        ({**PRIVATE, "privacy.dp.randomness": "seeded", "privacy.dp.ledger": "x"}, "protects nobody"),
    ],
)
def test_what_noise_does_not_cover_is_refused(changes: dict[str, object], words: str) -> None:
    found = [text for _, text in noise_problems(experiment(**changes))]
    assert any(words in text for text in found), found
    assert list(noise_problems(experiment(**PRIVATE))) == []


def test_the_names_of_the_file_are_those_of_the_catalogue() -> None:
    assert tuple(CATALOGUE) == SELECTORS
