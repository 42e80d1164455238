"""The log only grows: a changed bit, a lost line, a second history is found; a torn append is no error."""

from __future__ import annotations

import errno
import json
import os

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from carpool.privacy import logwriter, merkle, transparency
from carpool.privacy.errors import PrivacyRefused, RunError, UsageError, VehicleError
from carpool.privacy.identity import Role, Trust, decode, issue, public_bytes
from carpool.privacy.logaudit import breaches, differences, unfinished
from carpool.privacy.logentries import (
    KINDS,
    canonical,
    commitment,
    entry,
    parse,
    pseudonym,
    pseudonyms,
    read_entry,
)
from carpool.privacy.logwriter import LogWriter, Signer, beside
from carpool.privacy.transparency import Frontier, follow, grown, included, last_checkpoint, verify

NOW = 1_800_000_000
CA = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
TRUST = Trust(public_bytes(CA))
CERTIFICATE = issue(CA, Role.AGGREGATOR, 0, public_bytes(KEY), begins=NOW - 9, days=30).encode()
SECRET = b"s" * 32


def a_task(number: int):
    return ("task", {"round": f"{number:032x}", "version": number, "task": f"{number:064x}"})


def a_round(number: int, n_min: int = 2):
    fields = {"round": f"{number:032x}", "protocol": "secagg+", "announcement": "a" * 64, "n_min": n_min}
    return ("round", {**fields, "committee": "", "beacon": "b" * 64})


def a_release(number: int, *vehicles: int):
    fields = {"round": f"{number:032x}", "list": "c" * 64, "vehicles": pseudonyms(SECRET, vehicles)}
    return ("participation", fields)


def a_keys(number: int, digit: str = "d"):
    return ("keys", {"round": f"{number:032x}", "vehicles": 3, "hash": digit * 64})


def a_transcript(number: int, released: bool = True):
    return ("transcript", {"round": f"{number:032x}", "transcript": "e" * 64, "released": released})


def begun(path, run="run", now=NOW):
    logwriter.create(path, run, SECRET, Signer(CERTIFICATE, KEY, TRUST), now)
    return path


def opened(path, now=NOW + 1, key=KEY, certificate=CERTIFICATE):
    return LogWriter(path, Signer(certificate, key, TRUST), lambda: now)


@pytest.fixture
def log(tmp_path):
    """Three appends: 1 + 2 + 3 entries."""
    path = begun(tmp_path / "log.jsonl")
    with opened(path) as writer:
        writer.append([a_round(1), a_task(1)])
        writer.append([a_release(1, 1, 2, 3), a_round(2), a_task(2)])
    return path


def test_what_was_appended_is_there_signed_and_beside(log):
    found = verify(log, TRUST)
    assert [one["kind"] for one in found.entries] == [
        "begin",
        "round",
        "task",
        "participation",
        "round",
        "task",
    ]
    assert [one["number"] for one in found.entries] == list(range(6))
    assert (found.checkpoints, found.torn, found.signer) == (3, 0, "aggregator-0")
    assert found.checkpoint.root == merkle.root([merkle.leaf(canonical(one)) for one in found.entries])
    assert last_checkpoint(beside(log)) == found.checkpoint == last_checkpoint(log)


def test_it_goes_on_where_it_stopped(log):
    with opened(log, NOW + 5) as writer:
        assert writer.checkpoint.size == 6
        assert writer.append([a_task(3)]).size == 7
    assert verify(log, TRUST).checkpoint.at == NOW + 5


def test_a_clock_that_goes_back_does_not_take_the_log_back(log):
    with opened(log, NOW - 500) as writer:
        writer.append([a_task(3)])
    assert verify(log, TRUST).checkpoint.at == NOW + 1


@pytest.mark.slow
def test_every_bit_of_a_log_counts(log):
    """A flipped bit is refused anywhere; in the last line's end because the last checkpoint is beside."""
    data = log.read_bytes()
    kept = last_checkpoint(beside(log))
    for bit in range(0, 8 * len(data), 67):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        log.write_bytes(flipped)
        with pytest.raises(PrivacyRefused):
            grown(verify(log, TRUST), kept)
        with pytest.raises(PrivacyRefused):
            opened(log)


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"version":1}', b'"version":2}'), (b'"n_min":2', b'"n_min":3'), (b'"run":"run"', b'"run":"nur"')],
)
def test_a_changed_entry_is_refused_by_the_signed_root_alone(log, old, new):
    """Well-formed, in its place, and nobody kept a checkpoint."""
    data = log.read_bytes()
    assert old in data
    for at in range(data.count(old)):
        parts = data.split(old)
        log.write_bytes(old.join(parts[: at + 1]) + new + old.join(parts[at + 1 :]))
        with pytest.raises(PrivacyRefused, match="not those that were signed|cannot be"):
            verify(log, None)


@pytest.mark.slow
def test_a_torn_append_is_removed_at_every_length(log):
    """Whatever a kill left of the last append, the log before it holds and goes on."""
    data = log.read_bytes()
    with opened(log) as writer:
        writer.append([a_task(3), a_task(4)])
    added = log.read_bytes()[len(data) :]
    kept = transparency.read_checkpoint(data.splitlines()[-1])
    for cut in range(0, len(added), 5):
        log.write_bytes(data + added[:cut])
        beside(log).write_bytes(kept.encode() + b"\n")
        found = verify(log, TRUST)
        assert (found.checkpoint, found.torn) == (kept, cut)
        assert len(found.entries) == len(found.leaves) == 6
    with opened(log) as writer:
        writer.append([a_task(5)])
    assert log.read_bytes().startswith(data)
    assert verify(log, TRUST).torn == 0


def test_reading_changes_nothing(log):
    torn = log.read_bytes() + b"{"
    log.write_bytes(torn)
    verify(log, TRUST)
    assert log.read_bytes() == torn


def test_a_damaged_line_in_an_unfinished_append_is_refused(log):
    log.write_bytes(log.read_bytes() + b"garbage\n")
    with pytest.raises(PrivacyRefused, match="in line 10"):
        verify(log, TRUST)


def test_a_log_that_lost_its_end_is_refused(log):
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:5]))
    assert verify(log, TRUST).checkpoint.size == 3  # by itself it is sound: only the copy beside it knows
    with pytest.raises(PrivacyRefused, match="its end was cut off"):
        opened(log)


@pytest.mark.parametrize("line", range(9))
def test_no_line_can_go_be_doubled_or_move(log, line):
    lines = log.read_bytes().splitlines(keepends=True)
    for changed in (
        lines[:line] + lines[line + 1 :],
        lines[: line + 1] + lines[line:],
        lines[:line] + lines[line + 1 : line + 2] + lines[line : line + 1] + lines[line + 2 :],
    ):
        if changed == lines:
            continue
        log.write_bytes(b"".join(changed))
        try:
            found = verify(log, TRUST)
        except PrivacyRefused:
            continue
        # Only the last checkpoint can go (what stands beside the log knows), or one in the middle.
        gone = set(lines) - set(changed)
        assert len(gone) == 1
        assert gone.pop().startswith(b'{"checkpoint"')
        assert found.checkpoint.size == (6 if changed[-1] == lines[-1] else 3)


def test_another_key_a_vehicle_and_an_ended_certificate_sign_no_log(log, tmp_path):
    with pytest.raises(PrivacyRefused, match="does not hold"):
        verify(log, Trust(public_bytes(KEY)))
    vehicle = issue(CA, Role.VEHICLE, 0, public_bytes(KEY), begins=NOW - 9, days=30).encode()
    with pytest.raises(ValueError, match="aggregator's certificate"):
        opened(log, certificate=vehicle)
    with pytest.raises(ValueError, match="aggregator's certificate"):
        opened(log, key=CA)
    before = log.read_bytes()
    with opened(log, now=NOW + 40 * 86400) as writer, pytest.raises(PrivacyRefused, match="holds from"):
        writer.append([a_task(3)])
    assert log.read_bytes() == before


def test_a_checkpoint_signed_after_the_certificate_ended_is_refused(log, monkeypatch):
    monkeypatch.setattr(Trust, "check", lambda *args: b"")  # a server that does not check itself
    with opened(log, now=NOW + 40 * 86400) as writer:
        writer.append([a_task(3)])
    monkeypatch.undo()
    with pytest.raises(PrivacyRefused, match="holds from"):
        verify(log, TRUST)


def test_a_revoked_certificate_signs_no_more_but_what_it_signed_stays(log):
    revoked = Trust(TRUST.ca, {decode(CERTIFICATE).serial})
    with (
        LogWriter(log, Signer(CERTIFICATE, KEY, revoked), lambda: NOW + 1) as writer,
        pytest.raises(PrivacyRefused, match="was revoked"),
    ):
        writer.append([a_task(3)])


def test_a_signer_does_not_show_its_key():
    assert "private" not in repr(Signer(CERTIFICATE, KEY, TRUST)).lower()


def test_an_aggregator_may_change_its_key(log):
    other = Ed25519PrivateKey.generate()
    certificate = issue(CA, Role.AGGREGATOR, 1, public_bytes(other), begins=NOW, days=30).encode()
    with opened(log, key=other, certificate=certificate) as writer:
        writer.append([a_task(3)])
    assert verify(log, TRUST).signer == "aggregator-1"


def test_a_second_writer_waits_outside(log):
    with opened(log), pytest.raises(RunError, match="another process writes"):
        opened(log)
    opened(log).close()


def test_a_log_is_never_overwritten(log):
    with pytest.raises(UsageError, match="never overwritten"):
        begun(log)
    log.unlink()
    with pytest.raises(UsageError, match="never overwritten"):
        begun(log)


@pytest.mark.parametrize("content", [b"", b"\n", b"{}\n", b"[" * 100_000 + b"\n", b"\xff\n", b"no newline"])
def test_what_is_no_log_is_refused(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(PrivacyRefused):
        verify(tmp_path / "x", TRUST)
    with pytest.raises(PrivacyRefused, match="has no checkpoint"):
        last_checkpoint(tmp_path / "x")


def test_a_line_without_end_is_not_read_into_memory(log, monkeypatch):
    monkeypatch.setattr(transparency, "MOST_LINE", 2000)
    log.write_bytes(log.read_bytes() + b"x" * 5000)
    with pytest.raises(PrivacyRefused, match="longer than 2000"):
        verify(log, TRUST)


def test_a_full_disk_adds_nothing_and_the_next_append_works(log, monkeypatch):
    before, fsync = log.read_bytes(), os.fsync

    def refuse(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with opened(log) as writer:
        monkeypatch.setattr(os, "fsync", refuse)
        with pytest.raises(RunError, match="no space left"):
            writer.append([a_task(3)])
        assert log.read_bytes() == before
        assert writer.checkpoint.size == 6
        monkeypatch.setattr(os, "fsync", fsync)
        assert writer.append([a_task(4)]).size == 7
    assert verify(log, TRUST).entries[-1]["version"] == 4


def test_everything_is_on_disk_when_append_returns(log, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    with opened(log) as writer:
        writer.append([a_task(3)])
        assert log.stat().st_size in synced


def test_a_wrong_entry_is_refused_before_anything_is_written(log):
    before = log.read_bytes()
    with opened(log) as writer:
        for bad in (
            [],
            [("nothing", {})],
            [a_task(3), ("task", {"round": "x"})],
            [("begin", {"run": "r", "version": 1, "secret": "0" * 64})],
            [("participation", {"round": "0" * 32, "list": "0" * 64, "vehicles": ["f" * 32, "0" * 32]})],
            [("participation", {"round": "0" * 32, "list": "0" * 64, "vehicles": ["0" * 32, "0" * 32]})],
            [("transcript", {"round": "0" * 32, "transcript": "0" * 64, "released": 1})],
            [("task", {"round": "0" * 32, "version": True, "task": "0" * 64})],
            [("task", {"round": "0" * 32, "version": 1, "task": "0" * 64, "note": "x"})],
            [("pool", {"epoch": -1, "nodes": 1, "hash": "0" * 64})],
        ):
            with pytest.raises(ValueError):
                writer.append(bad)
    assert log.read_bytes() == before


@given(st.integers(0, 70))
@settings(max_examples=25)
def test_the_frontier_is_the_tree(size):
    tree, leaves = Frontier(), []
    for number in range(size):
        leaves.append(merkle.leaf(bytes([number])))
        tree.push(leaves[-1])
    assert tree.root == merkle.root(leaves)
    assert tree.size == size


def test_entries_are_proved_to_whoever_has_a_checkpoint_only(log):
    with opened(log) as writer:
        at = writer.checkpoint
        for number in range(at.size):
            line, proof = writer.inclusion(number)
            assert included(line, number, at, proof)["number"] == number
            with pytest.raises(PrivacyRefused, match="is not in the log"):
                included(line.replace(b"0", b"1", 1), number, at, proof)
            with pytest.raises(PrivacyRefused, match="is not in the log"):
                included(line, (number + 1) % at.size, at, proof)


def test_whoever_follows_sees_one_history(log):
    with opened(log, NOW + 7) as writer:
        first = writer.checkpoint
        assert follow(None, first, [], TRUST) == first
        last = writer.append([a_task(3)])
        proof = writer.consistency(first.size)
    assert follow(first, last, proof, TRUST) == last
    assert follow(last, last, [], TRUST) == last
    with pytest.raises(PrivacyRefused, match="another or older"):
        follow(last, first, proof, TRUST)
    with pytest.raises(PrivacyRefused, match="does not continue"):
        follow(first, last, proof[:-1], TRUST)
    with pytest.raises(VehicleError, match="does not hold"):
        follow(None, first, [], Trust(public_bytes(KEY)))


def forked(tmp_path, log):
    """A second log with the same beginning that then tells something else."""
    lines = log.read_bytes().splitlines(keepends=True)
    other = tmp_path / "other.jsonl"
    other.write_bytes(b"".join(lines[:5]))
    with opened(other, NOW + 7) as writer:
        writer.append([a_release(1, 1, 2), a_round(2), a_task(2), a_task(9)])
        return other, writer.checkpoint, [writer.consistency(n) for n in range(1, 7)]


def test_a_second_history_is_noticed(tmp_path, log):
    other, checkpoint, proofs = forked(tmp_path, log)
    verify(other, TRUST)  # sound by itself
    with pytest.raises(PrivacyRefused, match="the log was rewritten"):
        grown(verify(other, TRUST), last_checkpoint(log))
    for proof in proofs:
        with pytest.raises(PrivacyRefused, match="does not continue"):
            follow(last_checkpoint(log), checkpoint, proof, TRUST)


def test_another_log_is_not_a_continuation(tmp_path, log):
    other = begun(tmp_path / "other.jsonl", run="elsewhere")
    with pytest.raises(PrivacyRefused, match="another log"):
        grown(verify(other, TRUST), last_checkpoint(log))


def test_the_state_of_a_log_does_not_depend_on_who_signed_and_when(log):
    found = last_checkpoint(log)
    with opened(log, NOW + 99) as writer:
        later = transparency.sign_checkpoint(found.origin, writer._tree, NOW + 99, CERTIFICATE, KEY)
    assert later.signature != found.signature
    assert later.hash == found.hash
    assert last_checkpoint(begun(log.with_name("o"), run="o")).hash != found.hash


def test_golden_lines(tmp_path):
    """The file format changes together with its version only."""
    path = begun(tmp_path / "log.jsonl")
    first = path.read_bytes().splitlines()[0]
    assert first == canonical(
        {"at": NOW, "kind": "begin", "number": 0, "run": "run", "secret": commitment(SECRET), "version": 1}
    )
    assert (
        verify(path, TRUST).checkpoint.origin.hex()
        == "945d89432e077543f0afbc62ccdc91df16e88aabf0be3cf00969ce13b7ce2bef"
    )
    assert canonical(entry(*a_task(1), number=3, at=4)) == (
        b'{"at":4,"kind":"task","number":3,"round":"00000000000000000000000000000001",'
        b'"task":"0000000000000000000000000000000000000000000000000000000000000001","version":1}'
    )
    assert pseudonym(SECRET, 7) == "94ac8b57a88d2a43a7ee627dc11bc3d2"


@pytest.mark.parametrize(
    "line",
    [
        b'{"at":4, "kind":"task"}',
        b'{"b":1,"a":2}',
        b'{"a":1,"a":1}',
        b'{"a":NaN}',
        b'{"a":"\xc3\xbc"}',
        b"[]",
        b"1" * 5000,
        b'{"a":1e2}',
    ],
)
def test_json_has_one_form(line):
    with pytest.raises(ValueError):
        parse(line)


def test_every_kind_is_documented():
    from carpool.privacy import logentries

    for kind, fields in KINDS.items():
        row = next(one for one in logentries.__doc__.splitlines() if one.startswith(f"    {kind} "))
        assert row.split(kind, 1)[1].strip().startswith(", ".join(fields)), kind


def test_an_entry_stands_in_its_place():
    line = canonical(entry(*a_task(1), number=3, at=4))
    assert read_entry(line, 3, 4)["version"] == 1
    with pytest.raises(ValueError, match="stands where 2"):
        read_entry(line, 2, 0)
    with pytest.raises(ValueError, match="before that of the line above"):
        read_entry(line, 3, 5)
    with pytest.raises(ValueError, match="first one, and no other"):
        read_entry(canonical(entry(*a_task(1), number=0, at=4)), 0, 0)


def test_pseudonyms_are_the_vehicles_in_no_order_that_tells_them():
    assert pseudonyms(SECRET, [1, 2]) == pseudonyms(SECRET, [2, 1])
    assert pseudonym(SECRET, 1) != pseudonym(b"t" * 32, 1)
    with pytest.raises(ValueError, match="32 bytes"):
        pseudonym(b"short", 1)


def entries(*steps):
    return [entry(kind, fields, number=n, at=0) for n, (kind, fields) in enumerate(steps, 1)]


def test_an_honest_log_has_no_findings():
    honest = entries(a_round(1), a_release(1, 1, 2, 3), a_round(2), a_release(2, 4, 5, 6))
    assert breaches(honest) == differences(honest) == []


@pytest.mark.parametrize(
    ("steps", "finding"),
    [
        ([a_round(1), a_release(1, 1)], "counted 1 vehicles, announced were at least 2"),
        ([a_round(1), a_release(1, 1, 2), a_release(1, 2, 4)], "a second participation of 1 vehicles"),
        ([a_round(1), a_round(1)], "a second round"),
        ([a_release(1, 1, 2)], "not announced before"),
        ([a_transcript(1)], "not announced before"),
        ([a_round(1), a_transcript(1)], "nobody was counted before"),
        ([a_round(1), a_transcript(1), a_release(1, 1, 2)], "nobody was counted before"),
        ([a_round(1), a_transcript(1, False), a_release(1, 1, 2)], "after it was over"),
        ([a_round(1), a_release(1, 1, 2), a_transcript(1), a_transcript(1)], "a second transcript"),
        ([a_round(1), a_release(1, 1, 2), a_transcript(1), a_release(1, 3, 4)], "after it was over"),
        ([a_round(1), a_release(1, 1, 2), a_task(1)], "before its task"),
        ([a_round(1), a_keys(1), a_keys(1)], "a second keys"),
        ([a_round(1), a_release(1, 1, 2), a_keys(1)], "after its vehicles were counted"),
        ([a_release(1, 1, 2), a_round(1)], "not announced before"),
    ],
)
def test_a_server_that_breaks_its_rules_is_found(steps, finding):
    told = breaches(entries(*steps))
    assert told
    assert any(finding in one for one in told)


def test_groups_have_a_list_and_a_sum_each():
    steps = [a_round(1), a_task(1), a_keys(1), a_keys(1, "e"), a_release(1, 1, 2), a_release(1, 3, 4)]
    assert breaches(entries(*steps, a_transcript(1))) == []
    assert unfinished(entries(*steps, a_transcript(1))) == []


def test_rounds_without_an_end_are_told():
    lapsed = unfinished(entries(*(a_round(n) for n in range(1, 6))))
    assert len(lapsed) == 1
    assert "and 2 more were announced, and nothing came of it" in lapsed[0]
    assert "does not say whether a sum" in unfinished(entries(a_round(1), a_release(1, 1, 2)))[0]
    bare = [("round", a_round(1)[1] | {"beacon": ""}), a_release(1, 1, 2), a_transcript(1)]
    assert "nobody can redraw the graph" in unfinished(entries(*bare))[0]
    assert unfinished(entries(bare[0], a_keys(1), *bare[1:])) == []


def test_a_difference_of_few_vehicles_is_told_and_one_of_many_is_not():
    first = [a_round(1), a_release(1, 1, 2, 3), a_round(2)]
    assert "differ by 1 vehicles" in differences(entries(*first, a_release(2, 1, 2, 3, 4)))[0]
    assert differences(entries(*first, a_release(2, 1, 2, 3, 4, 5))) == []
    assert differences(entries(*first, a_release(2, 1, 2, 3))) == []


def test_a_log_is_readable_line_by_line(log):
    for line in log.read_text().splitlines():
        assert json.loads(line)
