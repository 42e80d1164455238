"""The ledger: charged before released, never refunded; torn is mended, every other damage is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, fields, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carpool.privacy.dp import ledgerlines
from carpool.privacy.dp.events import Event
from carpool.privacy.dp.ledger import Ledger, tight
from carpool.privacy.dp.ledgerfile import beside, read
from carpool.privacy.dp.ledgerlines import FIRST, Header, line
from carpool.privacy.errors import PrivacyRefused, RunError, UsageError
from carpool.privacy.logentries import canonical
from tests.privacy.dp.ledgers import DELTA, HEADER, MATRIX, NOW, digest, gaussian, opened, release

BYTES = (
    b'{"at":1800000000,"before":"%s","clip_norm":0.5,"cohort":20,"delta":1e-05,"event":{"count":1,"l1":0.0,'
    b'"mechanism":"gaussian","noise_multiplier":1.0,"sampling_rate":1.0,"sensitivity":1.0,"step":0.0},'
    b'"hash":"%s","kind":"charge","mechanism":"central","most":0,"noise_from":"server","number":1,'
    b'"private":true,"relation":"zero-out","releases":1,"round":0,"run":"first","separation":0,'
    b'"ticket":"abababababababababababababababab","unit":"vehicle","what":"model sum"}'
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "ledger.jsonl"


@pytest.fixture
def short(path):
    """A ledger with every kind of line in it."""
    with opened(path) as ledger:
        first = ledger.charge(release(0, noise_from="vehicles"))
        ledger.realised(first, 0.8, 14)
        ledger.publish(first, digest("a"))
        ledger.void(ledger.charge(release(1)), "the process ended")
        ledger.charge(release(2, what="metrics"))
    return path


def refused(path, *words):
    with pytest.raises(PrivacyRefused) as told:
        read(path)
    with pytest.raises(PrivacyRefused):
        opened(path)
    for word in words:
        assert word in str(told.value)


def rewritten(path, change):
    """The ledger with its lines changed, and every hash in it right again: an honest-looking forgery."""
    before, out = FIRST, []
    for one in change([json.loads(data) for data in path.read_bytes().splitlines()]):
        made = {**one, "before": before}
        made.pop("hash", None)
        before = hashlib.sha256(canonical(made)).hexdigest()
        out.append(canonical({**made, "hash": before}) + b"\n")
    path.write_bytes(b"".join(out))
    beside(path).unlink()


def test_what_was_charged_is_there_again(path):
    with opened(path) as ledger:
        numbers = [ledger.charge(release(i, gaussian(1 + i))) for i in range(3)]
        told = ledger.events()
    with opened(path) as ledger:
        assert numbers == [one.number for one in ledger.charges] == [1, 2, 3]
        assert ledger.events() == told == [gaussian(1), gaussian(2), gaussian(3)]
        assert ledger.charges[1].release == release(1, gaussian(2.0))
        assert [one.release.round for one in ledger.pending("first")] == [0, 1, 2]
        assert ledger.pending("second") == []


def test_the_bytes_of_a_charge_never_change(path):
    with opened(path) as ledger:
        ledger.charge(release(), "ab" * 16)
    first, second = path.read_bytes().splitlines()
    own = json.loads(second)["hash"].encode()
    assert own == hashlib.sha256(second.replace(b'"hash":"%s",' % own, b"")).hexdigest().encode()
    assert second == BYTES % (json.loads(first)["hash"].encode(), own)
    assert json.loads(beside(path).read_bytes()) == {"number": 1, "hash": own.decode()}


def test_the_facts_of_an_event_are_all_in_a_line():
    assert [one.name for one in fields(Event)] == [
        "mechanism",
        "noise_multiplier",
        "sampling_rate",
        "count",
        "sensitivity",
        "l1",
        "step",
    ], "a new fact needs a new ledgerlines.VERSION"


def test_numbers_of_any_kind_are_written_alike(path):
    with opened(path) as ledger:
        ledger.charge(release(0, Event("gaussian", 1, sensitivity=1), clip_norm=1), "ab" * 16)
        assert ledger.charges[0].release == release(0, clip_norm=1.0)


@pytest.mark.slow
def test_a_kill_at_any_byte_of_an_append_is_mended(short):
    whole, head = short.read_bytes(), beside(short).read_bytes()
    with opened(short) as ledger:
        before = [asdict(one) for one in ledger.charges]
        ledger.charge(release(3))
        after = [asdict(one) for one in ledger.charges]
    appended = short.read_bytes()
    for end in range(len(whole), len(appended) + 1):
        short.write_bytes(appended[:end])
        beside(short).write_bytes(head)  # it is written after the line is synced
        assert read(short).torn == (end - len(whole)) % (len(appended) - len(whole))
        with opened(short) as ledger:
            assert [asdict(one) for one in ledger.charges] == (after if end == len(appended) else before)
            assert short.read_bytes() == (appended if end == len(appended) else whole)
        assert read(short).head == "same"


def test_a_torn_line_of_zeros_is_mended_too(short):
    whole = short.read_bytes()
    short.write_bytes(whole + bytes(300))
    with opened(short) as ledger:
        assert short.read_bytes() == whole
        assert ledger.charge(release(3)) == 7
    assert short.read_bytes().startswith(whole)


def test_an_end_that_was_acknowledged_and_is_gone_is_refused(short):
    lines = short.read_bytes().splitlines(keepends=True)
    for kept in (lines[:-1], [*lines[:-1], lines[-1][:-1]], lines[:1], []):
        short.write_bytes(b"".join(kept))
        refused(short, "lost its end")


@pytest.mark.slow
def test_an_end_that_was_acknowledged_and_is_gone_is_refused_at_any_byte(short):
    whole = short.read_bytes()
    for end in range(len(whole)):
        short.write_bytes(whole[:end])
        with pytest.raises(PrivacyRefused, match="lost its end"):
            read(short)
    with pytest.raises(PrivacyRefused, match="lost its end"):
        opened(short)


@pytest.mark.slow
@pytest.mark.parametrize("alone", [False, True])
def test_any_changed_byte_is_refused(short, alone):
    whole = short.read_bytes()
    if alone:
        beside(short).unlink()
    for place in range(len(whole) - alone):  # alone, a file that lacks its last newline looks torn
        other = (whole[place] ^ (1 << place % 8), 10, 32, 48)[place % 4]
        if other != whole[place]:
            short.write_bytes(whole[:place] + bytes([other]) + whole[place + 1 :])
            with pytest.raises(PrivacyRefused, match=r"line \d+ of"):
                read(short)


def test_the_line_that_is_damaged_is_named(short):
    lines = short.read_bytes().splitlines(keepends=True)
    short.write_bytes(b"".join([*lines[:2], lines[2].replace(b"0.8", b"0.9"), *lines[3:]]))
    refused(short, f"line 3 of {short}", "hash", "put a copy that holds")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: lines[:2] + lines[3:], "line 3 stands where 2 should be"),
        (lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]], "stands where"),
        (lambda lines: [*lines, lines[-1]], "stands where"),
        (lambda lines: lines[1:], "stands where 0"),
        (lambda lines: [lines[0].replace(b"\n", b"\r\n"), *lines[1:]], "canonical"),
        (lambda lines: [lines[0], b"\n", *lines[1:]], "no JSON"),
        (lambda lines: [*lines, b"x" * 9000 + b"\n"], "longer than"),
        (lambda lines: [*lines, b"x" * 9000], "longer than"),
        (lambda lines: [*lines, b"\xff\n"], "no JSON"),
        (lambda lines: [*lines, b'{"number":7,"number":7}\n'], "canonical"),
        (lambda lines: [*lines, b'{"number":NaN}\n'], ""),
        (lambda lines: [*lines, b"[" * 8000 + b"\n"], "no JSON"),
    ],
)
def test_lines_missing_doubled_moved_or_of_another_form_are_refused(short, change, words):
    short.write_bytes(b"".join(change(short.read_bytes().splitlines(keepends=True))))
    refused(short, words)


def at(lines, place, **changed):
    return [{**one, **changed} if i == place else one for i, one in enumerate(lines)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: at(lines, 1, extra=1), "extra"),
        (lambda lines: at(lines, 0, version=2), "version"),
        (lambda lines: at(lines, 1, kind="refund"), "refund"),
        (lambda lines: at(lines, 4, number=3), "stands where"),
        (lambda lines: at(lines, 4, ticket=lines[1]["ticket"]), "was used by charge 1"),
        (lambda lines: at(lines, 2, charge=6), "no charge 6"),
        (lambda lines: at(lines, 3, charge=2), "no charge 2"),
        (lambda lines: at(lines, 5, charge=1), "used up"),
        (lambda lines: [*lines, {**lines[3], "number": 7}], "published under charge 1 already"),
        (lambda lines: [*lines, {**lines[0], "number": 7}], "begins once"),
        (lambda lines: at(lines, 0, kind="void"), "too many"),
        (lambda lines: at(lines, 3, digest="A" * 64), "digest"),
        (lambda lines: at(lines, 4, unit="owner"), "vehicle"),
        (lambda lines: at(lines, 4, at=5), "before that of the line above"),
        (lambda lines: at(lines, 4, cohort=True), "cohort"),
        (lambda lines: at(lines, 4, clip_norm=1), "clip_norm"),
        (lambda lines: at(lines, 4, event={**lines[4]["event"], "extra": 1}), "event"),
        (lambda lines: at(lines, 4, event={**lines[4]["event"], "sampling_rate": 0.0}), "event"),
        (lambda lines: at(lines, 4, event={**lines[4]["event"], "mechanism": "laplace"}), "event"),
        (lambda lines: at(lines, 4, event=[]), "event"),
        (lambda lines: at(lines, 4, releases=2), "matrix"),
        (lambda lines: at(lines, 4, what="\u202e"), "what"),
        (lambda lines: at(lines, 4, round=1 << 60), "round"),
    ],
)
def test_lines_with_right_hashes_that_say_what_cannot_be_are_refused(short, change, words):
    rewritten(short, change)
    refused(short, words)


def test_another_process_cannot_open_it(path):
    with opened(path), pytest.raises(RunError, match="another process writes"):
        opened(path)
    opened(path).close()


def test_a_forked_child_cannot_write_it(path):
    with opened(path) as ledger:
        child = os.fork()
        if child == 0:
            try:
                ledger.charge(release())
            except RunError:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert ledger.charge(release()) == 1


def test_a_line_is_synced_before_its_number_is_known(path, monkeypatch):
    synced = []
    real = os.fsync

    def fsync(descriptor):
        real(descriptor)
        synced.append(path.read_bytes())

    with opened(path) as ledger:
        monkeypatch.setattr(os, "fsync", fsync)
        ledger.charge(release())
        assert synced[0] == path.read_bytes()  # the very first sync has the whole line


def test_a_disk_that_refuses_charges_nothing(path, monkeypatch):
    with opened(path) as ledger:
        before = path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
            with pytest.raises(RunError, match="no space left"):
                ledger.charge(release())
        assert (path.read_bytes(), ledger.charges) == (before, ())
        assert ledger.charge(release()) == 1
    assert read(path).lines == 2


def test_a_head_that_could_not_be_written_loses_no_charge(path, monkeypatch):
    with opened(path) as ledger:
        with monkeypatch.context() as patch:
            patch.setattr(
                "carpool.privacy.dp.ledger.note_head", lambda *_: (_ for _ in ()).throw(RunError("full"))
            )
            with pytest.raises(RunError):
                ledger.charge(release())
        assert len(ledger.events()) == 1
        assert read(path).head == "behind"
    with opened(path) as ledger:
        assert len(ledger.events()) == 1
    assert read(path).head == "same"


def test_a_head_that_is_gone_or_wrong_is_refused(short):
    head = beside(short).read_bytes()
    for wrong in (b"", b"{}\n", head.replace(b'"number":6', b'"number":5'), b'{"hash":1,"number":6}\n'):
        beside(short).write_bytes(wrong)
        refused(short)
    beside(short).unlink()
    assert read(short).head == "missing"
    with pytest.raises(PrivacyRefused, match="is gone"):
        opened(short)


@pytest.mark.slow
def test_a_start_that_was_killed_begins_again(path):
    opened(path).close()
    whole = path.read_bytes()
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        beside(path).unlink(missing_ok=True)
        opened(path).close()
        assert path.read_bytes() == whole


def test_none_there(path, tmp_path):
    with pytest.raises(RunError, match="there is no ledger"):
        read(path)
    with pytest.raises(RunError, match="there is no ledger"):
        Ledger.open(path)
    (tmp_path / "empty").touch()
    with pytest.raises(RunError, match="never begun"):
        read(tmp_path / "empty")
    with pytest.raises(RunError, match="never begun"):
        Ledger.open(tmp_path / "empty")
    with pytest.raises(RunError):
        opened(tmp_path)


@pytest.mark.parametrize(
    "other",
    [{"name": "second"}, {"scope": "fleet"}, {"unit": "owner"}, {"relation": "add-remove"}, {"delta": 1e-6}],
)
def test_a_ledger_of_something_else_is_not_taken(path, other):
    opened(path).close()
    with pytest.raises(UsageError, match="counts for run first"):
        opened(path, replace(HEADER, **other))


def test_not_private_stays_not_private(path):
    with opened(path, replace(HEADER, private=False)) as ledger:
        assert not ledger.private
    with opened(path) as ledger:
        assert not ledger.private


def test_one_seeded_release_stamps_the_whole(path):
    with opened(path) as ledger:
        assert ledger.private
        ledger.charge(release(private=False))
        ledger.charge(release(1))
        assert not ledger.private
    assert not read(path).state.private


def test_less_noise_is_dearer_and_more_refunds_nothing(path):
    with opened(path) as ledger:
        number = ledger.charge(release(0, gaussian(2.0), noise_from="vehicles"))
        planned = ledger.epsilon()
        ledger.realised(number, 3.0, 40)
        assert (ledger.charges[0].noise, ledger.charges[0].survived) == (2.0, 40)
        assert ledger.epsilon() == planned
        ledger.realised(number, 1.5, 11)
        ledger.realised(number, 1.5, 11)
        assert ledger.epsilon() > planned
        ledger.void(number, "below quorum")
        assert ledger.events() == [gaussian(1.5)]
    found = read(path)
    assert found.lines == 5
    assert found.state.charges[1].noise == 1.5
    with opened(path) as ledger, pytest.raises(PrivacyRefused, match="noise_multiplier"):
        ledger.realised(number, float("nan"), 11)


def test_one_release_a_charge(path):
    with opened(path) as ledger:
        one, two = ledger.charge(release(0)), ledger.charge(release(1))
        ledger.publish(one, digest("a"))
        ledger.publish(one, digest("a"))  # again after a kill: nothing changes
        with pytest.raises(PrivacyRefused, match="already"):
            ledger.publish(one, digest("b"))
        with pytest.raises(PrivacyRefused, match="used up"):
            ledger.void(one, "no")
        ledger.void(two, "killed \n before the sum was kept \u2603")
        ledger.void(two, "again")
        assert ledger.charges[1].void == "killed ? before the sum was kept ?"
        with pytest.raises(PrivacyRefused, match="is void"):
            ledger.publish(two, digest("a"))
        for wrong in (0, 3, 99):
            with pytest.raises(PrivacyRefused, match="no charge|cannot be"):
                ledger.publish(wrong, digest("a"))
        assert ledger.pending("first") == []
        assert len(ledger.events()) == 2
    assert read(path).lines == 5


def test_noise_of_vehicles_is_charged_before_the_sum_leaves(path):
    with opened(path) as ledger:
        number = ledger.charge(release(noise_from="vehicles"))
        with pytest.raises(PrivacyRefused, match="not charged yet"):
            ledger.publish(number, digest("a"))
        ledger.realised(number, 0.9, 17)
        ledger.publish(number, digest("a"))


def test_a_matrix_training_is_paid_once(path):
    facts = {"mechanism": "matrix", "releases": 3, "separation": 2, "most": 2}
    with opened(path) as ledger:
        number = ledger.charge(release(5, MATRIX, **facts))
        for moment in (5, 6):
            ledger.publish(number, digest("a"), moment)
        for moment in (4, 8):
            with pytest.raises(PrivacyRefused, match="does not pay"):
                ledger.publish(number, digest("b"), moment)
        with pytest.raises(PrivacyRefused, match="already"):
            ledger.publish(number, digest("b"), 6)
        assert len(ledger.pending("first")) == 1
    with opened(path) as ledger:
        assert ledger.events() == [MATRIX]
        ledger.publish(number, digest("b"), 7)
        assert ledger.pending("first") == []
        with pytest.raises(PrivacyRefused, match="matrix"):
            ledger.charge(release(9, releases=2))


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"unit": "owner"}, "vehicle"),
        ({"relation": "add-remove"}, "zero-out"),
        ({"run": ""}, "run"),
        ({"what": "a\nb"}, "what"),
        ({"round": -1}, "round"),
        ({"delta": 0.0}, "delta"),
        ({"delta": 1}, "delta"),
        ({"clip_norm": float("inf")}, "clip_norm"),
        ({"cohort": 1.5}, "cohort"),
        ({"event": Event("laplace", 1.0)}, "laplace"),
        ({"event": Event("matrix", 1.0, sampling_rate=0.1)}, "sampl"),
    ],
)
def test_what_it_cannot_count_is_not_charged(path, bad, words):
    with opened(path) as ledger:
        before = path.read_bytes()
        with pytest.raises(PrivacyRefused, match=words):
            ledger.charge(release(**bad))
        assert (path.read_bytes(), ledger.charges) == (before, ())


def test_time_never_runs_backwards(path):
    clock = [NOW, NOW + 5, NOW + 5, 3]
    with opened(path, now=lambda: clock.pop(0)) as ledger:
        for i in range(3):
            ledger.charge(release(i))
        assert [one.at for one in ledger.charges] == [NOW + 5] * 3
    assert read(path).lines == 4


steps = st.lists(
    st.tuples(
        st.sampled_from(["charge", "realised", "publish", "void"]),
        st.integers(1, 6),
        st.sampled_from([0.5, 1.0, 2.0]),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
@pytest.mark.slow
def test_the_file_alone_gives_what_memory_has(tmp_path, taken):
    """Also: no step ever makes epsilon smaller, and no charge is ever published twice."""
    folder = tmp_path / "law"
    shutil.rmtree(folder, ignore_errors=True)
    with opened(folder / "l") as ledger:
        spent = 0.0
        for step, number, noise in taken:
            try:
                if step == "charge":
                    ledger.charge(release(number, gaussian(noise)))
                elif step == "realised":
                    ledger.realised(number, noise, 3)
                elif step == "publish":
                    ledger.publish(number, digest("a" if noise > 1 else "b"))
                else:
                    ledger.void(number, "void")
            except PrivacyRefused:
                pass
            assert ledger.epsilon() >= spent
            spent = ledger.epsilon()
        state = read(folder / "l").state
        assert list(state.charges.values()) == list(ledger.charges)
        assert tight([one.event for one in state.charges.values()], DELTA, "zero-out") == spent


@pytest.mark.slow
def test_the_table_of_dropouts(path):
    """100 releases at z = 22.36, delta 1e-6: 1.995 with all the noise, 2.426 when 30 % is lost."""
    with opened(path, replace(HEADER, delta=1e-6)) as ledger:
        for i in range(100):
            ledger.charge(release(i, gaussian(22.36), noise_from="vehicles"))
        assert ledger.epsilon() == pytest.approx(1.995, abs=1e-3)
        for one in ledger.charges:
            ledger.realised(one.number, 22.36 * 0.7**0.5, 14)
        assert ledger.epsilon() == pytest.approx(2.426, abs=1e-3)


@pytest.mark.slow
def test_a_thousand_releases_are_checked_quickly(path):
    path.parent.mkdir()
    before, data = FIRST, b""
    for number in range(1001):
        own = {**ledgerlines.facts(release(number)), "ticket": f"{number:032x}"}
        kind = "charge"
        if number == 0:
            kind, own = "ledger", {**ledgerlines.facts(HEADER), "version": 1}
        made = line(kind, own, number=number, at=NOW, before=before)
        before, data = made["hash"], data + canonical(made) + b"\n"
    path.write_bytes(data)
    begun = time.process_time()
    assert len(read(path).state.charges) == 1000
    assert time.process_time() - begun < 2.0  # 0.09 s when it was written


KILLED = """
import sys
from pathlib import Path
from tests.privacy.dp.ledgers import opened, release
with opened(Path(sys.argv[1])) as ledger:
    number = 0
    while True:
        number = ledger.charge(release(number))
        sys.stdout.write(f"{number}\\n")
        sys.stdout.flush()
"""


@pytest.mark.slow
def test_kill_nine_keeps_what_was_acknowledged(path):
    command = [sys.executable, "-c", KILLED, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        told = [int(process.stdout.readline()) for _ in range(20)][-1]
        process.kill()
        told = max([told, *map(int, process.stdout.read().split())])
    with opened(path) as ledger:
        assert len(ledger.charges) in (told, told + 1)
        assert ledger.charge(release(999)) == len(ledger.charges)


def test_a_header_names_no_bad_thing(path):
    for bad in (Header("run", "", "vehicle", "zero-out", DELTA), replace(HEADER, delta=0.0)):
        with pytest.raises(UsageError, match="cannot be"):
            opened(path, bad)
