"""A run's folder after a kill at any moment, and who may write to it."""

from __future__ import annotations

import errno
import hashlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from carpool.experiments import runfolder
from carpool.experiments.runfolder import (
    CONFIG,
    LOCK,
    ROUNDS,
    commit_record,
    existing_folder,
    locked,
    new_folder,
    read_json,
    read_records,
    repair_records,
    run_identity,
    write_json,
)
from carpool.privacy.errors import RunError, UsageError
from carpool.server.checkpoint import Checkpoint


def record(round_: int) -> dict:
    return {"round": round_, "loss": 1 / round_, "left": {"before upload": 1}, "accuracy": None}


def checkpoint(round_: int) -> Checkpoint:
    line = record(round_) if round_ else None
    return Checkpoint("r", round_, round_, 0.0, (), line, {}, {})


def rounds(folder: Path, n: int) -> Path:
    for r in range(1, n + 1):
        commit_record(folder, record(r))
    return folder / ROUNDS


def rounds_text(n: int) -> bytes:
    return b"".join(json.dumps(record(r)).encode() + b"\n" for r in range(1, n + 1))


# -- the lines and the checkpoint --------------------------------------------------------------------


def test_lines_come_back_in_order(tmp_path):
    rounds(tmp_path, 3)
    assert read_records(tmp_path) == [record(1), record(2), record(3)]
    assert read_records(tmp_path / "missing") == []


def test_a_line_is_json_without_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        commit_record(tmp_path, {"round": 1, "loss": float("nan")})
    assert not (tmp_path / ROUNDS).exists()


@pytest.mark.parametrize("kept", range(1, len(json.dumps(record(3))) + 1, 7))
def test_a_torn_last_line_is_left_out(tmp_path, kept):
    path = rounds(tmp_path, 2)
    path.write_bytes(path.read_bytes() + json.dumps(record(3)).encode()[:kept])
    assert read_records(tmp_path) == [record(1), record(2)]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["{}"], "damaged in line 1"),
        (['{"round": 1}', "", '{"round": 3}'], "damaged in line 2"),
        (['{"round": 1}', "not json"], "damaged in line 2"),
        (['{"round": 1}', "[2]"], "damaged in line 2"),
        (['{"round": 1}', "null"], "damaged in line 2"),
        (['{"round": 1}', '{"round": 3}'], "has round 3 in line 2; it was changed by hand"),
        (['{"round": 2}'], "has round 2 in line 1"),
        (['{"round": 1}', '{"round": 1}'], "has round 1 in line 2"),
        (['{"round": "1"}'], "has round 1 in line 1"),
    ],
)
def test_damage_gaps_and_repetitions_are_refused_with_the_line(tmp_path, lines, said):
    (tmp_path / ROUNDS).write_text("".join(line + "\n" for line in lines))
    with pytest.raises(RunError, match=said):
        read_records(tmp_path)


def test_bytes_that_are_no_text_are_refused_with_the_line(tmp_path):
    path = rounds(tmp_path, 1)
    path.write_bytes(path.read_bytes() + b"\xff\xfe\n")
    with pytest.raises(RunError, match="damaged in line 2"):
        read_records(tmp_path)


def test_a_whole_folder_is_left_as_it_is(tmp_path):
    path = rounds(tmp_path, 3)
    before = path.stat().st_ino, path.read_bytes()
    assert repair_records(tmp_path, checkpoint(3)) == [record(1), record(2), record(3)]
    assert (path.stat().st_ino, path.read_bytes()) == before


def test_after_a_kill_between_checkpoint_and_line_the_line_is_completed_from_the_checkpoint(tmp_path):
    path = rounds(tmp_path, 2)
    assert repair_records(tmp_path, checkpoint(3)) == [record(1), record(2), record(3)]
    assert path.read_bytes() == rounds_text(3)


@pytest.mark.parametrize("torn", [b"{", b'{"round": 3, "lo', b"\xff\xc3", b"\x00" * 40])
def test_after_a_kill_in_the_middle_of_a_line_it_is_completed_from_the_checkpoint(tmp_path, torn):
    path = rounds(tmp_path, 2)
    path.write_bytes(path.read_bytes() + torn)
    repair_records(tmp_path, checkpoint(3))
    assert path.read_bytes() == rounds_text(3)
    commit_record(tmp_path, record(4))
    assert read_records(tmp_path)[-1] == record(4)


def test_a_torn_line_of_a_round_without_checkpoint_is_dropped(tmp_path):
    path = rounds(tmp_path, 2)
    path.write_bytes(path.read_bytes() + b'{"round": 3')
    assert repair_records(tmp_path, checkpoint(2)) == [record(1), record(2)]
    assert path.read_bytes() == rounds_text(2)


def test_a_whole_last_line_without_its_newline_is_completed(tmp_path):
    path = rounds(tmp_path, 3)
    path.write_bytes(path.read_bytes()[:-1])
    assert repair_records(tmp_path, checkpoint(3)) == [record(1), record(2), record(3)]
    assert path.read_bytes() == rounds_text(3)


def test_lines_beyond_the_checkpoint_are_done_again(tmp_path):
    path = rounds(tmp_path, 4)
    assert repair_records(tmp_path, checkpoint(2)) == [record(1), record(2)]
    assert path.read_bytes() == rounds_text(2)


def test_before_round_one_there_is_an_empty_file(tmp_path):
    assert repair_records(tmp_path, None) == []
    assert (tmp_path / ROUNDS).read_bytes() == b""
    assert repair_records(tmp_path, checkpoint(0)) == []


@pytest.mark.parametrize("there", [0, 1])
def test_more_than_one_missing_line_is_refused(tmp_path, there):
    rounds(tmp_path, there)
    with pytest.raises(RunError, match=f"has {there} rounds, the checkpoint 3; restore the file"):
        repair_records(tmp_path, checkpoint(3))
    assert len(read_records(tmp_path)) == there


# -- whose folder it is ------------------------------------------------------------------------------


def test_a_new_folder_has_the_name_and_a_short_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a, b = new_folder("quick", None), new_folder("quick", None)
    assert a != b
    assert a.parent == Path("runs")
    assert a.name.startswith("quick-")
    assert a.is_dir()


def test_out_is_taken_as_it_is_if_it_is_new_or_empty(tmp_path):
    assert new_folder("x", tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert new_folder("x", tmp_path / "a" / "b") == tmp_path / "a" / "b"


def test_nothing_is_ever_overwritten(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match=r"not empty; name another --out$"):
        new_folder("x", tmp_path)
    with pytest.raises(UsageError, match="is there already"):
        new_folder("x", tmp_path / "file")
    (tmp_path / CONFIG).write_text("")
    with pytest.raises(UsageError, match=f"carpool run --resume {tmp_path}"):
        new_folder("x", tmp_path)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_a_refusal(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot create"):
        new_folder("x", tmp_path / "file" / "run")


def test_a_folder_without_config_is_no_run(tmp_path):
    with pytest.raises(UsageError, match="is not a run's folder"):
        existing_folder(tmp_path)
    (tmp_path / CONFIG).write_text("")
    assert existing_folder(tmp_path) == tmp_path


def test_the_identity_is_that_of_the_configuration(tmp_path):
    (tmp_path / CONFIG).write_bytes(b"[experiment]\n")
    assert run_identity(tmp_path) == hashlib.sha256(b"[experiment]\n").hexdigest()[:32]
    before = run_identity(tmp_path)
    (tmp_path / CONFIG).write_bytes(b"[experiment] \n")
    assert run_identity(tmp_path) != before


# -- the lock ----------------------------------------------------------------------------------------


def test_the_lock_is_held_by_one_and_freed_afterwards(tmp_path):
    with locked(tmp_path):
        with pytest.raises(RunError, match="another process is working in"), locked(tmp_path):
            pass
        # Failing to get it must not have freed it.
        with pytest.raises(RunError, match="another process"), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass
    assert (tmp_path / LOCK).exists()


def test_an_error_in_the_block_frees_the_lock_and_keeps_its_own_words(tmp_path):
    """An OSError of the run is not about the lock and must not be reported as one."""
    for error in (
        OSError(errno.EIO, "camera"),
        FileNotFoundError("frames"),
        ValueError("x"),
        RunError("mine"),
    ):
        with pytest.raises(type(error)) as caught, locked(tmp_path):
            raise error
        assert caught.value is error
    with locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_locked_is_a_refusal(tmp_path, monkeypatch):
    with pytest.raises(RunError, match=r"cannot lock .*missing: no such file"), locked(tmp_path / "missing"):
        pass

    def refuse(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(runfolder.fcntl, "flock", refuse)
    with pytest.raises(RunError, match="no locks available"), locked(tmp_path):
        pass


@pytest.mark.slow
def test_a_second_process_is_kept_out_until_the_first_is_killed(tmp_path):
    script = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from carpool.experiments.runfolder import locked
        with locked(Path(sys.argv[1])):
            print("held", flush=True)
            sys.stdin.read()
        """
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(RunError, match="another process is working"), locked(tmp_path):
            pass
        first.kill()
        first.wait(60)
    with locked(tmp_path):
        pass


# -- documents ---------------------------------------------------------------------------------------


def test_documents_come_back_and_end_with_a_newline(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, None], "a": "ü"})
    assert read_json(tmp_path / "a.json") == {"b": [1, None], "a": "ü"}
    text = (tmp_path / "a.json").read_text()
    assert text.endswith("}\n")
    assert text.index('"b"') < text.index('"a"')  # the order of the keys is part of the promise


def test_a_document_with_nan_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"loss": float("inf")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b"\xff"])
def test_a_damaged_document_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(RunError, match=r"a\.json"):
        read_json(tmp_path / "a.json")
    with pytest.raises(RunError, match="cannot read"):
        read_json(tmp_path / "missing.json")
