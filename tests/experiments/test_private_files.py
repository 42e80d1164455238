"""experiments/private.toml keeps what it says of itself, and a private run says what it promises."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from carpool.client.camera.samples import Schema, Target
from carpool.client.models import build
from carpool.experiments.cli import app
from carpool.experiments.config import Experiment
from carpool.experiments.load import load_experiment
from carpool.privacy.dp.forms import NoisyForm, form_for
from carpool.privacy.dp.protection import Protection

FOLDER = Path(__file__).parents[2] / "experiments"
CLASSES = tuple("abcdefghij")


def loaded(name: str, *sets: str) -> Experiment:
    return load_experiment(FOLDER / f"{name}.toml", list(sets))


def test_private_is_the_experiment_that_was_promised() -> None:
    e = loaded("private")
    dp, privacy = e.privacy.dp, e.privacy
    assert (dp.mechanism, dp.unit, dp.epsilon, dp.delta) == ("distributed", "vehicle", 8.0, 1e-5)
    assert (dp.randomness, dp.sampling, dp.noise_multiplier) == ("system", "none", None)
    assert (privacy.channel, privacy.protocol) == ("secagg", "secagg+")
    assert privacy.secagg.full_rounds >= 1
    assert e.fleet.vehicles == 1000
    leave = e.fleet.leave
    lost = leave.before_training + leave.during_training + leave.before_upload + leave.during_upload
    assert lost == pytest.approx(0.2)


def test_its_model_is_small() -> None:
    e = loaded("private")
    crop, data = e.data.pipeline, e.data
    width, height = (
        round(data.width * (1 - crop.crop_left - crop.crop_right)),
        round(data.height * (1 - crop.crop_top - crop.crop_bottom)),
    )
    schema = Schema(("front",), height, width, (Target("sign", "class", classes=CLASSES),))
    model = build(e.model.name, schema, e.model.options, 0)
    assert sum(parameter.numel() for parameter in model.parameters()) <= 20_000


def test_its_noise_lasts_for_every_round_that_counts_and_little_of_it_is_too_much() -> None:
    e = loaded("private")
    how, selection = e.privacy.secagg, e.selection
    form = form_for(
        Protection("distributed", e.privacy.dp.clip_norm, 2.85, selection.cohort),
        {"delta": 4674},
        most=selection.asked,
        n_min=how.n_min,
        bits=how.bits,
        rotation=bytes(16),
        gamma=how.corrupt_fraction,
        delta=how.dropout_fraction,
        extras=16,
        variance=0.0,
    )
    assert isinstance(form, NoisyForm)
    real = [form.event(selection.asked, n).noise_multiplier for n in range(how.n_min, selection.asked + 1)]
    assert selection.needed >= how.n_min
    assert min(real) >= 2.85
    assert max(real) <= 2.85 * 1.06


def test_beside_it_stand_no_noise_and_correlated_noise() -> None:
    e, bare, matrix = (
        loaded("private"),
        loaded("private", "privacy.dp.mechanism=none"),
        loaded("private_matrix"),
    )
    assert bare.privacy.dp.mechanism == "none"
    assert (matrix.privacy.dp.mechanism, matrix.privacy.dp.sampling) == ("matrix", "none")
    assert matrix.privacy.dp.matrix.min_separation * matrix.selection.asked <= matrix.fleet.vehicles
    for other in (bare, matrix):
        assert (other.data, other.model, other.train, other.fleet) == (e.data, e.model, e.train, e.fleet)
        assert (other.selection, other.strategy) == (e.selection, e.strategy)
        assert other.privacy.dp.epsilon == e.privacy.dp.epsilon


@pytest.mark.slow
@pytest.mark.parametrize("seeded", [False, True])
def test_a_private_run_says_its_promise_wherever_it_speaks(
    tiny: Callable[..., Path], tmp_path: Path, *, seeded: bool
) -> None:
    noise = ["--set", "privacy.dp.mechanism=central"]
    noise += ["--set", "privacy.dp.randomness=seeded"] if seeded else []
    folder, runner = tmp_path / "run", CliRunner()
    found = runner.invoke(app, ["run", str(tiny()), *noise, "--out", str(folder)])
    assert found.exit_code == 0, found.output
    assert runner.invoke(app, ["export", str(folder)]).exit_code == 0
    told = {
        "run": found.stdout,
        "show": runner.invoke(app, ["show", str(folder)]).stdout,
        "report": (folder / "report.html").read_text(),
        "card": next(folder.rglob("MODEL_CARD.md")).read_text(),
    }
    epsilon = json.loads((folder / "result.json").read_text())["privacy"]["epsilon"]
    for where, text in told.items():
        flat = " ".join(text.split())
        assert ("NOT PRIVATE" in flat) is seeded, where
        assert f"psilon {epsilon:.4g} at delta 1e-05 for each vehicle" in flat, where
        assert seeded or "against whoever sees the released models" in flat, where
    head = json.loads(runner.invoke(app, ["privacy", "ledger", str(folder), "--json"]).stdout)["head"]["hash"]
    assert head in told["report"]
    assert head[:16] in told["show"]
