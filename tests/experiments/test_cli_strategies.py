import json
import tomllib

import pytest

from carpool.experiments import cli, cli_strategies
from carpool.strategies import catalogue
from carpool.strategies.contract import Channel
from carpool.strategies.fedavg import fedavg


def test_every_strategy_is_listed(capsys):
    assert cli.run(["strategies", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in listed] == list(catalogue.names())
    assert cli.run(["strategies"]) == 0
    told = capsys.readouterr().out
    for one in listed:
        assert one["name"] in told


@pytest.mark.parametrize("name", catalogue.names())
def test_every_option_has_its_default_and_its_range(name):
    one = cli_strategies.describe(name)
    assert one["paper"] in one["text"].replace("\n", " ")
    assert [option["name"] for option in one["options"]] == list(catalogue.options(name))
    for option in one["options"]:
        assert option["default"] == catalogue.options(name)[option["name"]].default
        assert option["name"] in option["range"] or '"' in option["range"]


@pytest.mark.parametrize("name", catalogue.names())
def test_the_example_is_an_experiment_that_holds(name):
    section = tomllib.loads(cli_strategies.describe(name)["example"])["strategy"]
    assert catalogue.build(section["name"], section["options"]).name == name


def test_ranges_come_from_the_docstring():
    assert cli_strategies.allowed(catalogue.CATALOGUE["fedprox"], "mu") == "mu >= 0, per squared weight unit"
    assert cli_strategies.allowed(catalogue.CATALOGUE["fedprox"], "weighting") == '"examples" or "equal"'


def test_a_strategy_that_needs_each_update_says_so(monkeypatch):
    def median(*, trim: float = 0.1):
        """trim >= 0. Raises ValueError."""
        strategy = fedavg()
        return type(strategy)(**{**vars(strategy), "channels": (Channel("delta", "set"),)})

    assert cli_strategies.describe("fedavg")["server_needs"] == "only the sum"
    monkeypatch.setattr(catalogue, "CATALOGUE", {"median": median})
    one = cli_strategies.describe("median")
    assert one["server_needs"] == "each update"
    assert one["channels"] == [{"name": "delta", "reduce": "set"}]
    assert one["options"] == [{"name": "trim", "default": 0.1, "range": "trim >= 0"}]


def test_one_for_people_and_an_unknown_one(capsys):
    assert cli.run(["strategies", "fedadam"]) == 0
    told = capsys.readouterr().out
    assert "arXiv:2003.00295" in told
    assert "[strategy.options]\nserver_lr = 0.01" in told
    assert cli.run(["strategies", "fedadm"]) == 2
    assert "did you mean 'fedadam'?" in capsys.readouterr().err
