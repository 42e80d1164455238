"""A run's log says each thing before the server can know what suits it, once, and goes on after a kill."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from carpool.experiments import cli
from carpool.experiments.logfacts import contradictions, log_head
from carpool.experiments.runlog import RunLog, word
from carpool.experiments.simfleet import SimulatedFleet
from carpool.privacy import beacon, logwriter, transparency
from carpool.privacy.errors import PrivacyRefused, RoundError, RunError, VehicleError
from carpool.privacy.logaudit import breaches, differences, unfinished
from carpool.privacy.logentries import pseudonyms
from carpool.privacy.secagg.announcement import NO_COMMITTEE, Announcement, Protocol, announce
from carpool.privacy.secagg.committee import Committee, designated

NOW = 1_800_000_000
LIST, SAID = b"l" * 32, b"t" * 32


class Clock:
    def __init__(self) -> None:
        self.seconds = float(NOW)

    def __call__(self) -> float:
        self.seconds += 1
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def run(tmp_path: Path, clock: Clock):
    folder = tmp_path / "run"
    folder.mkdir()
    return folder, SimulatedFleet(folder, clock)


def opened(run, clock: Clock) -> RunLog:
    folder, fleet = run
    return RunLog(folder / "log.jsonl", "my run", fleet, clock)


def announced(run, name: int, *, n_min: int = 3, committee: bytes = NO_COMMITTEE) -> Announcement:
    aggregator = run[1].aggregator
    protocol = Protocol.SECAGG_PLUS if committee == NO_COMMITTEE else Protocol.ONE_SHOT
    plain = Announcement(
        protocol, bytes([name]) * 16, committee, 10, 32, 5, 9, n_min, 1, 0, NOW + 99, (b"k" * 32,)
    )
    return announce(plain, aggregator.certificate, aggregator.key)


def whole_round(log: RunLog, run, name: int, vehicles=range(5), *, released: bool = True) -> bytes:
    one = announced(run, name)
    log.round(one, "secagg+")
    drawn = log.keys(one.round_id, 5, bytes([name]) * 32)
    log.participation(one.round_id, LIST, list(vehicles))
    log.transcript(one.round_id, SAID, released)
    return drawn


def kinds(folder: Path) -> list[str]:
    return [one["kind"] for one in transparency.verify(folder / "log.jsonl", None).entries]


def test_a_round_is_logged_step_by_step(run, clock):
    folder, fleet = run
    with opened(run, clock) as log:
        drawn = whole_round(log, run, 1)
    found = transparency.verify(folder / "log.jsonl", fleet.trust)
    assert kinds(folder) == ["begin", "round", "task", "keys", "participation", "transcript"]
    begun, counted = found.entries[1], found.entries[4]
    assert begun["announcement"] == announced(run, 1).digest.hex()
    assert (begun["n_min"], begun["committee"], begun["beacon"]) == (3, "", "")
    assert found.entries[2]["task"] == (b"k" * 32).hex()
    assert len(counted["vehicles"]) == 5
    assert len(drawn) == 32
    assert breaches(found.entries) == differences(found.entries) == unfinished(found.entries) == []


def test_the_beacon_comes_from_the_checkpoint_over_the_list(run, clock):
    with opened(run, clock) as log:
        one = announced(run, 1)
        log.round(one, "secagg+")
        before = beacon.for_round(one.round_id, log.checkpoint)
        drawn = log.keys(one.round_id, 5, LIST)
        assert drawn == beacon.for_round(one.round_id, log.checkpoint)
        assert drawn != before
        log.beacon_check(LIST, drawn)
        with pytest.raises(VehicleError, match="may have chosen it"):
            log.beacon_check(LIST, before)
        with pytest.raises(VehicleError, match="does not commit"):
            log.beacon_check(b"m" * 32, drawn)


def test_a_list_gets_one_beacon(run, clock):
    with opened(run, clock) as log:
        for name in (1, 2):
            log.round(announced(run, name), "secagg+")
        log.keys(bytes([1]) * 16, 5, LIST)
        for name in (1, 2):
            with pytest.raises(PrivacyRefused, match="no second one"):
                log.keys(bytes([name]) * 16, 5, LIST)


@pytest.mark.slow
def test_beacons_of_groups_are_all_good_at_once(run, clock):
    with opened(run, clock) as log:
        log.round(announced(run, 1), "secagg+")
        drawn = [log.keys(bytes([1]) * 16, 3, bytes([n]) * 32) for n in range(4)]
        for n, one in enumerate(drawn):
            log.beacon_check(bytes([n]) * 32, one)
        for n in range(4):
            log.participation(bytes([1]) * 16, LIST, range(3 * n, 3 * n + 3))
        log.transcript(bytes([1]) * 16, SAID, True)
    assert len(set(drawn)) == 4
    assert breaches(transparency.verify(run[0] / "log.jsonl", None).entries) == []


def test_sums_below_n_min_or_of_one_vehicle_twice_are_refused(run, clock):
    with opened(run, clock) as log:
        one = announced(run, 1)
        log.round(one, "secagg+")
        with pytest.raises(RoundError, match="counts 2 vehicles; n_min is 3"):
            log.participation(one.round_id, LIST, [1, 2, 2])
        log.participation(one.round_id, LIST, [1, 2, 3])
        with pytest.raises(RoundError, match="counts 1 vehicles in two sums"):
            log.participation(one.round_id, LIST, [3, 4, 5])
    assert kinds(run[0]).count("participation") == 1


@pytest.mark.parametrize(
    ("act", "told"),
    [
        (lambda log, one: log.round(one, "secagg+"), "is in the log already"),
        (lambda log, one: log.keys(one.round_id, 5, b"n" * 32), "has participation, transcript"),
        (lambda log, one: log.participation(one.round_id, LIST, [7, 8, 9]), "has transcript"),
        (lambda log, one: log.transcript(one.round_id, SAID, True), "has transcript"),
        (lambda log, one: log.keys(b"?" * 16, 5, LIST), "not announced"),
        (lambda log, one: log.participation(b"?" * 16, LIST, [7, 8, 9]), "not announced"),
        (lambda log, one: log.transcript(b"?" * 16, SAID, False), "not announced"),
    ],
)
@pytest.mark.parametrize("killed", [False, True])
def test_a_round_is_written_once_even_after_a_kill(run, clock, act, told, killed):
    log = opened(run, clock)
    one = announced(run, 1)
    whole_round(log, run, 1)
    if killed:
        log.close()
        log = opened(run, clock)
    size = log.checkpoint.size
    with log, pytest.raises(PrivacyRefused, match=told):
        act(log, one)
    assert log.checkpoint.size == size


def test_nothing_is_released_of_which_nobody_was_told(run, clock):
    with opened(run, clock) as log:
        one = announced(run, 1)
        log.round(one, "secagg+")
        with pytest.raises(PrivacyRefused, match="before the log says who is in its sum"):
            log.transcript(one.round_id, SAID, True)
        log.transcript(one.round_id, SAID, False)


@pytest.mark.slow
def test_a_kill_leaves_a_round_without_an_end_and_the_next_is_another(run, clock):
    folder, fleet = run
    with opened(run, clock) as log:
        whole_round(log, run, 1)
        log.round(announced(run, 2), "secagg+")
        log.keys(bytes([2]) * 16, 5, b"x" * 32)
        log.participation(bytes([2]) * 16, LIST, [1, 2, 3, 4])
    with (folder / "log.jsonl").open("ab") as file:
        file.write(b'{"at":18')
    (folder / "rounds.jsonl").write_text('{"round": 1}\n')
    with opened(run, clock) as log:
        with pytest.raises(RoundError, match="in two sums"):
            log.participation(bytes([2]) * 16, LIST, [4, 5, 6])
        whole_round(log, run, 3)
    found = transparency.verify(folder / "log.jsonl", fleet.trust)
    assert breaches(found.entries) == []
    assert "does not say whether a sum" in unfinished(found.entries)[0]
    names = [one["vehicles"] for one in found.entries if one["kind"] == "participation"]
    assert names[0] == names[2]  # the same pseudonyms as before


def test_the_secret_is_this_users_alone_and_not_in_the_log(run, clock):
    folder, _ = run
    with opened(run, clock) as log:
        whole_round(log, run, 1)
    path = folder / "keys" / "log.secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secret = bytes.fromhex(path.read_text().strip())
    assert secret.hex() not in (folder / "log.jsonl").read_text()
    counted = transparency.verify(folder / "log.jsonl", None).entries[4]
    assert counted["vehicles"] == pseudonyms(secret, range(5))
    path.chmod(0o644)
    with pytest.raises(PrivacyRefused, match="has mode 0644"):
        opened(run, clock)


def test_a_log_that_is_gone_or_anothers_is_not_begun_anew(run, clock):
    folder, _ = run
    with opened(run, clock) as log:
        whole_round(log, run, 1)
    (folder / "rounds.jsonl").write_text('{"round": 1}\n')
    kept = (folder / "log.jsonl").read_bytes()
    (folder / "log.jsonl").unlink()
    with pytest.raises(PrivacyRefused, match="is gone, and the run has rounds"):
        opened(run, clock)
    (folder / "log.jsonl").write_bytes(b"".join(kept.splitlines(keepends=True)[:2]))
    with pytest.raises(PrivacyRefused, match="its end was cut off"):
        opened(run, clock)
    (folder / "log.jsonl").write_bytes(kept)
    with pytest.raises(PrivacyRefused, match="is the log of my-run"):
        RunLog(folder / "log.jsonl", "another", run[1], clock)
    secret = folder / "keys" / "log.secret"
    secret.write_text("0" * 64 + "\n")
    with pytest.raises(PrivacyRefused, match="another log's"):
        opened(run, clock)


def test_one_process_writes(run, clock):
    with opened(run, clock), pytest.raises(RunError, match="another process"):
        opened(run, clock)
    opened(run, clock).close()


def test_a_kill_between_the_secret_and_the_log(run, clock, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(logwriter, "create", killed)
        with pytest.raises(KeyboardInterrupt):
            opened(run, clock)
    with opened(run, clock) as log:
        whole_round(log, run, 1)


@pytest.mark.slow
def test_a_long_run_outlives_its_certificate(run, clock):
    with opened(run, clock) as log:
        whole_round(log, run, 1)
        clock.seconds += 40 * 86400
        whole_round(log, run, 2)
    transparency.verify(run[0] / "log.jsonl", run[1].trust)


@pytest.mark.slow
def test_a_committees_beacon_follows_its_pool_and_stays(run, clock):
    nodes = list(range(10, 70))
    with opened(run, clock) as log:
        drawn = log.epoch(1, nodes)
        assert drawn == beacon.for_epoch(1, log.checkpoint)
        whole_round(log, run, 1)
        assert log.epoch(1, nodes) == drawn
        with pytest.raises(PrivacyRefused, match="pool of other nodes"):
            log.epoch(1, nodes[1:])
        assert log.epoch(2, nodes) != drawn
    with opened(run, clock) as log:
        assert log.epoch(1, nodes) == drawn
        with pytest.raises(PrivacyRefused, match="pool of other nodes"):
            log.pool(1, nodes[::-1])
    assert kinds(run[0]).count("pool") == 2


def test_vehicles_are_told_whether_a_round_is_in_the_log(run, clock):
    with opened(run, clock) as log:
        one, two = announced(run, 1), announced(run, 2)
        with pytest.raises(VehicleError, match="does not announce"):
            log.round_check(one)
        log.round(one, "secagg+")
        log.round_check(one)
        with pytest.raises(VehicleError, match="does not announce"):
            log.round_check(two)
        for odd in ({"n_min": 2}, {"tasks": (b"j" * 32,)}, {"most": 8}):
            with pytest.raises(VehicleError, match="in another form"):
                log.round_check(replace(one, **odd))
        log.round(two, "secagg+")
        log.transcript(one.round_id, SAID, released=False)
        log.round_check(two)
        log.round_check(one)  # who was told of a buffer may be late


def test_vehicles_are_told_whether_the_log_draws_a_committee(run, clock):
    """Of the members nothing is asked here: `Committee.check` draws them from pool and beacon."""
    sizes = designated(3, 0)

    def drawn(epoch: int, beacon_: bytes, pool=(5, 6, 7)) -> Committee:
        return Committee(epoch, sizes, tuple(pool), beacon_, ())

    with opened(run, clock) as log:
        with pytest.raises(VehicleError, match="does not commit to the pool of committee epoch 1"):
            log.committee_check(drawn(1, b"b" * 32))
        true = log.epoch(1, (5, 6, 7))
        for _ in range(2):
            log.committee_check(drawn(1, true))
        with pytest.raises(VehicleError, match="is not the log's"):
            log.committee_check(drawn(1, b"b" * 32))
        with pytest.raises(VehicleError, match="does not commit"):
            log.committee_check(drawn(1, true, (5, 6, 8)))
        with pytest.raises(VehicleError, match="does not commit"):
            log.committee_check(drawn(2, true))
        later = log.epoch(2, (5, 6, 7))
        log.committee_check(drawn(2, later))
        with pytest.raises(VehicleError, match="a later pool"):
            log.committee_check(drawn(1, true))


def test_a_committee_is_that_of_the_announcement(run, clock):
    with opened(run, clock) as log:
        log.round(announced(run, 1, committee=b"c" * 32), "one-shot", b"c" * 32)
        with pytest.raises(ValueError, match="not the one of the announcement"):
            log.round(announced(run, 2, committee=b"c" * 32), "one-shot", b"d" * 32)
    assert transparency.verify(run[0] / "log.jsonl", None).entries[1]["committee"] == (b"c" * 32).hex()


def test_a_name_becomes_a_word():
    assert word("a b\n") == "a-b-"
    assert word("") == "run"
    assert len(word("x" * 100)) == 64


# --- what an auditor does with the folder ---


def record(number: int, vehicles: int | None = 5, transcript: bytes = SAID) -> dict:
    there = vehicles is not None
    sums = [{"vehicles": vehicles or 1, "released": there, "why": None}]
    told = {"sums": sums, "released": there, "transcript": transcript.hex(), "passes": 1}
    return {"round": number, "secagg": told}


@pytest.fixture
def finished(run, clock, monkeypatch):
    folder, _ = run
    with opened(run, clock) as log:
        whole_round(log, run, 1)
    (folder / "rounds.jsonl").write_text(json.dumps(record(1)) + "\n")
    monkeypatch.chdir(folder.parent)
    return folder


@pytest.fixture
def call(capsys):
    def invoke(*arguments: str):
        code = cli.run(["log", *arguments])
        told = capsys.readouterr()
        return code, told.out, told.err

    return invoke


@pytest.mark.slow
def test_a_runs_folder_can_be_verified(finished, call):
    code, out, err = call("verify", "run")
    assert code == 0
    assert "run/log.jsonl holds: 6 entries" in out
    assert "certified by run/ca.pub" in out
    assert "1 announced, 1 sums counted, as the run's own rounds say" in out
    assert "smallest 5 vehicles in a sum, the least n_min is 3" in out
    assert "lay beside the log" in err
    told = json.loads(call("verify", "run", "--ca", "run/ca.pub", "--json")[1])
    assert told["rounds"] == {"announced": 1, "sums": 1, "smallest": 5, "n_min": 3}
    assert told["signer_checked"] is True
    assert len(told["warnings"]) == 1
    assert "6 of 6 entries" in call("show", "run")[1]
    Path("run/ca.pub").unlink()
    assert "who signed was not checked" in call("verify", "run")[2]


@pytest.mark.parametrize(
    ("one", "told"),
    [
        (record(1, 4), "has a sum over 4 vehicles; the log counted no such sum"),
        (record(1, None), "says the contrary, but by the log a sum was opened"),
        (record(1, 5, b"x" * 32), "a transcript that the log does not have"),
    ],
)
def test_a_run_that_says_otherwise_ends_with_3(finished, call, one, told):
    (finished / "rounds.jsonl").write_text(json.dumps(one) + "\n")
    code, out, err = call("verify", "run")
    assert (code, out) == (3, "")
    assert told in err


def test_a_cut_log_is_noticed_by_the_checkpoint_beside_it(finished, call):
    log = finished / "log.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:2]))
    code, _, err = call("verify", "run/log.jsonl")
    assert code == 3
    assert "its end was cut off" in err


def test_a_folder_without_a_log(tmp_path, call):
    code, _, err = call("verify", str(tmp_path))
    assert code == 2
    assert "has no log.jsonl" in err


def test_the_head_of_a_log(finished):
    head = log_head(finished)
    assert head is not None
    assert (head["entries"], head["fault"]) == (6, None)
    (finished / "log.jsonl.checkpoint").write_text("{}\n")
    damaged = log_head(finished)
    assert damaged is not None
    assert damaged["entries"] is None
    assert "no checkpoint" in damaged["fault"]
    assert log_head(finished / "keys") is None


def test_rounds_without_secure_aggregation_contradict_nothing():
    assert contradictions([{"round": 1}, {"round": 2, "secagg": None}], []) == []


def test_a_round_of_several_passes_has_the_sums_of_all():
    def logged(number: int, vehicles: int) -> list[dict]:
        name = f"{number:032x}"
        counted = {"kind": "participation", "round": name, "vehicles": list(range(vehicles))}
        return [
            counted,
            {"kind": "transcript", "round": name, "transcript": f"{number:064x}", "released": True},
        ]

    sums = [{"vehicles": n, "released": True} for n in (7, 6)]
    told = {"sums": sums, "released": True, "transcript": f"{2:064x}", "passes": 2}
    log = [*logged(1, 7), *logged(2, 6)]
    assert contradictions([{"round": 1, "secagg": told}], log) == []
    assert "over 7 vehicles" in contradictions([{"round": 1, "secagg": told | {"passes": 1}}], log)[0]
    assert "over 7 vehicles" in contradictions([{"round": 1, "secagg": told}], log[2:])[0]
    groups = told | {"protocol": "one-shot", "transcript": "f" * 64, "passes": 1}
    assert contradictions([{"round": 1, "secagg": groups}], log) == []
    assert "over 6 vehicles" in contradictions([{"round": 1, "secagg": groups}], log[:2])[0]
