"""A model on disk comes back as it was; any other file is refused with one sentence."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carpool.client.evaluate import evaluate
from carpool.client.flat import FlatModel
from carpool.client.modelfile import Recipe, open_model, read_model, write_model
from carpool.client.models import build
from carpool.privacy.errors import RunError, VehicleError


@pytest.fixture
def recipe(make_schema) -> Recipe:
    return Recipe("mlp", {"hidden": 3}, "refuse", make_schema("class", "flags", "value"))


@pytest.fixture
def model(recipe) -> FlatModel:
    return FlatModel(build(recipe.name, recipe.schema, recipe.options, 5))


@pytest.fixture
def path(tmp_path, model, recipe):
    write_model(tmp_path / "model.safetensors", model.numpy(), model.layout, recipe)
    return tmp_path / "model.safetensors"


def raw(metadata: object, dtype: str = "F32", body: bytes = bytes(8)) -> bytes:
    """A safetensors file made by hand, with one tensor of two numbers."""
    header = {"t": {"dtype": dtype, "shape": [2], "data_offsets": [0, len(body)]}}
    if metadata is not None:
        header["__metadata__"] = {"carpool": metadata}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def test_recipe_and_tensors_come_back(path, model, recipe):
    again, tensors = read_model(path)
    assert again == recipe
    np.testing.assert_array_equal(model.layout.flatten(tensors), model.numpy())


def test_an_opened_model_says_the_same(path, model, make_shard):
    _, opened = open_model(path)
    shard = make_shard(9, "class", "flags", "value")
    assert evaluate(opened, shard).targets == evaluate(model, shard).targets
    np.testing.assert_array_equal(opened.numpy(), model.numpy())


def test_equal_models_give_equal_files_wherever_they_lie(tmp_path, model, recipe):
    written = set()
    for i, options in enumerate([{"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1, "b": 2}]):
        path = tmp_path / str(i) / "model.safetensors"
        write_model(path, model.numpy(), model.layout, dataclasses.replace(recipe, options=options))
        written.add(path.read_bytes())
    assert len(written) == 1


def test_one_changed_weight_gives_another_file(path, tmp_path, model, recipe):
    vector = model.numpy()
    vector[0] = np.nextafter(vector[0], np.float32(9))
    write_model(tmp_path / "other", vector, model.layout, recipe)
    assert (tmp_path / "other").read_bytes() != path.read_bytes()


def test_any_safetensors_reader_finds_the_named_tensors(path, model):
    from safetensors.numpy import load_file

    tensors = load_file(path)
    assert {n: t.shape for n, t in tensors.items()} == dict(
        zip(model.layout.names, model.layout.shapes, strict=True)
    )


def test_no_sample_is_in_the_file(path):
    length = struct.unpack("<Q", path.read_bytes()[:8])[0]
    header = json.loads(path.read_bytes()[8 : 8 + length])
    facts = json.loads(header["__metadata__"]["carpool"])
    assert sorted(facts) == ["buffers", "format", "name", "options", "schema"]


def test_a_model_with_nan_is_not_written(tmp_path, model, recipe):
    vector = model.numpy()
    vector[3] = np.nan
    with pytest.raises(VehicleError, match="NaN or Inf"):
        write_model(tmp_path / "m", vector, model.layout, recipe)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_sentence_and_leaves_the_old_model(path, model, recipe, monkeypatch):
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="no space left on device"):
        write_model(path, model.numpy() * 2, model.layout, recipe)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_refusal_by_safetensors_itself_is_a_refusal(tmp_path, model, recipe, monkeypatch):
    from safetensors import SafetensorError

    def refuse(*args, **kwargs):
        raise SafetensorError("Error while serializing: No space left on device")

    monkeypatch.setattr("carpool.client.modelfile.save_file", refuse)
    with pytest.raises(RunError, match=r"cannot write .* no space left"):
        write_model(tmp_path / "m", model.numpy(), model.layout, recipe)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "no.safetensors", tmp_path):
        with pytest.raises(RunError, match=r"there is no .*; the run has not finished"):
            read_model(path)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_file_that_is_cut_off_anywhere_is_refused(path, tmp_path, data):
    whole = path.read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(RunError, match="is not a model that carpool wrote, or it is damaged"):
        read_model(cut)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
@pytest.mark.slow
def test_a_damaged_header_is_refused_or_harmless_but_never_another_exception(path, tmp_path, data):
    whole = bytearray(path.read_bytes())
    length = struct.unpack("<Q", whole[:8])[0]
    whole[data.draw(st.integers(0, 8 + length - 1))] ^= data.draw(st.integers(1, 255))
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(whole)
    with contextlib.suppress(RunError):
        read_model(damaged)


RECIPE = {
    "format": 1,
    "name": "mlp",
    "options": {},
    "buffers": "refuse",
    "schema": {
        "views": ["a"],
        "height": 8,
        "width": 8,
        "targets": [{"name": "x", "kind": "value", "classes": []}],
    },
}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a model",
        b"\xff" * 100,
        raw(None),
        raw("not json"),
        raw("[]"),
        raw("7"),
        raw("{}"),
        raw(json.dumps({"format": 1})),
        raw(json.dumps({**RECIPE, "schema": None})),
        raw(json.dumps({**RECIPE, "schema": {}})),
        raw(json.dumps({**RECIPE, "schema": {**RECIPE["schema"], "targets": [{"name": "x"}]}})),
        raw(json.dumps({**RECIPE, "schema": {**RECIPE["schema"], "targets": [{"odd": 1, "classes": []}]}})),
        raw(json.dumps(RECIPE), dtype="BF16", body=bytes(4)),
        raw(json.dumps(RECIPE), dtype="F8_E4M3", body=bytes(2)),
    ],
)
def test_a_foreign_file_is_refused(tmp_path, content):
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(content)
    with pytest.raises(RunError, match="is not a model that carpool wrote, or it is damaged"):
        read_model(path)


def test_a_newer_format_is_refused_by_its_number(tmp_path):
    path = tmp_path / "new.safetensors"
    path.write_bytes(raw(json.dumps({**RECIPE, "format": 3})))
    with pytest.raises(RunError, match="has format 3; this version reads 1 and 2"):
        read_model(path)


def test_tensors_that_do_not_fit_the_recipe_are_refused(tmp_path):
    path = tmp_path / "odd.safetensors"
    path.write_bytes(raw(json.dumps(RECIPE)))
    read_model(path)
    with pytest.raises(RunError, match="does not fit model mlp: tensors do not fit the layout: missing"):
        open_model(path)


def test_a_model_with_running_statistics_comes_back(tmp_path, make_schema, make_shard):
    own = tmp_path / "own.py"
    own.write_text(
        "import torch\n"
        "class Own(torch.nn.Module):\n"
        "    def __init__(self, schema):\n"
        "        super().__init__()\n"
        "        self.norm = torch.nn.BatchNorm2d(3)\n"
        "        self.head = torch.nn.Linear(3 * schema.height * schema.width, 3)\n"
        "    def forward(self, frames):\n"
        "        return {'sign': self.head(self.norm(frames[:, 0]).flatten(1))}\n"
    )
    recipe = Recipe(f"{own}:Own", {}, "average", make_schema("class"))
    model = FlatModel(build(recipe.name, recipe.schema, {}, 0), buffers="average")
    vector = model.numpy()
    vector[model.layout.slices["norm.running_mean"]] = [1, 2, 3]
    model.load(vector)
    write_model(tmp_path / "m.safetensors", vector, model.layout, recipe)
    _, opened = open_model(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(opened.numpy(), vector)
    shard = make_shard(5, "class")
    assert evaluate(opened, shard).loss == evaluate(model, shard).loss
