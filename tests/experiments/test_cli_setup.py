import json
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import typer

from carpool.experiments import cli, doctor
from carpool.experiments.cli_common import emit
from carpool.experiments.doctor import Check
from carpool.privacy.errors import ConfigError, PrivacyRefused, RunError

CARPOOL = [sys.executable, "-c", "from carpool.experiments.cli import main; main()"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(cli.TRACEBACK, raising=False)


def test_init_then_validate(capsys):
    assert cli.run(["init", "first"]) == 0
    told = capsys.readouterr()
    assert told.out == "wrote first/experiment.toml\nnext: carpool run first/experiment.toml\n"
    assert told.err == ""
    assert 'name = "first" ' in Path("first/experiment.toml").read_text()
    assert cli.run(["validate", "first/experiment.toml"]) == 0
    assert "is valid: first, 30 rounds of fedavg on inline, 20 of 100" in capsys.readouterr().out


def test_init_never_overwrites_by_itself(capsys):
    assert cli.run(["init", "a b!", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == {
        "file": "a b!/experiment.toml",
        "name": "a-b",
        "next": "carpool run 'a b!/experiment.toml'",
    }
    Path("a b!/experiment.toml").write_text("mine")
    assert cli.run(["init", "a b!"]) == 2
    assert "overwrite it with --force" in capsys.readouterr().err
    assert Path("a b!/experiment.toml").read_text() == "mine"
    assert cli.run(["init", "a b!", "--force", "--name", "night"]) == 0
    assert cli.run(["init", ".", "--name", "no/slash"]) == 2
    Path("file").touch()
    assert cli.run(["init", "file"]) == 2
    assert "file is a file, not a folder" in capsys.readouterr().err


def test_init_in_a_folder_with_a_strange_name():
    assert cli.run(["init", "a\nb = 3 {name} '", "--name", "x"]) == 0
    (folder,) = Path().iterdir()
    assert cli.run(["validate", str(folder / "experiment.toml")]) == 0


def test_init_where_nothing_can_be_written(capsys):
    assert cli.run(["init", "/proc/nowhere"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: cannot write /proc/nowhere/experiment.toml: ")
    assert told.count("\n") == 1


def test_faults_go_to_standard_error_a_line_each(capsys):
    Path("e.toml").write_text('[experiment]\nname = "x"\nrounds = 0\nsede = 3\n')
    assert cli.run(["validate", "e.toml"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "error: e.toml:3: experiment.rounds is 0; it must be at least 1",
        "error: e.toml:4: unknown key experiment.sede; did you mean experiment.seed?",
    ]
    assert cli.run(["validate", "e.toml", "--json", "--set", "experiment.rounds=1"]) == 2
    told = capsys.readouterr()
    document = json.loads(told.out)
    assert document["valid"] is False
    assert [f"error: {line}" for line in document["problems"]] == told.err.splitlines()
    assert len(document["problems"]) == 1


def test_validate_json_is_one_document(capsys):
    Path("e.toml").write_text('[experiment]\nname = "x"\n')
    assert cli.run(["validate", "e.toml", "--json", "--set", "train.lr=0.5"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["valid"] is True
    assert document["config"]["train"]["lr"] == 0.5
    with Path("e.toml").open("a") as file:
        file.write('[sweep]\n"train.lr" = [0.1, 0.2]\n')
    assert cli.run(["validate", "e.toml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["points"] == [{"train.lr": 0.1}, {"train.lr": 0.2}]
    assert cli.run(["validate", "e.toml"]) == 0
    assert "2 points; next: carpool sweep e.toml" in capsys.readouterr().out


def test_wrong_usage_is_one_sentence_and_2(capsys):
    for arguments, sentence in {
        ("validat", "e"): "error: no such command 'validat'. Did you mean 'validate'?; see carpool --help\n",
        ("validate",): "error: missing argument 'FILE'; see carpool validate --help\n",
        ("init", "x", "--nam", "y"): "error: no such option '--nam'",
    }.items():
        assert cli.run(arguments) == 2
        told = capsys.readouterr()
        assert told.err.lower().startswith(sentence.lower())
        assert told.err.count("\n") == 1
        assert told.out == ""


@pytest.mark.slow
def test_version_and_help(capsys):
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"carpool {version('carpool')}\n"
    for line in ("", "init", "validate", "doctor", "data", "data info", "data preview"):
        arguments = line.split()
        assert cli.run([*arguments, "--help"]) == 0
        told = capsys.readouterr().out
        assert "Usage:" in told
        assert "[cyan]" not in told
        assert line in ("", "data") or "Examples:" in told


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (RunError("the disk is full; free some space"), 1, "error: the disk is full; free some space\n"),
        (ConfigError(["one", "two"]), 2, "error: one\nerror: two\n"),
        (PrivacyRefused("spent"), 3, "error: spent\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (typer.Abort(), 130, "error: interrupted\n"),
        (typer.Exit(3), 3, ""),
        (
            ZeroDivisionError("a\nb"),
            1,
            "error: internal error (ZeroDivisionError: a b); "
            "set CARPOOL_TRACEBACK=1 to see where, and please report it\n",
        ),
        (BrokenPipeError(32, "Broken pipe"), 1, ""),
    ],
)
def test_every_ending_has_its_code(monkeypatch, capsys, error, code, told):
    def fail() -> None:
        raise error

    app = typer.Typer()
    app.command()(fail)
    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # typer replaces it after a broken pipe
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    assert cli.run([]) == code
    assert capsys.readouterr().err == told


def test_the_traceback_is_there_when_asked_for(monkeypatch, capsys):
    def fail() -> None:
        raise ZeroDivisionError

    app = typer.Typer()
    app.command()(fail)
    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setenv(cli.TRACEBACK, "1")
    assert cli.run([]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_doctor_fails_where_something_is_bad(monkeypatch, capsys):
    found = [Check("python", "3.11"), Check("memory", "1 MiB", "bad", "buy some")]
    monkeypatch.setattr(doctor, "report", lambda: found)
    assert cli.run(["doctor", "--json"]) == 1
    told = capsys.readouterr()
    document = json.loads(told.out)
    assert document["ok"] is False
    assert document["checks"][1] == {"name": "memory", "value": "1 MiB", "status": "bad", "fix": "buy some"}
    assert told.err == "error: memory is 1 MiB; buy some\n"
    found.pop()
    assert cli.run(["doctor"]) == 0
    assert "python" in capsys.readouterr().out


def test_json_has_no_nan(capsys):
    with pytest.raises(ValueError):
        emit({"x": float("nan")})
    emit({"path": Path("a")})
    assert json.loads(capsys.readouterr().out) == {"path": "a"}


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CARPOOL, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_exit_codes_of_the_process():
    assert process("init", "first").returncode == 0
    assert process("validate", "first/experiment.toml").returncode == 0
    done = process("validate", "first/experiment.toml", "--set", "train.lr=0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --set: train.lr is 0; it must be above 0\n"
    assert process("nonsense").returncode == 2
    assert process().returncode == 2


@pytest.mark.slow
def test_a_reader_that_goes_away_hears_no_complaint():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*CARPOOL, "--version"], stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert done.stderr == b""
    assert done.returncode in (0, 1)


@pytest.mark.slow
def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys; from carpool.experiments import cli; code = cli.run(['--help']); "
        "heavy = {'torch', 'flwr', 'matplotlib', 'pydantic', 'numpy'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - start < 5.0  # 0.2 s on a quiet machine
