"""The table of claims: in the words of the configuration, and no more than was shown."""

from typing import get_args

import pytest

from carpool.experiments.config import Experiment
from carpool.privacy.dp.events import RELATIONS, UNITS
from carpool.privacy.dp.mechanism import BLIND, CLAIMS, UNIT_NEEDS, Name, may_sample, misfits
from carpool.server.selectors import catalogue

FITTING = {
    "channel": "secagg",
    "engine": "inline",
    "selector": "uniform",
    "unit": "vehicle",
    "relation": "zero-out",
}


def words(*path):
    """The values that a key of the configuration takes."""
    kind = Experiment
    for part in path:
        kind = kind.model_fields[part].annotation
    return set(get_args(kind))


def test_the_words_are_those_of_the_configuration():
    assert set(CLAIMS) == set(get_args(Name)) == words("privacy", "dp", "mechanism") - {"none"}
    for claim in CLAIMS.values():
        assert set(claim.channels) <= words("privacy", "channel")
        assert set(claim.engines) <= words("experiment", "engine")
        assert set(claim.selectors) <= set(catalogue.CATALOGUE)
        assert set(claim.relations) <= set(RELATIONS)
        assert set(claim.units) <= set(UNITS)
        assert claim.against
        assert claim.trusted
    assert set(UNIT_NEEDS) == set(UNITS)


def test_no_selector_looks_at_what_is_private():
    assert {name for name in catalogue.CATALOGUE if not catalogue.build(name, {}).needs_loss} == set(BLIND)


@pytest.mark.parametrize("name", [name for name in CLAIMS if name != "sgd"])
def test_a_plain_combination_fits(name):
    assert not [*misfits(name, **FITTING)]
    assert not [*misfits(name, **FITTING, weights="bounded")]


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        ("distributed", {"channel": "sealed"}, "channel"),
        ("distributed", {"relation": "add-remove"}, "relation"),
        ("local", {"relation": "add-remove"}, "relation"),
        ("sgd", {"unit": "example", "relation": "add-remove"}, "relation"),
        ("central", {"engine": "peers"}, "engine"),
        ("central", {"selector": "oort"}, "selector"),
        ("matrix", {"selector": "power-of-choice"}, "selector"),
        ("central", {"unit": "example"}, "unit"),
        ("central", {"sets": True}, "strategy's view"),
        ("central", {"weights": "examples"}, "weights"),
        ("central", {"channel": "carrier pigeon"}, "channel"),
    ],
)
def test_what_is_not_claimed_is_named(name, change, what):
    ((found, value, good),) = misfits(name, **{**FITTING, **change})
    assert found == what
    assert value in (*change.values(), "set")
    assert value not in good


def test_example_level_is_for_sgd_alone():
    assert [name for name, claim in CLAIMS.items() if "example" in claim.units] == ["sgd"]
    assert not [*misfits("sgd", **{**FITTING, "unit": "example"}, sets=True)]
    assert [*misfits("sgd", **{**FITTING, "unit": "example"}, weights="bounded")]


def test_only_central_with_the_poisson_selector_may_count_on_sampling():
    for name in CLAIMS:
        for selector in catalogue.CATALOGUE:
            assert may_sample(name, selector) == (name == "central" and selector == "poisson")


def test_only_distributed_noise_is_lost_with_vehicles():
    assert [name for name, claim in CLAIMS.items() if claim.realised] == ["distributed"]
