"""The camera pipeline: crops, colours, and a normalisation that is measured on training frames only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from carpool.client.camera import gtsrb, npz
from carpool.client.camera.fleetdata import PooledFleet, build_fleet
from carpool.client.camera.pictures import prepared
from carpool.client.camera.pipeline import DEFAULT, Moments, Pipeline, federated, moments
from carpool.client.camera.samples import Pool, Schema, Shard, Target
from carpool.client.camera.settings import DataSettings, Source
from carpool.client.camera.sources import load_source
from carpool.client.deployed import Deployed
from carpool.client.evaluate import evaluate
from carpool.client.flat import FlatModel
from carpool.client.losses import to_float
from carpool.client.modelfile import Recipe, open_model, read_model, write_model
from carpool.client.models import build
from carpool.client.predict import predict
from carpool.client.trainer import LocalTrainer, TrainSettings
from carpool.privacy.errors import DataError

FRAMES = np.random.default_rng(1).integers(0, 256, (5, 2, 6, 8, 3), dtype=np.uint8)
ODD = Pipeline(mean=(0.2, 0.4, 0.6), std=(0.1, 0.2, 0.3))


def test_the_default_is_bit_for_bit_what_it_always_was() -> None:
    old = torch.from_numpy(FRAMES).permute(0, 1, 4, 2, 3).to(torch.float32).sub_(127.5).mul_(1 / 63.75)
    assert torch.equal(to_float(FRAMES), old)
    assert torch.equal(to_float(FRAMES, "cpu", DEFAULT), old)


def test_constants_are_a_channel_each() -> None:
    wanted = (FRAMES / 255 - np.array(ODD.mean)) / np.array(ODD.std)
    assert np.allclose(to_float(FRAMES, "cpu", ODD).numpy(), np.moveaxis(wanted, -1, 2), atol=1e-5)


def test_each_picture_by_its_own() -> None:
    floats = to_float(FRAMES, "cpu", Pipeline(normalise="picture")).numpy()
    assert np.allclose(floats.mean((2, 3, 4)), 0, atol=1e-5)
    assert np.allclose(floats.std((2, 3, 4)), 1, atol=1e-3)
    black = to_float(np.zeros((1, 1, 4, 4, 3), np.uint8), "cpu", Pipeline(normalise="picture"))
    assert (black == 0).all()


def test_colours_are_those_of_pillow() -> None:
    plain: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    picture = Image.fromarray(FRAMES[0, 0])
    yuv = to_float(FRAMES, "cpu", Pipeline(colour="yuv", **plain)).numpy()[0, 0] * 255
    assert np.abs(np.moveaxis(yuv, 0, -1) - np.asarray(picture.convert("YCbCr"), float)).max() < 1.01
    gray = to_float(FRAMES, "cpu", Pipeline(colour="gray", **plain)).numpy()[0, 0] * 255
    assert np.abs(gray[0] - np.asarray(picture.convert("L"), float)).max() < 1.01
    assert (gray[0] == gray[1]).all()
    assert (gray[0] == gray[2]).all()


def test_crops_are_parts_of_the_picture() -> None:
    picture = np.arange(10 * 20 * 3, dtype=np.uint8).reshape(10, 20, 3)
    cut = Pipeline(crop_top=0.3, crop_bottom=0.1, crop_left=0.25, crop_right=0.05)
    assert (prepared(picture, cut, 0, 0, "x") == picture[3:9, 5:19]).all()
    assert prepared(picture, cut, 7, 0, "x").shape == (6, 7, 3)
    assert prepared(picture, DEFAULT, 0, 0, "x") is picture
    with pytest.raises(DataError, match=r"frame 3 is 1x10, and data.pipeline.crop_\* leaves nothing"):
        prepared(picture[:, :1], Pipeline(crop_left=0.51, crop_right=0.4), 0, 0, "frame 3")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"crop_top": 0.6, "crop_bottom": 0.4}, "crop_top is 0.6 and crop_bottom is 0.4"),
        ({"crop_left": -0.1}, "crop_left is -0.1"),
        ({"crop_right": float("nan")}, "crop_right is nan"),
        ({"colour": "hsv"}, "colour is 'hsv'; use rgb, gray, yuv"),
        ({"normalise": "batch"}, "normalise is 'batch'"),
        ({"mean": (0.0, 0.0)}, "mean is .0.0, 0.0.; give three"),
        ({"mean": (0.0, 0.0, float("inf"))}, "give three finite numbers"),
        ({"std": (1.0, 0.0, 1.0)}, "std is .1.0, 0.0, 1.0.; give three finite numbers above 0"),
    ],
)
def test_values_out_of_range(values: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        Pipeline(**values)


@given(
    arrays.arrays(np.uint8, (6, 1, 3, 4, 3)),
    st.lists(st.integers(0, 2), min_size=6, max_size=6),
    st.sampled_from(["rgb", "gray", "yuv"]),
)
def test_the_sum_over_vehicles_is_the_whole(
    frames: np.ndarray[Any, np.dtype[np.uint8]], who: list[int], colour: Any
) -> None:
    pipeline = Pipeline(normalise="federated", colour=colour)
    owners = np.array(who)
    parts = [moments(frames, np.flatnonzero(owners == vehicle)) for vehicle in range(3)]
    found = federated(pipeline, parts)
    assert found == federated(pipeline, parts[::-1])  # exact: no matter who comes first
    plain = Pipeline(colour=colour, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    pixels = np.moveaxis(to_float(frames, "cpu", plain).double().numpy(), 2, -1).reshape(-1, 3)
    assert np.allclose(found.mean, pixels.mean(0), atol=1e-5)
    assert np.allclose(found.std, np.maximum(pixels.std(0), 1 / 255), atol=1e-4)


def test_moments_of_nothing() -> None:
    empty = moments(FRAMES, np.zeros(0, np.int64))
    assert isinstance(empty, Moments)
    with pytest.raises(DataError, match="no vehicle holds a frame"):
        federated(Pipeline(normalise="federated"), [empty])


TARGETS = (Target("sign", "class", classes=("a", "b")),)
SOURCE = """
import numpy as np
from carpool.client.camera.samples import Pool, Schema, Target
from carpool.client.camera.settings import Source

def pool(n, low, high, drives):
    rows = np.arange(n, dtype=np.int64)
    frames = np.random.default_rng(n).integers(low, high, (n, 1, 8, 8, 3)).astype(np.uint8)
    frames[rows // 5 % 4 == 3] = 250  # one drive in four is dazzling
    schema = Schema(("front",), 8, 8, (Target("sign", "class", classes=("a", "b")),))
    return Pool(schema, frames, {"sign": rows % 2}, rows // 5, rows, rows // 20)

def build(settings, vehicles):
    return Source(pool(20 * vehicles, 0, 100, 4), pool(10, 200, 256, 1))
"""


def fleet(tmp_path: Path, **more: Any) -> PooledFleet:
    file = tmp_path / "my.py"
    file.write_text(SOURCE)
    steps = Pipeline(normalise="federated", **more)
    return build_fleet(DataSettings(source=f"{file}:build", pipeline=steps, holdout=0.3), 3)


def test_federated_numbers_see_training_frames_only(tmp_path: Path) -> None:
    data = fleet(tmp_path)
    seen = np.concatenate([data.training(vehicle).rows for vehicle in range(3)])
    assert 0 < len(seen) < len(data.pool)
    pixels = data.pool.frames[seen].reshape(-1, 3) / 255
    found = data.schema.pipeline
    assert np.allclose(found.mean, pixels.mean(0))
    assert np.allclose(found.std, pixels.std(0))
    assert not np.allclose(found.mean, data.pool.frames.reshape(-1, 3).mean(0) / 255, atol=1e-3)
    assert data.validation().pool.schema == data.schema
    # Whatever is in the frames that are held back and in the test set, the numbers stay.
    changed = data.pool.frames.copy()
    changed[data.held] = 0
    again = federated(Pipeline(normalise="federated"), (moments(changed, rows) for rows in data.rows))
    assert again == found


def test_the_models_file_carries_the_numbers(tmp_path: Path) -> None:
    data = fleet(tmp_path, crop_top=0.5, colour="yuv")
    schema = data.schema
    assert (schema.height, schema.width) == (4, 8)
    model = FlatModel(build("logistic", schema, {}, 1), pipeline=schema.pipeline)
    path = tmp_path / "model.safetensors"
    write_model(path, model.numpy(), model.layout, Recipe("logistic", {}, "refuse", schema))
    recipe, found = open_model(path)
    assert recipe.schema == schema
    frames = data.pool.frames[:4]
    assert torch.equal(found.floats(frames), to_float(frames, "cpu", schema.pipeline))
    assert not torch.equal(found.floats(frames), to_float(frames))
    # Trained, measured, predicted and deployed with the same numbers.
    probability = Deployed(found.module, schema)(torch.from_numpy(frames))[0].detach()
    for row, answer in enumerate(predict(found, frames, schema.targets, schema.views)):
        assert answer["sign"].probability == pytest.approx(float(probability[row].max()), abs=1e-6)
    shard = Shard(data.pool, np.arange(4, dtype=np.int64))
    wanted = torch.nn.functional.cross_entropy(
        found.module(found.floats(frames))["sign"], torch.from_numpy(data.pool.targets["sign"][:4].copy())
    ).detach()
    assert evaluate(found, shard).loss == pytest.approx(float(wanted), rel=1e-5)
    trainer = LocalTrainer(found, [shard], TrainSettings(batch_size=4), [np.random.default_rng(1)])
    trainer.train(torch.from_numpy(model.numpy()))
    assert trainer.losses[0] == pytest.approx(float(wanted), rel=1e-5)


def test_a_default_pipeline_leaves_no_trace_in_the_file(tmp_path: Path) -> None:
    schema = Schema(("front",), 8, 8, TARGETS)
    model = FlatModel(build("logistic", schema, {}, 1))
    path, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    write_model(path, model.numpy(), model.layout, Recipe("logistic", {}, "refuse", schema))
    assert b"pipeline" not in path.read_bytes()
    assert read_model(path)[0].schema.pipeline == DEFAULT
    steps = replace(schema, pipeline=ODD)
    write_model(other, model.numpy(), model.layout, Recipe("logistic", {}, "refuse", steps))
    assert b'\\"format\\": 2' in other.read_bytes()
    assert read_model(other)[0].schema.pipeline == ODD


def crop_sources(tmp_path: Path) -> list[tuple[DataSettings, Any]]:
    """A gtsrb folder and npz files, raw and packed: the same picture, white above and black below."""
    picture = np.zeros((40, 20, 3), np.uint8)
    picture[:20] = 255
    folder = tmp_path / "Training" / "00000"
    folder.mkdir(parents=True)
    Image.fromarray(picture).save(folder / "00000_00000.ppm")
    header = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"
    (folder / "GT-00000.csv").write_text(f"{header}\n00000_00000.ppm;20;40;1;1;2;2;0\n")
    raw, packed = tmp_path / "raw.npz", tmp_path / "packed.npz"
    np.savez(raw, frames=picture[None], label=np.zeros(1, np.int64))
    Image.fromarray(picture).save(tmp_path / "one.png")
    data = np.frombuffer((tmp_path / "one.png").read_bytes(), np.uint8)
    np.savez(packed, jpeg=data, offsets=np.array([0, len(data)]), label=np.zeros(1, np.int64))
    return [
        (DataSettings(source="gtsrb", path=tmp_path), gtsrb),
        (DataSettings(source="npz", path=raw), npz),
        (DataSettings(source="npz", path=packed), npz),
    ]


def test_readers_crop_before_they_resize(tmp_path: Path) -> None:
    for settings, reader in crop_sources(tmp_path):
        low = replace(settings, pipeline=Pipeline(crop_top=0.5), width=10, height=10)
        source: Source = reader.load(low, 1)
        assert source.train.frames.shape == (1, 1, 10, 10, 3)
        assert (source.train.frames == 0).all()  # all of the white half is gone
        own = replace(low, width=0, height=0)
        shape = (1, 1, 32, 32, 3) if reader is gtsrb else (1, 1, 20, 20, 3)
        assert reader.load(own, 1).train.frames.shape == shape


def test_drawn_frames_are_cropped_as_they_are(tmp_path: Path) -> None:
    whole = DataSettings(drives=2, frames=2, cache=tmp_path)
    cut = replace(whole, pipeline=Pipeline(crop_top=0.25, crop_left=0.5))
    pool, less = load_source(whole, 1).train, load_source(cut, 1).train
    assert (less.schema.height, less.schema.width) == (36, 32)
    assert (less.frames == pool.frames[:, :, 12:, 32:]).all()
    assert isinstance(less, Pool)
    assert less.schema.pipeline.crop_top == 0.25
