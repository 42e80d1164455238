"""The checkpoint is the old one or the new one, never a mixture; damage is found and said."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import struct
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carpool.privacy.errors import RunError
from carpool.server import checkpoint as module
from carpool.server.checkpoint import NAME, Checkpoint, read, save

FIRST = Checkpoint(
    run="ab" * 16,
    round=3,
    version=2,
    clock=1234.5678901234567,
    history=(1.5, 0.1, 1e-300),
    record={"round": 3, "loss": 0.1, "left": {"before upload": 2}, "accuracy": None},
    vectors={"params": np.array([1.0, -2.5, 1e-45], np.float32), "velocity": np.zeros(3, np.float32)},
    scalars={"updates": 2, "rate": 0.1},
)


def same(a: Checkpoint, b: Checkpoint) -> bool:
    plain = [dataclasses.replace(c, vectors={}) for c in (a, b)]
    bits = [{n: (v.dtype.str, v.shape, v.tobytes()) for n, v in c.vectors.items()} for c in (a, b)]
    return plain[0] == plain[1] and bits[0] == bits[1]


def test_everything_comes_back_bit_for_bit(tmp_path):
    save(tmp_path, FIRST)
    again = read(tmp_path)
    assert same(again, FIRST)
    assert {n: type(v) for n, v in again.scalars.items()} == {"updates": int, "rate": float}
    assert isinstance(again.history, tuple)


@pytest.mark.slow
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    numbers=st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=8),
    clock=st.floats(0, 1e12),
    scalars=st.dictionaries(st.text(max_size=8), st.integers() | st.floats(allow_nan=False), max_size=3),
)
def test_any_state_comes_back(tmp_path, numbers, clock, scalars):
    wanted = dataclasses.replace(
        FIRST, clock=clock, scalars=scalars, vectors={"params": np.array(numbers, np.float32)}
    )
    save(tmp_path, wanted)
    assert same(read(tmp_path), wanted)


def test_round_zero_has_no_record(tmp_path):
    before = dataclasses.replace(FIRST, round=0, version=0, record=None, history=())
    save(tmp_path, before)
    assert same(read(tmp_path), before)


def test_a_strided_vector_is_saved_by_its_numbers(tmp_path):
    vector = np.arange(10, dtype=np.float32)[::2]
    save(tmp_path, dataclasses.replace(FIRST, vectors={"params": vector}))
    assert read(tmp_path).vectors["params"].tolist() == [0, 2, 4, 6, 8]


def test_a_state_without_vectors_comes_back(tmp_path):
    save(tmp_path, dataclasses.replace(FIRST, vectors={}))
    assert read(tmp_path).vectors == {}


def test_there_may_be_none(tmp_path):
    assert read(tmp_path) is None
    assert read(tmp_path / "missing") is None


def test_the_folder_is_made_and_holds_one_file(tmp_path):
    save(tmp_path / "a" / "checkpoint", FIRST)
    save(tmp_path / "a" / "checkpoint", FIRST)
    assert [p.name for p in (tmp_path / "a" / "checkpoint").iterdir()] == [NAME]


def test_the_same_state_gives_the_same_bytes(tmp_path):
    found = set()
    for _ in range(8):
        save(tmp_path, FIRST)
        found.add((tmp_path / NAME).read_bytes())
    assert len(found) == 1


# -- a kill, a full disk -----------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["save_file", "fsync", "replace"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError(errno.ENOSPC, "No space left")])
def test_an_end_at_any_write_leaves_the_old_checkpoint(tmp_path, monkeypatch, place, error):
    save(tmp_path, FIRST)

    def end(*args, **kwargs):
        if place == "save_file":  # half of the file is there already
            args[1].write_bytes(b"half")
        raise error

    owner = {"save_file": module, "fsync": os, "replace": type(tmp_path)}[place]
    with monkeypatch.context() as patch:
        patch.setattr(owner, place, end)
        with pytest.raises(RunError if isinstance(error, OSError) else error):
            save(tmp_path, dataclasses.replace(FIRST, round=4))
    assert same(read(tmp_path), FIRST)
    assert [p.name for p in tmp_path.iterdir()] == [NAME]


@pytest.mark.slow
def test_a_kill_between_writing_and_renaming_leaves_the_old_checkpoint(tmp_path):
    save(tmp_path, FIRST)
    script = textwrap.dedent(
        """
        import os, signal, sys, dataclasses
        from pathlib import Path
        from carpool.server.checkpoint import read, save
        Path.replace = lambda self, target: os.kill(os.getpid(), signal.SIGKILL)
        folder = Path(sys.argv[1])
        save(folder, dataclasses.replace(read(folder), round=4))
        """
    )
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert same(read(tmp_path), FIRST)
    save(tmp_path, dataclasses.replace(FIRST, round=4))
    assert read(tmp_path).round == 4


def test_a_refusal_by_safetensors_is_a_refusal(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise module.SafetensorError("Error while serializing: I/O error")

    monkeypatch.setattr(module, "save_file", refuse)
    with pytest.raises(RunError, match=r"cannot write .*i/o error"):
        save(tmp_path, FIRST)
    assert list(tmp_path.iterdir()) == []


# -- damage ------------------------------------------------------------------------------------------


STEPS = [61, pytest.param(1, marks=pytest.mark.slow)]


@pytest.mark.parametrize("step", STEPS)
def test_a_file_cut_off_anywhere_is_refused(tmp_path, step):
    save(tmp_path, FIRST)
    whole = (tmp_path / NAME).read_bytes()
    for length in range(0, len(whole), step):
        (tmp_path / NAME).write_bytes(whole[:length])
        with pytest.raises(RunError, match="is damaged"):
            read(tmp_path)


@pytest.mark.parametrize("step", STEPS)
def test_every_changed_byte_is_found(tmp_path, step):
    """A flipped bit must not become another model: not in the facts, not in the vectors, not in a name."""
    save(tmp_path, FIRST)
    whole = (tmp_path / NAME).read_bytes()
    for place in range(0, len(whole), step):
        damaged = bytearray(whole)
        damaged[place] ^= 0x01 if place % 2 else 0x20
        (tmp_path / NAME).write_bytes(damaged)
        with pytest.raises(RunError, match="start the run again in a new folder"):
            read(tmp_path)


def raw(metadata: object, dtype: str = "F32", body: bytes = bytes(8)) -> bytes:
    header = {"t": {"dtype": dtype, "shape": [2], "data_offsets": [0, len(body)]}}
    if metadata is not None:
        header["__metadata__"] = {"carpool": metadata}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        b"\xff" * 100,
        bytes(100),
        raw(None),
        raw(""),
        raw("{}"),
        raw("[" * 200),
        raw("{}", "BF16", bytes(4)),
        raw("{}", "F8_E4M3", bytes(2)),
    ],
)
def test_a_foreign_file_is_refused(tmp_path, content):
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(RunError, match=f"{NAME} is damaged"):
        read(tmp_path)


def test_a_newer_format_is_refused_by_its_number(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FORMAT", 2)
    save(tmp_path, FIRST)
    monkeypatch.setattr(module, "FORMAT", 1)
    with pytest.raises(RunError, match="has format 2; this version reads format 1"):
        read(tmp_path)
