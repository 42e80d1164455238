"""A vehicle's own count: it survives restarts, believes no amplification, and refuses by itself."""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from dataclasses import replace

import pytest

from carpool.privacy.dp.events import Event
from carpool.privacy.dp.odometer import REMEMBERED, Cap, Odometer, Part, take_part
from carpool.privacy.dp.odometerfile import FileOdometer
from carpool.privacy.errors import PrivacyRefused, RunError, UsageError
from carpool.privacy.logentries import canonical
from tests.privacy.dp.ledgers import DELTA, MATRIX, gaussian


def count(events, delta, relation):
    return float(sum(one.count for one in events))


CAP = Cap(3.0, DELTA, count)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "vehicle" / "odometer.json"


def vehicle(path, cap=CAP, **more):
    return FileOdometer(path, "vehicle-7", cap, **more)


def part(noise=1.0, **more):
    return Part(gaussian(noise), **more)


def matrix(number, **more):
    return Part(MATRIX, **{"training": "t", "round": number, "separation": 3, "most": 2, **more})


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_it_refuses_over_its_cap_and_counts_nothing_then(path, kind):
    one = vehicle(path) if kind == "file" else Odometer("vehicle-7", CAP)
    for noise in (1.0, 1.0, 2.0):
        take_part(part(noise), one)
    before = one.reading()
    with pytest.raises(PrivacyRefused, match="from epsilon 3 to 4, over its cap of 3 at delta 1e-05") as told:
        take_part(part(), one)
    assert "vehicle vehicle-7" in str(told.value)
    assert one.reading() == before
    assert before.events == {gaussian(1.0): 2, gaussian(2.0): 1}


def test_it_survives_a_restart(path):
    take_part(part(), vehicle(path))
    take_part(matrix(5), vehicle(path))
    take_part(part(moment="run/12"), vehicle(path))
    with pytest.raises(PrivacyRefused, match="cap"):
        take_part(part(), vehicle(path))
    assert vehicle(path).spent() == 3.0
    assert vehicle(path).reading().moments == ("run/12",)
    with pytest.raises(PrivacyRefused, match="schema"):
        take_part(matrix(6), vehicle(path))
    take_part(matrix(8), vehicle(path))  # it was paid for as a whole


def test_nobody_else_can_read_it(path):
    old = os.umask(0)
    try:
        take_part(part(), vehicle(path))
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    with pytest.raises(PrivacyRefused, match="mode 0644"):
        vehicle(path)


def test_a_link_or_a_pipe_is_no_odometer(path, tmp_path):
    take_part(part(), vehicle(path))
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(RunError):
        vehicle(tmp_path / "link")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(PrivacyRefused, match="no regular file"):
        vehicle(tmp_path / "pipe")


@pytest.mark.slow
def test_any_damage_means_that_it_takes_part_in_nothing(path):
    take_part(part(), vehicle(path))
    take_part(matrix(5), vehicle(path))
    whole = path.read_bytes()
    for at in range(len(whole)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            with pytest.raises(PrivacyRefused, match="does not hold"):
                vehicle(path)
    path.write_bytes(whole + b"\n")
    with pytest.raises(PrivacyRefused):
        vehicle(path)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"extra": 1},
        {"events": [1]},
        {"events": 5},
        {"events": {"a": 1}},
        {"trainings": []},
        {"trainings": {"t": 1}},
        {"trainings": {"t": {"event": {}, "separation": 1, "most": 1, "last": 0, "times": 1}}},
        {"moments": "ab"},
        {"moments": [1]},
    ],
)
def test_what_cannot_be_is_refused_with_the_right_hash_too(path, change):
    take_part(part(), vehicle(path))
    document = {**json.loads(path.read_bytes()), **change}
    document.pop("hash")
    digest = hashlib.sha256(canonical(document)).hexdigest()
    path.write_bytes(canonical({**document, "hash": digest}))
    with pytest.raises(PrivacyRefused, match="does not hold"):
        vehicle(path)


def test_another_s_odometer_is_not_taken(path):
    take_part(part(), vehicle(path))
    with pytest.raises(UsageError, match="counts for vehicle-7"):
        FileOdometer(path, "vehicle-8", CAP)
    with pytest.raises(UsageError):
        vehicle(path, relation="replace-one")


def test_no_amplification_that_only_the_server_could_vouch_for():
    one = Odometer("vehicle-7", CAP)
    take_part(Part(gaussian(sampling_rate=0.01)), one)
    take_part(Part(gaussian(sampling_rate=0.01, count=2), own_sampling=True), one)
    assert one.reading().events == {gaussian(): 1, gaussian(sampling_rate=0.01): 2}


def test_twice_in_one_sum_is_refused():
    one = Odometer("vehicle-7", Cap(1e6, DELTA, count))
    take_part(part(moment="run/1"), one)
    with pytest.raises(PrivacyRefused, match="twice in one sum"):
        take_part(part(moment="run/1"), one)
    with pytest.raises(PrivacyRefused, match="printable"):
        take_part(part(moment="a\nb"), one)
    for i in range(2, REMEMBERED + 5):
        take_part(part(moment=f"run/{i}"), one)
    assert len(one.reading().moments) == REMEMBERED


def test_an_owner_takes_part_once_a_sum_through_whichever_vehicle(path, tmp_path):
    owner = FileOdometer(tmp_path / "owner", "owner-1", CAP, unit="owner")
    one, two = (Odometer(name, CAP) for name in ("vehicle-1", "vehicle-2"))
    with pytest.raises(PrivacyRefused, match="named sums only"):
        take_part(part(), one, owner)
    take_part(part(moment="run/1"), one, owner)
    with pytest.raises(PrivacyRefused, match="twice in one sum"):
        take_part(part(moment="run/1"), two, owner)
    assert two.spent() == 0  # all of them count, or none
    take_part(part(moment="run/2"), two, owner)
    take_part(part(moment="run/3"), two, owner)
    with pytest.raises(PrivacyRefused, match="owner owner-1"):
        take_part(part(moment="run/4"), one, owner)
    assert one.spent() == 1.0


def test_a_matrix_training_is_counted_once_and_its_schema_kept():
    one = Odometer("vehicle-7", CAP)
    take_part(matrix(0), one)
    for early in (0, 2, -3):
        with pytest.raises(PrivacyRefused, match="schema"):
            take_part(matrix(early), one)
    take_part(matrix(3), one)
    with pytest.raises(PrivacyRefused, match="at most 2 times"):
        take_part(matrix(6), one)
    assert one.spent() == 1.0
    take_part(matrix(6, training="u"), one)
    assert one.spent() == 2.0


@pytest.mark.parametrize("other", [{"separation": 1}, {"most": 9}, {"event": Event("matrix", 0.1)}])
def test_a_training_does_not_change_under_way(other):
    one = Odometer("vehicle-7", CAP)
    take_part(matrix(0), one)
    with pytest.raises(PrivacyRefused, match="other noise or another schema"):
        take_part(replace(matrix(9), **other), one)


@pytest.mark.parametrize("bad", [{"training": ""}, {"separation": 0}, {"most": 0}, {"round": -1}])
def test_a_training_without_a_schema_is_refused(bad):
    with pytest.raises(PrivacyRefused, match="schema"):
        take_part(replace(matrix(0), **bad), Odometer("v", CAP))


def test_a_disk_that_refuses_means_no_part(path, monkeypatch):
    take_part(part(), vehicle(path))
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(RunError, match="no space left"):
            take_part(part(), vehicle(path))
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.glob("*.tmp")] == []


def test_it_is_on_disk_before_the_part_begins(path, monkeypatch):
    order = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (real(descriptor), order.append(path.exists())))
    take_part(part(), vehicle(path))
    assert order == [False, True]  # the new file before it is renamed, the folder after


def test_no_number_is_over_the_cap():
    for bad in (math.nan, math.inf):
        with pytest.raises(PrivacyRefused):
            take_part(part(), Odometer("v", Cap(3.0, DELTA, lambda *_, bad=bad: bad)))
    for epsilon, delta in ((0, 1e-5), (math.nan, 1e-5), (1, 1)):
        with pytest.raises(ValueError, match="cap"):
            Cap(epsilon, delta)
    with pytest.raises(ValueError, match="counts nothing known"):
        Odometer("", CAP)


def test_the_real_accountant():
    """z = 5, 25 times: 4.37718; replace-one doubles the sensitivity."""
    one = Odometer("vehicle-7", Cap(4.3772, DELTA))
    for _ in range(25):
        take_part(part(5.0), one)
    assert one.spent() == pytest.approx(4.37718, abs=1e-4)
    with pytest.raises(PrivacyRefused):
        take_part(part(5.0), one)
    assert Odometer("v", Cap(1.0, DELTA)).spent() == 0
    other = Odometer("vehicle-7", Cap(20.0, DELTA), relation="replace-one")
    take_part(Part(gaussian(2.0, count=10)), other)
    assert other.spent() == pytest.approx(17.857, abs=1e-3)
