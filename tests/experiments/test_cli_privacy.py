"""`carpool privacy epsilon` and `calibrate`: the numbers, the keys, what they say and what they refuse."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest

from carpool.experiments import cli
from carpool.experiments.cli_privacy import rounded
from carpool.privacy.dp.accounting import epsilon
from carpool.privacy.dp.events import Event

KEYS = ["epsilon", "delta", "noise_multiplier", "rounds", "sampling_rate", "relation", "accountant"]


@pytest.fixture
def run(capsys):
    def call(*arguments):
        code = cli.run(["privacy", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, " ".join(out.split()), err

    return call


def document(run, *arguments):
    code, out, err = run(*arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


@pytest.mark.slow
def test_epsilon_with_sampling(run):
    options = ("--noise-multiplier", 1, "--rounds", 1000, "--sampling-rate", 0.01, "--delta", "1e-5")
    found = document(run, "epsilon", *options)
    assert list(found) == KEYS
    assert found["epsilon"] == 1.828
    assert [found[key] for key in KEYS[1:]] == [1e-5, 1.0, 1000, 0.01, "zero-out", "pld"]
    assert document(run, "epsilon", *options, "--accountant", "rdp")["epsilon"] == 2.101
    code, out, err = run("epsilon", *options)
    assert code == 0
    assert "all 1000 released models" in out
    assert "at most 6.22 times likelier than had its data been blank" in out
    assert "with the Poisson selector alone" in out


def test_epsilon_of_a_replacement(run):
    found = document(run, "epsilon", "--relation", "replace-one", "--noise-multiplier", 2, "--rounds", 10)
    assert (found["epsilon"], found["accountant"]) == (17.857, "closed")
    _, out, _ = run("epsilon", "--relation", "replace-one", "--noise-multiplier", 2, "--rounds", 10)
    assert "had its data been any other data, which is hardly a promise" in out
    assert "Poisson" not in out


def test_calibrate(run):
    found = document(run, "calibrate", "--epsilon", 8, "--delta", "1e-5", "--rounds", 100)
    assert list(found) == KEYS
    assert found["noise_multiplier"] == pytest.approx(6.0022907, abs=1e-6)
    event = Event("gaussian", found["noise_multiplier"], count=100)
    assert 8 * (1 - 1e-6) <= epsilon((event,), 1e-5, "zero-out").epsilon <= 8
    assert found["epsilon"] == 8.0


def test_what_a_person_copies_is_enough_noise(run):
    for target in (1, 3, 8, 20):
        exact = document(run, "calibrate", "--epsilon", target, "--rounds", 100)["noise_multiplier"]
        _, out, _ = run("calibrate", "--epsilon", target, "--rounds", 100)
        shown = float(out.split("noise multiplier │ ")[1].split()[0])
        assert exact <= shown <= exact * (1 + 1e-5)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1.8282436, 1.828), (17.8565868, 17.857), (0.018282, 0.01828), (0.0, 0.0), (1000.0, 1000.0)],
)
def test_rounding(value, shown):
    assert rounded(value) == shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["epsilon"], "missing option '--noise-multiplier'"),
        (["epsilon", "--noise-multiplier", "0"], "--noise-multiplier is 0; use a number above 0"),
        (["epsilon", "--noise-multiplier", "-1"], "--noise-multiplier is -1; use"),
        (["epsilon", "--noise-multiplier", "nan"], "--noise-multiplier is nan; use"),
        (["epsilon", "--noise-multiplier", "inf"], "--noise-multiplier is inf; use"),
        (["epsilon", "--noise-multiplier", "1e-300"], "no finite epsilon; use a larger one"),
        (["epsilon", "--noise-multiplier", "x"], "not a valid float"),
        (["epsilon", "--noise-multiplier", "1", "--rounds", "0"], "--rounds is 0; use 1 to"),
        (
            ["epsilon", "--noise-multiplier", "1", "--delta", "1"],
            "--delta is 1; use a number above 0 and below 1",
        ),
        (["epsilon", "--noise-multiplier", "1", "--delta", "nan"], "--delta is nan; use"),
        (["epsilon", "--noise-multiplier", "1", "--sampling-rate", "1.5"], "--sampling-rate is 1.5; use"),
        (["epsilon", "--noise-multiplier", "1", "--sampling-rate", "0"], "--sampling-rate is 0; use"),
        (
            ["epsilon", "--noise-multiplier", "1", "--relation", "swap"],
            "'zero-out', 'add-remove', 'replace-one'",
        ),
        (["epsilon", "--noise-multiplier", "1", "--accountant", "gdp"], "'auto', 'closed', 'pld', 'rdp'"),
        (
            ["epsilon", "--noise-multiplier", "1", "--sampling-rate", "0.1", "--accountant", "closed"],
            "use --accountant auto",
        ),
        (["calibrate"], "missing option '--epsilon'"),
        (["calibrate", "--epsilon", "0"], "--epsilon is 0; use a number above 0 and up to 1000"),
        (["calibrate", "--epsilon", "inf"], "--epsilon is inf; use"),
        (["calibrate", "--epsilon", "1e9"], "--epsilon is 1e+09; use"),
        (["calibrate", "--epsilon", "8", "--delta", "0"], "--delta is 0; use"),
    ],
)
def test_what_cannot_be_meant_is_refused(run, arguments, said):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["epsilon", "calibrate"])
def test_help_has_examples(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"carpool privacy {command} --" in out


@pytest.mark.slow
def test_neither_torch_nor_dp_accounting_is_imported_without_need():
    code = (
        "import sys; from carpool.experiments import cli; "
        "code = cli.run(['privacy', 'calibrate', '--epsilon', '8', '--json']); "
        "heavy = {'torch', 'flwr', 'matplotlib', 'dp_accounting'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert math.isclose(json.loads(done.stdout)["epsilon"], 8.0)
