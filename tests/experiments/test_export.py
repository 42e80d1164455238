import contextlib
import dataclasses
import hashlib
import io
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from carpool.client.camera.pipeline import Pipeline
from carpool.client.camera.samples import Schema, Target
from carpool.client.deployed import Deployed, output_names
from carpool.client.flat import FlatModel
from carpool.client.losses import to_float
from carpool.client.modelfile import Recipe
from carpool.client.models import BUILT_IN, build
from carpool.client.predict import predict
from carpool.experiments import cli, export, modelcard, run
from carpool.experiments.load import load_experiment
from carpool.privacy.errors import RunError, UsageError

SCHEMA = Schema(
    ("front", "rear"),
    16,
    16,
    (
        Target("weather", "class", ("dry", "rain", "snow")),
        Target("obstacle", "flags", width=2),
        Target("frames", "value", unit="m", scale=50.0),
    ),
)


def rng(seed=1):
    return np.random.Generator(np.random.Philox(seed))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of 4 vehicles and 2 rounds, with a class and a value."""
    home = tmp_path_factory.mktemp("runs")
    n = 48
    schema = {
        "views": ["front", "rear"],
        "targets": [
            {"name": "weather", "kind": "class", "classes": ["dry", "ra|in"]},
            {"name": "lane_offset", "kind": "value", "unit": "m", "scale": 0.5},
        ],
    }
    np.savez(
        home / "secret_place.npz",
        frames=rng().integers(0, 256, (n, 2, 16, 16, 3), np.uint8),
        weather=np.arange(n) % 2,
        lane_offset=rng().normal(0, 0.3, n).astype(np.float32),
        vehicle=np.repeat(np.arange(4), n // 4),
        drive=np.tile(np.repeat(np.arange(3), 4), 4),
        schema=np.array(json.dumps(schema)),
    )
    (home / "e.toml").write_text(
        "[experiment]\nname = 'tiny'\nrounds = 2\n[fleet]\nvehicles = 4\n[selection]\ncohort = 2\n"
        f"quorum = 0.5\n[data]\nsource = 'npz'\npath = '{home / 'secret_place.npz'}'\n"
        "[model]\nname = 'cnn-multiview'\noptions = { channels = 8, embedding = 8 }\n[train]\nlr = 0.01\n"
    )
    return run.start(load_experiment(home / "e.toml"), out=home / "tiny")[0]


@pytest.mark.slow
def test_export_writes_model_onnx_and_card(finished, tmp_path, capfd):
    onnxruntime = pytest.importorskip("onnxruntime")
    assert cli.run(["export", str(finished), "--out", str(tmp_path / "out"), "--json"]) == 0
    told = capfd.readouterr()
    document = json.loads(told.out)
    assert told.err == ""
    assert document["onnx_difference"] < 1e-4
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["MODEL_CARD.md", "model.onnx", "model.safetensors"]
    weights = (out / "model.safetensors").read_bytes()
    assert weights == (finished / "model.safetensors").read_bytes()
    assert document["sha256"] == hashlib.sha256(weights).hexdigest()
    graph = (out / "model.onnx").read_bytes()
    for secret in (b"/work", str(Path.cwd()).encode(), b"site-packages", b"deployed.py", b"secret_place"):
        assert secret not in graph
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    [entry] = session.get_inputs()
    assert (entry.name, entry.type, entry.shape) == ("frames", "tensor(uint8)", ["batch", 2, 16, 16, 3])
    weather, lane = session.run(["weather", "lane_offset"], {"frames": np.zeros((7, 2, 16, 16, 3), np.uint8)})
    assert weather.shape == (7, 2)
    assert lane.shape == (7,)
    np.testing.assert_allclose(weather.sum(1), 1, rtol=1e-5)


@pytest.mark.slow
def test_the_card_says_what_the_run_says_and_its_code_runs(finished, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    exported = export.export(finished, tmp_path)
    card = exported.card.read_text()
    result = json.loads((finished / "result.json").read_text())
    assert f"| weather | accuracy | {result['final']['targets']['weather']['accuracy']:.4g} |" in card
    assert f"{result['vehicles']} simulated vehicles, 2 rounds" in card
    asked, lost = (sum(one[key] for one in result["rounds"]) for key in ("asked", "dropped"))
    assert f"Asked for an update {asked} times; {lost} updates were lost" in card
    assert exported.sha256 in card
    assert "2 classes (dry, ra\\|in)" in card
    assert "**None.** The channel was `plain`" in card
    assert "Not for driving" in card
    assert str(finished.parent) not in card
    assert "secret\\_place.npz" in card
    snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(snippets) == 2
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for snippet in snippets:
            names: dict[str, object] = {}
            exec(snippet, names)
    assert [line.split()[0] for line in printed.getvalue().splitlines()] == ["weather", "lane_offset"]
    assert names["answers"][0].shape == (1, 2)


@pytest.mark.slow
def test_without_the_extra_the_rest_is_written_and_an_old_onnx_goes(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "can_onnx", lambda: False)
    (tmp_path / "model.onnx").write_bytes(b"of another model")
    assert cli.run(["export", str(finished), "--out", str(tmp_path), "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["onnx"] is None
    assert "pip install 'carpool[export]'" in told.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["MODEL_CARD.md", "model.safetensors"]
    assert "onnx" not in (tmp_path / "MODEL_CARD.md").read_text()
    assert cli.run(["export", str(finished), "--out", str(tmp_path), "--no-onnx"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_an_unfinished_run_and_a_refusing_machine(finished, tmp_path, monkeypatch):
    run_folder = tmp_path / "half"
    run_folder.mkdir()
    (run_folder / "config.toml").write_text((finished / "config.toml").read_text())
    with pytest.raises(UsageError, match="is not finished; go on with it: carpool run --resume"):
        export.export(run_folder)
    with pytest.raises(UsageError, match="not a run's folder"):
        export.export(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot"):
        export.export(finished, tmp_path / "file", onnx=False)
    monkeypatch.setattr(export, "can_onnx", lambda: True)
    monkeypatch.setattr(export, "to_onnx", lambda deployed, recipe: b"")
    monkeypatch.setattr(export, "distance", lambda *given: (_ for _ in ()).throw(RunError("differs")))
    with pytest.raises(RunError, match="differs"):
        export.export(finished, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", BUILT_IN)
def test_deployed_says_what_predict_says(name):
    module = build(name, SCHEMA, {}, 3)
    frames = rng(5).integers(0, 256, (3, 2, 16, 16, 3), np.uint8)
    with torch.inference_mode():
        classes, flags, values = Deployed(module.eval(), SCHEMA)(torch.from_numpy(frames))
        raw = module(to_float(frames))
    assert torch.equal(values, raw["frames"][:, 0] * 50)

    model = FlatModel(build(name, SCHEMA, {}, 3))
    for row, answers in enumerate(predict(model, frames, SCHEMA.targets, SCHEMA.views)):
        assert answers["weather"].probability == pytest.approx(float(classes[row].max()), rel=1e-5)
        assert answers["obstacle"].probability == pytest.approx(flags[row].tolist(), rel=1e-5)
        assert answers["frames"].value == pytest.approx(float(values[row]), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_model_is_the_same_in_onnx(name):
    pytest.importorskip("onnxruntime")
    recipe = Recipe(name, {}, "refuse", SCHEMA)
    deployed = Deployed(build(name, SCHEMA, {}, 3), SCHEMA).eval()
    graph = export.to_onnx(deployed, recipe)
    assert export.distance(deployed, graph, recipe) < 1e-4
    assert output_names(SCHEMA) == ["weather", "obstacle", "frames_out"]
    other = Deployed(build(name, SCHEMA, {}, 4), SCHEMA).eval()
    with pytest.raises(RunError, match="differs from the model by"):
        export.distance(other, graph, recipe)


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, frames):
        if float(frames.mean()) > 0:  # a branch on data, which a graph cannot have
            return {"weather": self.linear(frames.mean((1, 3, 4)))}
        return {"weather": self.linear(frames.amax((1, 3, 4)))}


@pytest.mark.slow
def test_a_module_that_onnx_cannot_say():
    pytest.importorskip("onnxscript")
    schema = Schema(("front",), 16, 16, SCHEMA.targets[:1])
    recipe = Recipe("/home/me/odd.py:build", {}, "refuse", schema)
    with pytest.raises(RunError, match=r"model odd.py:build cannot be written as ONNX \(.*--no-onnx"):
        export.to_onnx(Deployed(Odd(), schema).eval(), recipe)


def test_quietly_hides_one_warning_only():
    with export.quietly(), pytest.raises(FutureWarning):
        warnings.warn("something else", FutureWarning, stacklevel=1)
    with export.quietly():
        warnings.warn("`isinstance(treespec, LeafSpec)` is deprecated", FutureWarning, stacklevel=1)


@pytest.mark.parametrize("channel", modelcard.PRIVACY)
def test_card_never_promises_more_than_the_channel(channel):
    words = modelcard.PRIVACY[channel]
    assert ("every vehicle's update" in words) == (channel != "secagg")


def test_hostile_names_stay_text():
    assert modelcard.plain("<b>\x1b[31m|`*") == "\\<b\\>?\\[31m\\|\\`\\*"
    assert modelcard.described(Target("x", "class", tuple("abc") * 30)).endswith(", ...)")


@pytest.mark.slow
@pytest.mark.parametrize(
    "pipeline",
    [
        Pipeline(colour="yuv", normalise="federated", mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3)),
        Pipeline(colour="gray", normalise="picture", crop_top=0.25),
    ],
    ids=["federated", "picture"],
)
def test_the_pipeline_is_in_the_onnx_file(pipeline):
    pytest.importorskip("onnxruntime")
    import onnx

    schema = dataclasses.replace(SCHEMA, pipeline=pipeline)
    recipe = Recipe("logistic", {}, "refuse", schema)
    module = build("logistic", schema, {}, 3)
    graph = export.to_onnx(Deployed(module, schema).eval(), recipe)
    assert export.distance(Deployed(module, schema).eval(), graph, recipe) < 1e-4
    with pytest.raises(RunError, match="differs from the model by"):
        export.distance(Deployed(module, SCHEMA).eval(), graph, recipe)
    facts = json.loads(onnx.load_model_from_string(graph).metadata_props[0].value)
    assert facts.get("crop", {}).get("crop_top") == (0.25 if pipeline.crop_top else None)
