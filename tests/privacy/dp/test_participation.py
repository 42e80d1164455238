"""The record of participation through crashes, damage and a full disk."""

import pytest

from carpool.privacy.dp.participation import ParticipationFile
from carpool.privacy.dp.schema import Schema
from carpool.privacy.errors import PrivacyRefused, RunError


def admitted(tmp_path):
    path = tmp_path / "participation"
    record = ParticipationFile(path, Schema(4, 2), 30)
    record.admit([5, 9], 1)
    record.admit([3], 2)
    record.admit([9], 6)
    return path


def test_the_record_survives_a_crash(tmp_path):
    record = ParticipationFile(admitted(tmp_path), Schema(4, 2), 30, resume=True)
    assert record.allowed([3, 5, 9, 1], 7).tolist() == [True, True, False, True]
    with pytest.raises(PrivacyRefused):
        record.admit([5, 9], 12)
    record.admit([5], 12)
    again = ParticipationFile(tmp_path / "participation", Schema(4, 2), 30, resume=True)
    assert again.allowed([5], 30).tolist() == [False]


@pytest.mark.slow
def test_a_file_cut_anywhere_keeps_every_line_that_was_whole(tmp_path):
    path = admitted(tmp_path)
    data = path.read_bytes()
    head = data.index(b"\n") + 1
    for length in range(head, len(data) + 1):
        path.write_bytes(data[:length])
        record = ParticipationFile(path, Schema(4, 2), 30, resume=True)
        # A line that lacks its newline alone still counts; the head is the first of four.
        whole = sum(line in data.splitlines() for line in data[:length].splitlines())
        assert record.allowed([5, 3, 9], 4).tolist() == [whole < 2, whole < 3, whole < 2]
        assert record.allowed([9], 20).tolist() == [whole < 4]
        record.admit([20], 9)
        assert ParticipationFile(path, Schema(4, 2), 30, resume=True).allowed([20], 10).tolist() == [False]


def test_a_changed_byte_is_refused_or_forgets_nothing(tmp_path):
    path = admitted(tmp_path)
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        if place == len(data) - 1:
            continue  # the last newline: what follows is a torn line, whose check no longer holds
        with pytest.raises(RunError):
            ParticipationFile(path, Schema(4, 2), 30, resume=True)


def test_records_of_other_trainings_are_refused(tmp_path):
    path = admitted(tmp_path)
    with pytest.raises(RunError, match="another training"):
        ParticipationFile(path, Schema(4, 2), 30)
    for schema, rounds in ((Schema(3, 2), 30), (Schema(4, 3), 30), (Schema(4, 2), 31)):
        with pytest.raises(RunError, match="go on with the schema"):
            ParticipationFile(path, schema, rounds, resume=True)
    with pytest.raises(RunError, match="cannot read"):
        ParticipationFile(tmp_path / "none", Schema(4, 2), 30, resume=True)
    path.write_bytes(b"")
    with pytest.raises(RunError, match="damaged"):
        ParticipationFile(path, Schema(4, 2), 30, resume=True)


def test_a_record_that_could_not_be_written_takes_nothing_more(tmp_path, monkeypatch):
    path = admitted(tmp_path)
    record = ParticipationFile(path, Schema(4, 2), 30, resume=True)

    def full(path, line):
        with path.open("ab") as file:
            file.write(line[:5].encode())
        raise RunError("disk full")

    monkeypatch.setattr("carpool.privacy.dp.participation.append_line", full)
    with pytest.raises(RunError, match="disk full"):
        record.admit([30], 9)
    monkeypatch.undo()
    with pytest.raises(RunError, match="open the record again"):
        record.admit([30], 9)
    again = ParticipationFile(path, Schema(4, 2), 30, resume=True)
    again.admit([30], 9)
    assert again.allowed([5, 9], 20).tolist() == [True, False]
