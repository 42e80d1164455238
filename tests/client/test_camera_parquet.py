"""Hugging Face folders: Parquet and Arrow files written here, with and without the library's metadata."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from carpool.client.camera import film, parquet
from carpool.client.camera.settings import DataSettings, Source
from carpool.privacy.errors import DataError, UsageError

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed (carpool[parquet])")
pq = pytest.importorskip("pyarrow.parquet")

NAMES = ["dry", "rain", "snow"]


def png(colour: int, size: tuple[int, int] = (6, 4)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (colour, 0, 0)).save(file, format="PNG")
    return file.getvalue()


def pictures(colours: list[int]) -> Any:
    cells = [{"bytes": png(colour), "path": f"{colour}.png"} for colour in colours]
    return pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


def table(colours: list[int], names: list[str] | None = NAMES, **more: Any) -> Any:
    columns = {"image": pictures(colours), "label": pa.array([c % 3 for c in colours], pa.int64()), **more}
    made = pa.table({name: column for name, column in columns.items() if column is not None})
    if names is None:
        return made
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        pq.write_table(content, file)
        return
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, content.schema) as writer:
        writer.write_table(content, max_chunksize=3)


def load(root: Path, **more: Any) -> Source:
    return parquet.load(DataSettings(source="parquet", path=root, **more), 2)


def reds(frames: np.ndarray[Any, Any]) -> list[int]:
    found: list[int] = frames[:, 0, 0, 0, 0].tolist()
    return found


@pytest.mark.parametrize(
    ("training", "testing"),
    [
        (
            ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
            "data/test-00000-of-00001.parquet",
        ),
        (["train/data-00000-of-00002.arrow", "train/data-00001-of-00002.arrow"], "validation/data-0.arrow"),
        (["plain/train/0000.parquet", "plain/train/0001.parquet"], None),
        (["0.parquet", "1.parquet"], None),
    ],
)
def test_the_layouts(tmp_path: Path, training: list[str], testing: str | None) -> None:
    write(tmp_path / training[0], table([0, 1, 2, 3, 4]))
    write(tmp_path / training[1], table([5, 6]))
    if testing is not None:
        write(tmp_path / testing, table([101]))
    source = load(tmp_path)
    assert reds(source.train.frames) == list(range(7))
    assert source.train.targets["label"].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert source.train.schema.targets[0].classes == tuple(NAMES)
    if testing is None:
        assert source.test is None
    else:
        assert source.test is not None
        assert reds(source.test.frames) == [101]
        assert source.test.schema == source.train.schema


def test_bytes_without_metadata_and_views_and_keys(tmp_path: Path) -> None:
    n = 150  # more than one batch
    content = pa.table(
        {
            "rear": pa.array([png(1)] * n, pa.large_binary()),
            "front": pa.array([png(i) for i in range(n)], pa.binary()),
            "steering": pa.array([i / n for i in range(n)], pa.float32()),
            "label": pa.array([i % 5 for i in range(n)], pa.int8()),
            "drive": pa.array([i // 10 % 3 for i in range(n)], pa.int32()),
            "frame": pa.array(list(range(n)), pa.int64()),
            "vehicle": pa.array([i // 30 for i in range(n)], pa.int16()),
            "note": ["x"] * n,
        }
    )
    write(tmp_path / "a.parquet", content)
    pool = load(tmp_path).train
    assert pool.schema.views == ("front", "rear")
    assert reds(pool.frames) == list(range(n))
    assert (pool.frames[:, 1, 0, 0, 0] == 1).all()
    assert [target.name for target in pool.schema.targets] == ["label", "steering"]
    assert pool.schema.targets[0].classes == ("0", "1", "2", "3", "4")
    assert np.allclose(pool.targets["steering"], np.arange(n) / n)
    assert pool.vehicle is not None
    assert len(set(pool.group.tolist())) == 15
    assert pool.order.tolist() == list(range(n))


def empty_label() -> Any:
    return table([1, 2, 3], names=None, label=pa.array([1, None, 0], pa.int64()))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda: table([1], image=None), "has no column of pictures"),
        (lambda: table([1, 2], names=None, label=None), "has no ClassLabel"),
        (lambda: table([1, 2], names=None, label=pa.array([0.5, 1.0])), "has no ClassLabel"),
        (lambda: table([1], image=pa.array([b"x"])), "row 0 is not a readable picture"),
        (lambda: table([1], image=pa.array([None], pa.binary())), "row 0 has no bytes in 'image'"),
        (
            lambda: table(
                [1], image=pa.array([{"bytes": None, "path": "/etc/passwd"}]).cast(pictures([1]).type)
            ),
            "row 0 has no bytes in 'image'; save the data set with its pictures embedded",
        ),
        (lambda: table([1], label=pa.array([3])), "column 'label' is 3 in row 0; it must be 0..2"),
        (lambda: table([1], label=pa.array([-1])), "column 'label' is -1 in row 0; it must be 0..2"),
        (empty_label, "column 'label' is empty in row 1"),
        (lambda: table([1], names=None, label=pa.array([0])), "the largest label is 0"),
        (lambda: table([1], names=None, label=pa.array([10**9])), "the largest label is 1000000000"),
        (lambda: table([1], steering=pa.array([float("nan")])), "column 'steering' is nan in row 0"),
        (lambda: table([1], steering=pa.array([1e300])), "column 'steering' is inf in row 0"),
        (lambda: table([1], vehicle=pa.array([0])), "has a column vehicle and none of group"),
        (lambda: table([1, 2], drive=pa.array([2**63, 1], pa.uint64())), "a number beyond 64 bits"),
        (lambda: table([]), "holds no picture"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, content: Any, words: str) -> None:
    for suffix in ("parquet", "arrow"):
        for file in tmp_path.iterdir():
            file.unlink()
        write(tmp_path / f"a.{suffix}", content())
        with pytest.raises(DataError, match=words):
            load(tmp_path)


def test_sizes_agree_or_are_set(tmp_path: Path) -> None:
    cells = pa.array([png(1), png(2, (8, 8))])
    write(tmp_path / "a.parquet", table([1, 2], image=cells))
    with pytest.raises(DataError, match="row 1 is 8x8, and the first picture is 6x4; set data.width"):
        load(tmp_path)
    assert load(tmp_path, width=5, height=5).train.frames.shape == (2, 1, 5, 5, 3)


def test_files_that_do_not_agree(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", table([1, 2]))
    write(tmp_path / "test-0.parquet", table([1, 2], names=["a", "b", "c"]))
    with pytest.raises(DataError, match=r"test-0.parquet has other columns or classes than train-0.parquet"):
        load(tmp_path)
    (tmp_path / "train-0.parquet").unlink()
    with pytest.raises(DataError, match=r"has only test-0.parquet; it needs files of the split train"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_damaged_files_and_huge_pictures(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / name, table(list(range(50))))
    whole = (tmp_path / name).read_bytes()
    for damaged in (
        b"",
        b"PAR1 and no more",
        whole[: len(whole) // 2],
        whole[:40] + b"\xff" * 4000,
    ):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(DataError):
            load(tmp_path)
    (tmp_path / name).write_bytes(whole)
    monkeypatch.setattr(parquet, "MAX_FILE", 10)
    with pytest.raises(DataError, match="has a picture above"):
        load(tmp_path)
    monkeypatch.setattr(film, "MAX_FILES", 0)
    with pytest.raises(DataError, match="has more than 0 files"):
        load(tmp_path)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no .parquet or .arrow file in it"):
        load(tmp_path)


def test_without_pyarrow_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    write(tmp_path / "a.parquet", table([1, 2]))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pip install 'carpool\[parquet\]'"):
        load(tmp_path)
