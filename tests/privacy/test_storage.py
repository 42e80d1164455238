"""Files are whole or not there, whatever the machine does; a refusal is one sentence and leaves no litter."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from carpool.privacy.errors import RunError
from carpool.privacy.storage import (
    append_line,
    clear_temporaries,
    refusals,
    replacing,
    sync_folder,
    write_bytes,
    write_text,
)


def refuse(code: int):
    """A stand-in for a system call that the machine refuses."""

    def call(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    return call


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_bytes_and_text_are_written_and_folders_made(tmp_path):
    write_bytes(tmp_path / "a" / "b" / "file.bin", b"\x00\xff")
    write_text(tmp_path / "a" / "b" / "file.txt", "grüße\n")
    assert (tmp_path / "a" / "b" / "file.bin").read_bytes() == b"\x00\xff"
    assert (tmp_path / "a" / "b" / "file.txt").read_bytes() == "grüße\n".encode()
    assert names(tmp_path / "a" / "b") == ["file.bin", "file.txt"]


def test_an_existing_file_is_replaced_whole(tmp_path):
    path = tmp_path / "file"
    write_bytes(path, b"a long first content")
    write_bytes(path, b"short")
    assert path.read_bytes() == b"short"
    assert names(tmp_path) == ["file"]


def test_the_old_content_is_there_until_the_end(tmp_path):
    path = tmp_path / "file"
    write_bytes(path, b"old")
    with replacing(path) as temporary:
        assert temporary.parent == path.parent  # a rename across file systems is not atomic
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_others_may_read_the_file(tmp_path):
    write_bytes(tmp_path / "file", b"x")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError, MemoryError])
def test_an_interruption_leaves_the_old_file_and_no_litter(tmp_path, error):
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def interrupted():
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("target", "call"),
    [(os, "fsync"), (Path, "write_bytes"), (Path, "replace"), (Path, "chmod"), (tempfile, "mkstemp")],
)
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ENOSPC, "no space left on device"),
        (errno.EROFS, "read-only file system"),
        (errno.EIO, "input/output"),
    ],
)
def test_a_refusal_at_any_call_is_one_sentence_and_nothing_is_half_written(
    tmp_path, monkeypatch, target, call, code, reason
):
    path = tmp_path / "model.bin"
    write_bytes(path, b"old")
    monkeypatch.setattr(target, call, refuse(code))
    with pytest.raises(RunError, match=reason) as caught:
        write_bytes(path, b"new")
    assert str(caught.value).startswith(f"cannot write {path}: ")
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["model.bin"]


def test_a_new_file_on_a_full_disk_is_not_there_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", refuse(errno.ENOSPC))
    with pytest.raises(RunError, match="no space left"):
        write_text(tmp_path / "new" / "file", "content")
    assert names(tmp_path / "new") == []


def test_a_folder_in_the_place_of_the_file_is_a_refusal_without_litter(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(RunError, match="cannot write"):
        write_bytes(tmp_path / "file", b"x")
    assert names(tmp_path) == ["file"]


def test_a_file_in_the_place_of_a_parent_folder_is_a_refusal(tmp_path):
    (tmp_path / "parent").write_bytes(b"")
    with pytest.raises(RunError, match="cannot write"):
        write_bytes(tmp_path / "parent" / "file", b"x")


def test_a_folder_that_cannot_be_made_is_a_refusal(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "mkdir", refuse(errno.EACCES))
    with pytest.raises(RunError, match="permission denied"):
        write_bytes(tmp_path / "a" / "file", b"x")


def test_everything_is_on_disk_before_the_name_changes(tmp_path, monkeypatch):
    """fsync of the file, then rename, then fsync of the folder: any other order can lose both versions."""
    path, events = tmp_path / "file", []
    fsync, replace = os.fsync, Path.replace

    def logged_fsync(descriptor):
        target = Path(f"/proc/self/fd/{descriptor}").readlink()
        events.append("folder" if target.is_dir() else f"file of {target.stat().st_size}")
        fsync(descriptor)

    def logged_replace(self, target):
        events.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(Path, "replace", logged_replace)
    write_bytes(path, b"12345")
    assert events == ["file of 5", "rename", "folder"]


def test_no_descriptor_is_left_open(tmp_path, monkeypatch):
    before = open_files()
    write_bytes(tmp_path / "file", b"x")
    append_line(tmp_path / "lines", "x")
    sync_folder(tmp_path)
    monkeypatch.setattr(os, "fsync", refuse(errno.EIO))
    with pytest.raises(RunError):
        write_bytes(tmp_path / "file", b"y")
    with pytest.raises(OSError, match="Input/output"):
        sync_folder(tmp_path)
    assert open_files() == before


def test_lines_are_appended(tmp_path):
    path = tmp_path / "lines"
    append_line(path, '{"a": 1}')
    append_line(path, "ü")
    assert path.read_bytes() == '{"a": 1}\nü\n'.encode()


def test_a_line_has_no_newline_in_it(tmp_path):
    with pytest.raises(ValueError, match="newline"):
        append_line(tmp_path / "lines", "two\nlines")
    assert names(tmp_path) == []


def test_a_line_is_on_disk_when_append_returns(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(os.fstat(descriptor).st_size))
    append_line(tmp_path / "lines", "12345")
    assert seen == [6]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this machine has no /dev/full")
def test_appending_on_a_full_disk_is_a_refusal():
    with pytest.raises(RunError, match="cannot append to /dev/full: no space left on device"):
        append_line(Path("/dev/full"), "x")


def test_appending_where_fsync_is_refused_is_a_refusal(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", refuse(errno.EIO))
    with pytest.raises(RunError, match="input/output error"):
        append_line(tmp_path / "lines", "x")


def test_appending_into_a_missing_folder_is_a_refusal(tmp_path):
    with pytest.raises(RunError, match="no such file or directory; free the space, allow writing there"):
        append_line(tmp_path / "missing" / "lines", "x")


def test_refusals_pass_other_errors_on_and_keep_the_cause(tmp_path):
    with pytest.raises(KeyError), refusals(tmp_path):
        raise KeyError("x")
    with pytest.raises(RunError, match="cannot lock") as caught, refusals(tmp_path, "lock"):
        raise PermissionError(errno.EACCES, "Permission denied")
    assert isinstance(caught.value.__cause__, PermissionError)
    with pytest.raises(RunError, match="without a number"), refusals(tmp_path):
        raise OSError("without a number")


@pytest.mark.slow
def test_a_kill_in_the_middle_of_a_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_bytes(path, b"old")
    script = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from carpool.privacy.storage import replacing
        with replacing(Path(sys.argv[1])) as temporary:
            temporary.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    ended = subprocess.run([sys.executable, "-c", script, str(path)], timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert len(names(tmp_path)) == 2
    clear_temporaries(tmp_path)
    assert names(tmp_path) == ["file"]


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    for name in (".file.ab12.tmp", "sub/.state.cd34.tmp", "file", ".lock", "mine.tmp", "sub/file"):
        write_bytes(tmp_path / name, b"x")
    clear_temporaries(tmp_path)
    assert names(tmp_path) == [".lock", "file", "mine.tmp", "sub"]
    assert names(tmp_path / "sub") == ["file"]


def test_leftovers_that_cannot_be_removed_are_a_refusal(tmp_path, monkeypatch):
    write_bytes(tmp_path / ".file.ab12.tmp", b"x")
    monkeypatch.setattr(Path, "unlink", refuse(errno.EROFS))
    with pytest.raises(RunError, match="cannot clean .*: read-only file system"):
        clear_temporaries(tmp_path)
