import json
import re
import tomllib
from pathlib import Path

import pydantic
import pytest

from carpool.client.camera.settings import DataSettings
from carpool.experiments.checks import SOURCE_TARGETS, cross_problems, file_problems, strategy_problems
from carpool.experiments.cli_setup import template
from carpool.experiments.config import MODELS, SOURCES, Experiment
from carpool.experiments.faults import leaves
from carpool.experiments.hints import shown
from carpool.experiments.load import data_settings
from carpool.experiments.toml_files import put

ROOT = Path(__file__).parents[2]
KEYS = {".".join(key): field for key, field in leaves()}


def experiment(**changes: object) -> Experiment:
    """Built without the rules raising, so that they can be looked at one by one."""
    document: dict[str, object] = {"experiment": {"name": "x"}}
    for dotted, value in changes.items():
        put(document, tuple(dotted.split(".")), value)
    return Experiment.model_validate(document, context={"problems": []})


def test_only_the_name_has_no_default():
    assert [key for key, field in KEYS.items() if field.is_required()] == ["experiment.name"]
    assert Experiment.model_validate({"experiment": {"name": "x"}}).selection.cohort == 20


def test_the_data_defaults_are_those_of_the_sources():
    assert data_settings(experiment(**{"experiment.seed": 0})) == DataSettings()


def test_data_seed_follows_the_experiment_unless_given():
    assert experiment().data.seed == 7
    assert experiment(**{"experiment.seed": 5}).data.seed == 5
    assert experiment(**{"experiment.seed": 5, "data.seed": 3}).data.seed == 3


def test_nothing_can_be_changed_afterwards():
    with pytest.raises(pydantic.ValidationError):
        experiment().train.lr = 1.0  # type: ignore[misc]


def test_asked_and_needed_do_not_suffer_from_floats():
    selection = experiment(**{"selection.cohort": 10, "selection.over_select": 0.1}).selection
    assert selection.asked == 11  # 10 * 1.1 is 11.000000000000002
    assert experiment(**{"selection.cohort": 30, "selection.quorum": 0.7}).selection.needed == 21
    assert experiment(**{"selection.cohort": 20, "selection.over_select": 0.51}).selection.asked == 31


@pytest.mark.parametrize(
    ("changes", "value", "fix"),
    [
        ({"selection.cohort": 80}, "asks 120 vehicles", "fleet.vehicles is 100; lower cohort"),
        ({"selection.cohort": 2, "selection.quorum": 0.3}, "quorum 0.3", "at least 0.5"),
        ({"selection.deadline_min_s": 9e3}, "9000.0 s", "lower the first"),
        ({"fleet.leave.before_training": 0.9}, "add up to 1.15", "at most 1"),
        ({"experiment.engine": "peers"}, '"peers" is not in this version', 'use engine = "inline"'),
        ({"experiment.topology": "ring"}, '"ring" is not in this version', 'use topology = "server"'),
        ({"privacy.channel": "secagg", "selection.cohort": 5}, "n_min is 12", "raise the cohort"),
        ({"privacy.dp.mechanism": "distributed"}, 'privacy.channel is "plain"', '"secagg" only'),
        ({"privacy.dp.epsilon": 1.0}, "epsilon is 1.0", "leave it at 8.0"),
        ({"privacy.dp.noise_multiplier": 1.0}, "noise_multiplier is 1.0", "leave it out"),
        ({"privacy.secagg.n_min": 64}, "n_min is 64", "leave it at 12"),
        ({"privacy.protocol": "helpers"}, 'protocol is "helpers"', 'leave it at "secagg+"'),
        ({"audit.canaries": 3}, "canaries 3 is not in this version", "use canaries = 0"),
        ({"ray.address": "auto"}, '"auto"', "leave it empty"),
        ({"fleet.availability": "trace"}, "fleet.trace is empty", "name a CSV"),
        ({"fleet.trace": "t.csv"}, '"t.csv"', "leave trace empty"),
        (
            {"fleet.trace": "t.txt", "fleet.availability": "trace"},
            '"t.txt"',
            "must end in .csv or .parquet",
        ),
        ({"data.source": "gtsrb"}, 'source "gtsrb"', "give it"),
        ({"data.source": "npz"}, 'source "npz"', "give it"),
        ({"data.path": "x.npz"}, '"x.npz"', "set data.source"),
        ({"data.targets": ["sgn"]}, '"sgn"', 'did you mean "sign"'),
        ({"data.source": "udacity"}, 'source "udacity"', "driving_log.csv"),
        ({"data.source": "parquet"}, 'source "parquet"', "give it"),
        (
            {"data.source": "comma2k19", "data.path": "x", "data.targets": ["brake"]},
            '"brake"',
            "one of steering, speed",
        ),
        ({"data.pipeline.crop_top": 0.6, "data.pipeline.crop_bottom": 0.4}, "is 0.6", "below 1"),
        (
            {"data.pipeline.normalise": "picture", "data.pipeline.std": [1, 1, 1]},
            "std is [1",
            "leave std out",
        ),
        ({"train.epochs": 2, "train.steps": 4}, "train.steps is 4", "keep one"),
    ],
)
def test_rules_about_several_keys(changes, value, fix):
    (problem,) = cross_problems(experiment(**changes))
    assert value in problem.text
    assert fix in problem.text
    document: dict[str, object] = {"experiment": {"name": "x"}}
    for dotted, new in changes.items():
        put(document, tuple(dotted.split(".")), new)
    with pytest.raises(pydantic.ValidationError, match=re.escape(problem.text[:60])):
        Experiment.model_validate(document)


def test_unprotected_sums_are_not_formed_under_a_promise_of_privacy():
    for key, value in (("privacy.channel", "secagg"), ("privacy.dp.mechanism", "central")):
        found = cross_problems(experiment(**{"data.pipeline.normalise": "federated", key: value}))
        assert any("sums are not protected" in problem.text for problem in found)
    assert cross_problems(experiment(**{"data.pipeline.normalise": "federated"})) == []


def test_the_quickstart_runs_on_every_channel():
    for channel in ("plain", "sealed", "secagg"):
        assert (
            cross_problems(experiment(**{"privacy.channel": channel, "privacy.secagg.clip_norm": 10.0})) == []
        )


def test_the_defaults_and_the_edges_break_no_rule():
    assert cross_problems(experiment()) == []
    assert cross_problems(experiment(**{"selection.cohort": 100, "selection.over_select": 0})) == []
    everywhere = dict.fromkeys(type(experiment().fleet.leave).model_fields, 0.2)
    assert cross_problems(experiment(**{"fleet.leave": everywhere})) == []
    assert cross_problems(experiment(**{"train.steps": 4})) == []


def test_files_that_are_not_there(tmp_path):
    gone = tmp_path / "gone"
    for changes in (
        {"data.source": "npz", "data.path": f"{gone}.npz"},
        {"fleet.availability": "trace", "fleet.trace": f"{gone}.csv"},
        {"model.name": f"{gone}.py:build"},
        {"data.source": f"{gone}.py:build"},
    ):
        (problem,) = file_problems(experiment(**changes))
        assert str(gone) in problem.text
        assert problem.keys[0] in changes
    (tmp_path / "there.csv").touch()
    there = {"fleet.availability": "trace", "fleet.trace": str(tmp_path / "there.csv")}
    assert file_problems(experiment(**there)) == []


def test_the_catalogue_is_asked_about_the_strategy():
    assert strategy_problems(experiment()) == []
    (text,) = strategy_problems(experiment(**{"strategy.name": "fedprx"}))
    assert 'did you mean "fedprox"' in text
    (text,) = strategy_problems(experiment(**{"strategy.options": {"betta": 0.5}}))
    assert "betta" in text


def test_the_template_has_every_key_and_is_the_defaults():
    text = template("x", Path("x/experiment.toml"))
    assert Experiment.model_validate(tomllib.loads(text)) == experiment()
    optional = re.sub(r"^# (?=\w+ = )", "", text, flags=re.M)  # the three that have no default value
    document = tomllib.loads(optional)
    for key in KEYS:
        table: object = document
        for name in key.split("."):
            assert isinstance(table, dict)
            assert name in table, f"{key} is missing in template.toml"
            table = table[name]


def test_the_documentation_has_every_key_with_its_default():
    text = (ROOT / "docs/configuration.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| (.+?) \|", text, re.M))
    assert set(rows) == set(KEYS)
    special = {"experiment.name": "none", "data.seed": "`experiment.seed`"}
    for key, field in KEYS.items():
        default = "{}" if field.default == {} else shown(field.default)
        wanted = "none" if field.default is None else f"`{default}`"
        assert rows[key] == special.get(key, wanted), key


def test_known_names_are_those_of_the_code_that_uses_them():
    # Read as text: importing the models would import torch.
    models = (ROOT / "client/models.py").read_text()
    assert all(json.dumps(name) in models for name in MODELS)
    sources = (ROOT / "client/camera/sources.py").read_text()
    assert all(json.dumps(name) in sources for name in SOURCES)
    renderer = (ROOT / "client/camera/procedural.py").read_text()
    assert set(re.findall(r'Target\("(\w+)"', renderer)) == set(SOURCE_TARGETS["procedural"])
