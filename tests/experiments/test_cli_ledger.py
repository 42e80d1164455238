"""`carpool privacy ledger`: shows, checks and computes anew, on a machine that has the ledger alone."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from carpool.experiments import cli, cli_common
from carpool.privacy.dp.events import Event
from carpool.privacy.dp.ledgerfile import beside
from tests.privacy.dp.ledgers import FLEET, HEADER, MATRIX, digest, gaussian, opened, release


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    cli_common.out.cache_clear()  # a console keeps the width that it began with

    def call(*arguments):
        code = cli.run(["privacy", "ledger", *arguments])
        told = capsys.readouterr()
        return code, told.out, told.err

    yield call
    cli_common.out.cache_clear()


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = Path("runs/first-1a2b/ledger.jsonl")
    with opened(place) as ledger:
        one = ledger.charge(release(0, gaussian(5.0), noise_from="vehicles"))
        ledger.realised(one, 4.0, 14)
        ledger.publish(one, digest("a"))
        ledger.void(ledger.charge(release(1, gaussian(5.0))), "killed")
        ledger.charge(release(2, Event("gaussian", 5.0, count=23), what="metrics"))
    return place


@pytest.mark.parametrize("target", ["first", "first-1a2b", "runs/first-1a2b", "runs/first-1a2b/ledger.jsonl"])
def test_a_sound_ledger_by_any_of_its_names(run, path, target):
    code, out, err = run(target)
    assert code == 0
    assert "holds: run first, 7 lines, 3 releases charged" in out
    for cell in ("5, real 4", "14", "published", "void: killed", "open", "metrics", "model sum"):
        assert cell in out
    assert re.search(r"epsilon 4\.433\d+ at delta 1e-05, per vehicle, zero-out, by accountant closed", out)
    assert json.loads(beside(path).read_bytes())["hash"] in out
    assert "NOT PRIVATE" not in out + err


def test_the_file_alone_is_enough(run, path):
    shutil.copy(path, "alone")
    code, out, _ = run("alone", "--json")
    assert code == 0
    found, whole = json.loads(out), json.loads(run("first", "--json")[1])
    assert found["head"]["file"] == "missing"
    assert "lines are missing at the end" in found["warnings"][0]
    for key in ("epsilon", "accountant", "releases", "delta", "relation", "unit", "private", "lines"):
        assert found[key] == whole[key]
    assert found["epsilon"] == pytest.approx(4.43395, abs=1e-4)  # 24 at z = 5 and one at z = 4
    assert [one["noise"] for one in found["releases"]] == [4.0, 5.0, 5.0]
    assert found["releases"][0]["published"] == {"0": digest("a")}
    assert found["releases"][0]["event"]["noise_multiplier"] == 5.0


def test_the_last_ones(run, path):
    out = run("first", "--last", "1")[1]
    assert "the last 1 of 3 releases" in out
    assert "void" not in out
    assert "epsilon 4.4" in out  # of all


def test_not_private_is_said_loudly(run, path):
    with opened(path) as ledger:
        ledger.charge(release(3, private=False))
    code, out, err = run("first")
    assert code == 0
    assert out.startswith("NOT PRIVATE: noise came from a seeded generator")
    assert "SEEDED" in out
    assert "NOT PRIVATE" in err
    assert json.loads(run("first", "--json")[1])["private"] is False


def test_a_fleet_tells_its_runs_apart(run, path):
    with opened(Path("fleet/ledger.jsonl"), FLEET) as ledger:
        ledger.charge(release(0, MATRIX, run="one", mechanism="matrix", releases=9, separation=3, most=3))
        ledger.charge(release(0, gaussian(5.0), run="two"))
        ledger.publish(1, digest("a"), 4)
    code, out, _ = run("fleet")
    assert code == 0
    assert "fleet north" in out
    assert "3 times, 3 apart" in out
    assert "1 of 9 published" in out
    runs = json.loads(run("fleet", "--json")[1])
    assert list(runs["runs"]) == ["one", "two"]
    assert runs["epsilon"] > max(runs["runs"].values())


def test_noise_of_zero_is_infinite_and_json_all_the_same(run, path):
    with opened(path) as ledger:
        ledger.charge(release(3, gaussian(0.0)))
    code, out, err = run("first", "--json")
    assert (code, json.loads(out)["epsilon"], err) == (0, None, "")
    assert "epsilon inf" in run("first")[1]


def test_damage_ends_with_3(run, path):
    path.write_bytes(path.read_bytes().replace(b'"survived":14', b'"survived":15'))
    code, out, err = run("first")
    assert (code, out) == (3, "")
    assert "line 3 of runs/first-1a2b/ledger.jsonl does not hold" in err
    assert err.count("\n") == 1


def test_a_lost_end_ends_with_3(run, path):
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    code, _, err = run("first", "--json")
    assert code == 3
    assert "lost its end" in err


def test_a_torn_end_is_told(run, path):
    path.write_bytes(path.read_bytes() + b'{"at":')
    code, _, err = run("first")
    assert code == 0
    assert "6 bytes at the end" in err


@pytest.mark.parametrize("target", ["second", "nowhere/ledger.jsonl", "", "plain", "empty"])
def test_none_there_ends_with_1(run, path, target):
    Path("runs/plain").mkdir()
    Path("empty").touch()
    code, out, err = run(target)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_one_ends_with_1(run, path):
    path.chmod(0)
    assert run("first")[0] == 1


def test_an_event_of_a_newer_carpool_ends_with_3(run, path, tmp_path):
    path.write_bytes(path.read_bytes().replace(b'"version":1', b'"version":2'))
    assert run("first")[0] == 3


def test_nothing_charged_yet(run, path):
    with opened(Path("new/ledger.jsonl"), replace(HEADER, name="new")):
        pass
    code, out, _ = run("new")
    assert code == 0
    assert "0 releases charged" in out
    assert "epsilon 0 at" in out


def test_help_has_examples(run):
    code, out, _ = run("--help")
    assert code == 0
    assert "carpool privacy ledger" in out
    assert "--json" in out
