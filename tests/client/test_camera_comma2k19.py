"""Segments of comma2k19: a few seconds of video encoded here, with logs that say what is in each frame."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from carpool.client.camera import comma2k19
from carpool.client.camera.settings import DataSettings, Source
from carpool.privacy.errors import DataError, UsageError

FRAMES = 12
START = 1000.0  # s, of the device's clock


def put(file: Path, values: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as stream:  # no suffix, as in the data set
        np.save(stream, np.asarray(values, np.float64))


def logs(folder: Path, first: float = START - 1, last: float = START + 2) -> None:
    times = np.arange(first, last, 0.01)
    put(folder / "global_pose" / "frame_times", START + np.arange(FRAMES) / 20)
    put(folder / "processed_log" / "CAN" / "steering_angle" / "t", times)
    put(folder / "processed_log" / "CAN" / "steering_angle" / "value", 100 * (times - START))
    put(folder / "processed_log" / "CAN" / "speed" / "t", times)
    put(folder / "processed_log" / "CAN" / "speed" / "value", 20 + (times[:, None] - START))


def video(file: Path, frames: int = FRAMES, codec: str = "mpeg4", container: str = "mp4") -> None:
    av = pytest.importorskip("av", reason="PyAV is not installed (carpool[video])")
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w", format=container) as out:
        stream = out.add_stream(codec, rate=20)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(frames):
            picture = np.full((48, 64, 3), min(20 + 15 * index, 255), np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))


def segment(root: Path, route: str = "b0c9|2018-07-27", number: int = 3, name: str = "video.mp4") -> Path:
    folder = root / route / str(number)
    logs(folder)
    if name.endswith(".hevc"):
        av = pytest.importorskip("av", reason="PyAV is not installed (carpool[video])")
        if "libx265" not in av.codecs_available:
            pytest.skip("this PyAV cannot encode HEVC")
        video(folder / name, codec="libx265", container="hevc")
    else:
        video(folder / name)
    return folder


def load(root: Path, **more: int) -> Source:
    return comma2k19.load(DataSettings(source="comma2k19", path=root, **more), 2)  # type: ignore[arg-type]


def test_each_frame_gets_what_the_log_says_at_its_time(tmp_path: Path) -> None:
    segment(tmp_path)
    pool = load(tmp_path).train
    assert pool.frames.shape == (FRAMES, 1, 48, 64, 3)
    assert np.allclose(pool.targets["steering"], 5 * np.arange(FRAMES), atol=1e-3)
    assert np.allclose(pool.targets["speed"], 20 + np.arange(FRAMES) / 20, atol=1e-3)
    assert np.allclose(pool.frames.mean((1, 2, 3, 4)), 20 + 15 * np.arange(FRAMES), atol=4)
    assert pool.vehicle is None
    assert [target.unit for target in pool.schema.targets] == ["degrees at the wheel", "m/s"]


@pytest.mark.slow
def test_raw_hevc_is_read(tmp_path: Path) -> None:
    segment(tmp_path, name="video.hevc")
    pool = load(tmp_path, width=16, height=12).train
    assert pool.frames.shape == (FRAMES, 1, 12, 16, 3)
    assert np.allclose(pool.frames.mean((1, 2, 3, 4)), 20 + 15 * np.arange(FRAMES), atol=6)


def test_a_route_is_a_group_and_its_segments_follow_each_other(tmp_path: Path) -> None:
    for route, number in (("a|1", 10), ("a|1", 9), ("a|2", 0)):
        segment(tmp_path / "Chunk_1", route, number)
    pool = load(tmp_path, width=8, height=8).train
    assert pool.group.tolist() == [0] * 2 * FRAMES + [1] * FRAMES
    assert (np.diff(pool.order[: 2 * FRAMES]) > 0).all()


def test_frames_without_log_are_left_out(tmp_path: Path) -> None:
    folder = segment(tmp_path)
    logs(folder, first=START + 0.2)  # frames 0 to 3 are before it
    pool = load(tmp_path).train
    assert len(pool) == FRAMES - 4
    assert np.allclose(pool.targets["steering"], 5 * np.arange(4, FRAMES), atol=1e-3)
    logs(folder)
    can = folder / "processed_log" / "CAN" / "steering_angle"
    times = np.array([START - 1, START + 0.01, START + 0.1, START + 3])
    put(can / "t", times)
    put(can / "value", times)
    logs_kept = load(tmp_path).train
    # 0.2 s is as far as a sample may be; the frames at 0.05 and 0.1 have one on both sides.
    assert np.allclose(logs_kept.targets["steering"] - START, [0.05, 0.1], atol=1e-3)


def test_a_video_without_its_frames_is_refused(tmp_path: Path) -> None:
    folder = segment(tmp_path)
    video(folder / "video.mp4", frames=4)
    with pytest.raises(DataError, match="has pictures for 4 of the 12 frames"):
        load(tmp_path)


def test_frames_beyond_the_log_are_not_used(tmp_path: Path) -> None:
    folder = segment(tmp_path)
    video(folder / "video.mp4", frames=FRAMES + 6)
    assert len(load(tmp_path).train) == FRAMES


def test_without_pyav_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs(tmp_path / "r" / "0")
    (tmp_path / "r" / "0" / "video.mp4").touch()
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name == "av":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UsageError, match=r"pip install 'carpool\[video\]'"):
        load(tmp_path)


CAN = "processed_log/CAN"


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        (f"{CAN}/steering_angle/value", [1.0, np.nan], "value is nan in entry 1"),
        (f"{CAN}/steering_angle/value", [1.0, 2.0], "t has 300 entries and value 2"),
        (f"{CAN}/speed/value", np.zeros((300, 2)), "has the shape .300, 2.; it must be one column"),
        (f"{CAN}/speed/t", np.arange(300.0)[::-1], "t does not rise"),
        ("global_pose/frame_times", [], "frame_times is empty or does not rise"),
        ("global_pose/frame_times", [2.0, 1.0], "frame_times is empty or does not rise"),
    ],
)
def test_logs_that_cannot_be_right(tmp_path: Path, file: str, values: Any, words: str) -> None:
    logs(tmp_path / "0")
    (tmp_path / "0" / "video.mp4").write_bytes(b"not looked at")
    put(tmp_path / "0" / file, values)
    with pytest.raises(DataError, match=words):
        load(tmp_path)


def test_logs_that_are_not_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "0"
    logs(folder)
    (folder / "video.mp4").write_bytes(b"not looked at")
    value = folder / CAN / "speed" / "value"
    whole = value.read_bytes()
    claims = whole.replace(b"(300, 1)", b"(9" + b"9" * 4 + b",1)")  # more than the file has
    for content in (b"", b"\x80\x04K\x01.", whole[:90], claims):
        value.write_bytes(content)
        with pytest.raises(DataError, match="value is not a readable array"):
            load(tmp_path)
    np.save(value.with_suffix(".npy"), np.array(["a"]))
    value.unlink()
    with pytest.raises(DataError, match=r"value.npy is not a readable array \(it holds no numbers"):
        load(tmp_path)
    value.with_suffix(".npy").unlink()
    with pytest.raises(DataError, match="speed has no value"):
        load(tmp_path)
    value.write_bytes(whole)
    monkeypatch.setattr(comma2k19, "MAX_ARRAY", 100)
    with pytest.raises(DataError, match="no log of a minute"):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\0" * 4000, b"RIFF....AVI "])
def test_what_is_no_video(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("av", reason="PyAV is not installed (carpool[video])")
    logs(tmp_path / "0")
    (tmp_path / "0" / "video.mp4").write_bytes(content)
    with pytest.raises(DataError, match=r"video.mp4 (is not a readable video|has pictures for 0)"):
        load(tmp_path)


def test_a_folder_without_segments(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no video.hevc or video.mp4 in it"):
        load(tmp_path)
