"""The .npz reader: both storage forms, schemas, drives cut out of logs, and files that lie."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from carpool.client.camera import archive, npz
from carpool.client.camera.fleetdata import build_fleet
from carpool.client.camera.settings import DataSettings, Source
from carpool.privacy.errors import DataError

SHARED = Path(os.environ.get("CARPOOL_SHARED_DATA") or Path(__file__).parents[2] / "../shared/data")


def write(tmp_path: Path, **columns: Any) -> Path:
    file = tmp_path / "data.npz"
    np.savez(file, **columns)
    return file


def read(file: Path, **more: Any) -> Source:
    return npz.load(DataSettings(source="npz", path=file, **more), 1)


def packed(pictures: list[NDArray[np.uint8]]) -> dict[str, NDArray[Any]]:
    parts = []
    for picture in pictures:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG")  # lossless, so that pixels can be compared
        parts.append(np.frombuffer(buffer.getvalue(), np.uint8))
    return {"jpeg": np.concatenate(parts), "offsets": np.r_[0, np.cumsum([len(part) for part in parts])]}


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.Generator(np.random.Philox(5)).integers(0, 256, shape, np.uint8)


LABELS = np.array([0, 42, 7, 7], np.uint8)


def test_raw_frames_of_one_view(tmp_path: Path) -> None:
    frames = noise(4, 6, 8, 3)
    pool = read(write(tmp_path, frames=frames, label=LABELS, track=np.array([3, 3, 1, 1], np.uint16))).train
    np.testing.assert_array_equal(pool.frames[:, 0], frames)
    assert pool.frames.flags.c_contiguous
    assert pool.schema.views == ("front",)
    assert (pool.schema.height, pool.schema.width) == (6, 8)
    assert pool.targets["sign"].tolist() == [0, 42, 7, 7]
    assert pool.group.tolist() == [3, 3, 1, 1]
    assert pool.order.tolist() == [0, 1, 2, 3]
    assert pool.vehicle is None


def test_packed_strips_with_a_test_set(tmp_path: Path) -> None:
    frames = noise(5, 6, 8, 3)
    strips = [np.hstack(list(frames[:3])), np.hstack(list(frames[3:]))]
    columns = {
        f"{split}_{name}": value for split in ("train", "test") for name, value in packed(strips).items()
    }
    columns |= {f"{split}_count": np.array([3, 2], np.uint8) for split in ("train", "test")}
    columns |= {f"{split}_label": np.array([1, 1, 1, 2, 2], np.uint8) for split in ("train", "test")}
    columns |= {"train_track": np.array([0, 0, 0, 1, 1]), "train_frame": np.array([0, 1, 2, 0, 1])}
    source = read(write(tmp_path, **columns))
    assert source.test is not None
    np.testing.assert_array_equal(source.train.frames[:, 0], frames)
    np.testing.assert_array_equal(source.test.frames[:, 0], frames)
    assert source.train.order.tolist() == [0, 1, 2, 0, 1]
    assert source.test.group.tolist() == [0, 1, 2, 3, 4]


def test_frames_are_views_side_by_side_inside_a_strip(tmp_path: Path) -> None:
    frames = noise(4, 2, 6, 8, 3)
    strips = [np.hstack([panel for frame in frames[i : i + 2] for panel in frame]) for i in (0, 2)]
    schema = {"views": ["left", "right"], "targets": [{"name": "brake", "kind": "value"}]}
    file = write(
        tmp_path, **packed(strips), count=[2, 2], brake=[0.0, 1, 0, 1], schema=np.array(json.dumps(schema))
    )
    pool = read(file).train
    np.testing.assert_array_equal(pool.frames, frames)
    assert pool.targets["brake"].dtype == np.float32


def test_a_driving_log_has_three_views_and_drives(tmp_path: Path) -> None:
    frames = noise(4, 6, 36, 3)
    columns = packed(list(frames))
    columns["jpeg_offsets"] = columns.pop("offsets")
    file = write(
        tmp_path,
        **columns,
        vehicle=np.array([1, 1, 0, 0], np.uint8),
        time_ms=[0, 100, 0, 9_000],
        steering=np.array([0, 0.5, -1, 1], np.float32),
        speed_mph=[1, 2, 3, 4],
    )
    pool = read(file).train
    assert pool.schema.views == ("front_left", "front", "front_right")
    np.testing.assert_array_equal(pool.frames[2, 1], frames[2, :, 12:24])
    assert [target.name for target in pool.schema.targets] == ["steering", "speed_mph"]
    assert pool.vehicle is not None
    assert pool.vehicle.tolist() == [1, 1, 0, 0]
    assert pool.group[0] == pool.group[1]
    assert len(set(pool.group.tolist())) == 3


def test_a_schema_of_its_own(tmp_path: Path) -> None:
    schema = {
        "views": ["front", "rear"],
        "targets": [
            {"name": "weather", "kind": "class", "classes": ["dry", "wet"], "column": "label"},
            {"name": "obstacle", "kind": "flags", "width": 2},
            {"name": "curvature", "kind": "value", "unit": "1/m", "scale": 0.01},
        ],
        "domain": {"4": "city, rain"},
    }
    file = write(
        tmp_path,
        frames=noise(3, 2, 4, 4, 3),
        label=[0, 1, 1],
        obstacle=[[True, False], [True, True], [False, False]],
        curvature=[0.0, 0.1, -0.1],
        vehicle=[4, 4, 5],
        drive=[0, 0, 0],
        schema=np.array(json.dumps(schema)),
    )
    pool = read(file).train
    assert [target.outputs for target in pool.schema.targets] == [2, 2, 1]
    assert pool.schema.target("curvature").scale == 0.01
    assert pool.targets["obstacle"].tolist() == [[1, 0], [1, 1], [0, 0]]
    assert pool.group.tolist() == [0, 0, 1], "drive 0 of one vehicle is not drive 0 of another"
    assert pool.domain[4] == "city, rain"


@pytest.mark.parametrize("form", ["raw", "packed"])
def test_resized_to_the_settings(tmp_path: Path, form: str) -> None:
    frames = np.full((2, 8, 8, 3), 90, np.uint8)
    columns = {"frames": frames} if form == "raw" else packed(list(frames))
    pool = read(write(tmp_path, **columns, label=[1, 2]), width=4, height=6).train
    assert pool.frames.shape == (2, 1, 6, 4, 3)
    assert (pool.frames == 90).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 100_000)), min_size=1, max_size=80, unique=True))
def test_cut_drives_keeps_neighbours_together(rows: list[tuple[int, int]]) -> None:
    vehicle, time = np.array(rows, np.int64).T
    group, keep = npz.cut_drives(vehicle, time)
    kept = set(keep.tolist())
    for one in set(group.tolist()):
        assert len(set(vehicle[group == one].tolist())) == 1
        assert np.ptp(time[group == one]) <= 1.5 * npz.DRIVE_MS
    for index, (car, when) in enumerate(rows):
        for other, (other_car, other_when) in enumerate(rows):
            close = car == other_car and abs(when - other_when) < npz.GUARD_MS
            assert not (close and index in kept and other in kept) or group[index] == group[other]


def test_a_log_without_pauses_is_cut_with_a_second_between() -> None:
    time = np.r_[np.arange(0, 60_000, 100), 70_000]
    group, keep = npz.cut_drives(np.zeros(601, np.int64), time)
    assert len(np.unique(group)) == 4
    assert len(keep) == 601 - 20  # a second before each of the two cuts, nothing before the pause
    jumps = np.diff(time[keep])[np.diff(group[keep]) != 0]
    assert jumps.tolist() == [1_100, 1_100, 10_100]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label": [0, 1, 43]}, r"column 'sign' is 43 in row 2; it must be 0\.\.42"),
        ({"label": [0, -1, 1]}, "column 'sign' is -1 in row 1"),
        ({"label": np.array([0, 1, 2**63], np.uint64)}, "goes up to 9223372036854775808"),
        ({"label": [0.0, 1.0, 2.0]}, "'label' is float64; it must be whole numbers"),
        ({"label": [0, 1]}, r"'label' has shape \(2,\); it must be \(3,\)"),
        ({"label": None}, "has no target: none of label, steering"),
        ({"frames": None}, "neither frames nor jpeg is there"),
        ({"frames": np.zeros((3, 4, 4, 3))}, r"'frames' is float64 .*it must be uint8"),
        ({"frames": np.zeros((3, 4, 4), np.uint8)}, "it must be uint8"),
        ({"frames": np.zeros((3, 0, 4, 3), np.uint8)}, "it must be uint8"),
        ({"frames": np.zeros((0, 4, 4, 3), np.uint8), "label": np.zeros(0, int)}, "no samples"),
        ({"frames": np.zeros((3, 2, 4, 4, 3), np.uint8)}, "2 views without names"),
        ({"steering": [0, np.nan, 0]}, "'steering' is nan in row 1"),
        ({"steering": [0, 1e300, 0]}, "'steering' is inf in row 1"),
        ({"steering": ["a", "b", "c"]}, "'steering' is <U1; it must be numbers"),
        ({"vehicle": [0, 1, 1]}, "vehicle needs group or time_ms"),
        ({"track": [[0, 1, 2]]}, "'track' has shape"),
        ({"schema": np.array("{")}, "schema does not fit docs/data.md"),
        ({"schema": np.array("[]")}, "schema does not fit"),
        ({"schema": np.array(3)}, "it must be one JSON text"),
        ({"schema": np.array("[" * 5000)}, "schema does not fit"),
        ({"schema": np.array('{"targets": []}')}, "at least one target"),
        ({"schema": np.array('{"targets": [{"name": "x", "kind": "value"}]}')}, "has no column 'x'"),
        ({"schema": np.array('{"targets": [{"name": "x", "kind": "word"}]}')}, "kind 'word'"),
        ({"schema": np.array('{"targets": [{"name": "x", "kind": "value", "scale": 0}]}')}, "scale 0"),
        ({"schema": np.array('{"targets": [{"name": "x", "kind": "value", "sclae": 1}]}')}, "'sclae'"),
        ({"schema": np.array('{"views": ["up"], "targets": [{"name": "x", "kind": "value"}]}')}, "views"),
        ({"schema": np.array('{"views": [[]], "targets": [{"name": "x", "kind": "value"}]}')}, "views"),
    ],
)
def test_wrong_columns_are_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    columns = {"frames": noise(3, 4, 4, 3), "label": [0, 1, 2]} | change
    file = write(tmp_path, **{name: value for name, value in columns.items() if value is not None})
    with pytest.raises(DataError, match=words) as caught:
        read(file)
    assert "data.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"offsets": None}, "offsets is missing"),
        ({"offsets": [0, 10, 5]}, "'offsets' must rise"),
        ({"offsets": [0, 10, 10**9]}, "'offsets' must rise"),
        ({"offsets": [-1, 10, 20]}, "'offsets' must rise"),
        ({"offsets": np.zeros(0, int)}, "'offsets' must rise"),
        ({"offsets": [0]}, "holds no pictures"),
        ({"offsets": [0, 10, 20]}, "picture 0 of jpeg is not a readable picture"),
        ({"count": [1]}, r"'count' has shape \(1,\)"),
        ({"count": [1, 0]}, "'count' is 0 in row 1"),
        ({"count": [3, 3]}, "picture 0 of jpeg is 8x6; 3 frames of 1 views at 2x6 make 6x6"),
        ({"jpeg": np.zeros(4)}, "'jpeg' is float64"),
    ],
)
def test_wrong_packing_is_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    columns: dict[str, Any] = {**packed(list(noise(2, 6, 8, 3))), "label": [0, 1]} | change
    file = write(tmp_path, **{name: value for name, value in columns.items() if value is not None})
    with pytest.raises(DataError, match=words):
        read(file)


def test_pictures_of_different_sizes_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path, **packed([noise(6, 8, 3), noise(6, 9, 3)]), label=[0, 1])
    with pytest.raises(DataError, match="picture 1 of jpeg is 9x6"):
        read(file)


def test_what_is_not_an_npz(tmp_path: Path) -> None:
    file = tmp_path / "data.npz"
    with pytest.raises(DataError, match="is not a file"):
        read(file)
    with pytest.raises(DataError, match=r"data\.path is empty"):
        npz.load(DataSettings(source="npz"), 1)
    for content in (b"", b"PK\x03\x04", b"\x80\x04K\x01."):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"is not a readable \.npz"):
            read(file)
    np.savez(file, frames=noise(3, 4, 4, 3), label=[0, 1, 2])
    whole = bytearray(file.read_bytes())
    whole[200] ^= 255  # a pixel: the checksum of the zip tells
    file.write_bytes(whole)
    with pytest.raises(DataError, match=r"is not a readable \.npz"):
        read(file)


def test_objects_are_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "data.npz"
    np.savez(file, frames=np.array([{}], object), allow_pickle=True)
    with pytest.raises(DataError, match="'frames' is object"):
        read(file)


def claim(file: Path, shape: str, body: bytes = b"") -> Path:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("frames.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body)
    return file


def test_a_header_that_lies_allocates_nothing(tmp_path: Path) -> None:
    file = tmp_path / "data.npz"
    with pytest.raises(DataError, match=r"'frames' wants .*GiB"):
        read(claim(file, "(1000000, 1000, 1000, 3)"))
    with pytest.raises(DataError, match="does not have the bytes it claims"):
        read(claim(file, "(100, 4, 4, 3)", b"abc"))
    with pytest.raises(DataError, match=r"is not a readable \.npz|does not have the bytes"):
        read(claim(file, "(-1, -3)", b"abc"))
    with pytest.raises(DataError, match=r"is not a readable \.npz"):
        read(claim(file, "((", b"abc"))


def test_the_limit_is_in_bytes(tmp_path: Path) -> None:
    file = write(tmp_path, label=np.zeros(100, np.int64))
    assert "label" in archive.Archive(file, limit=800)
    with pytest.raises(DataError, match="limit"):
        archive.Archive(file, limit=799)


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "gtsrb32.npz").is_file(), reason="the shared data folder is absent")
def test_the_packed_gtsrb() -> None:
    source = read(SHARED / "gtsrb32.npz")
    assert source.test is not None
    assert source.train.frames.shape == (39_209, 1, 32, 32, 3)
    assert source.test.frames.shape == (12_630, 1, 32, 32, 3)
    assert len(np.unique(source.train.group)) == 1_307
    assert np.bincount(source.train.targets["sign"]).tolist()[:3] == [210, 2220, 2250]


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "udacity_drive.npz").is_file(), reason="the shared data folder is absent")
def test_the_packed_driving_logs() -> None:
    pool = read(SHARED / "udacity_drive.npz").train
    assert pool.frames.shape[1:] == (3, 48, 96, 3)
    assert 10_000 < len(pool) < 10_924
    assert pool.vehicle is not None
    assert len(np.unique(pool.vehicle)) == 8
    drives = [len(np.unique(pool.group[pool.vehicle == car])) for car in range(8)]
    assert min(drives) >= 3


def test_the_example_in_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs/data.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    fleet = build_fleet(DataSettings(source="npz", path=tmp_path / "my_fleet.npz"), 6)
    assert [len(fleet.training(vehicle)) for vehicle in range(6)] == [30] * 6
    assert [len(fleet.own_validation(vehicle)) for vehicle in range(6)] == [10] * 6
    assert fleet.schema.views == ("front", "rear")
    assert fleet.domain(3) == "town 3"
