import io
import json
import math
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from carpool.experiments import show
from carpool.experiments.results import clean, duration, find_run, percent, read_run, size, sparkline
from carpool.privacy.errors import RunError, UsageError


def write_run(folder: Path, *, done: int = 4, planned: int = 4, name: str = "quickstart") -> Path:
    folder.mkdir(parents=True)
    left = {
        "before_training": 1,
        "during_training": 3,
        "before_upload": 0,
        "during_upload": 2,
        "after_upload": 1,
    }
    rounds = [
        {
            "round": index, "asked": 30, "replied": 23, "dropped": 7, "void": index == 2, "refused": 0,
            "loss": 1.0 / index, "accuracy": 0.5 + index / 100 if index > 1 else None, "seconds": 2.5,
            "fleet_seconds": 600.0, "bytes_up": 1_000_000, "bytes_down": 2_000_000, "epsilon": None,
            "left": left, "targets": None,
        }
        for index in range(1, done + 1)
    ]  # fmt: skip
    (folder / "config.toml").write_text(
        f"[experiment]\nname = {json.dumps(name)}\nseed = 7\nrounds = {planned}\n"
        '[privacy]\nchannel = "plain"\n'
    )
    (folder / "rounds.jsonl").write_text("".join(json.dumps(record) + "\n" for record in rounds))
    if done >= planned:
        result = {
            "experiment": name, "engine": "inline", "seed": 7, "strategy": "fedavg", "vehicles": 100,
            "rounds": rounds, "final": {"loss": 0.25, "accuracy": 0.54},
            "totals": {"seconds": 10.0, "bytes_up": 4_000_000, "bytes_down": 8_000_000, "energy_wh": None},
        }  # fmt: skip
        (folder / "result.json").write_text(json.dumps(result))
        (folder / "report.html").write_text("<!doctype html>")
    return folder


def shown(folder: Path, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(show.screen(read_run(folder), **options))
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def invoke(*arguments: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # typer 0.20 uses names that click will drop
        import typer
        from typer.testing import CliRunner

        from carpool.experiments import cli_results

        app = typer.Typer()
        cli_results.register(app)
        return CliRunner().invoke(app, list(arguments))


def test_a_complete_run(tmp_path: Path) -> None:
    text = shown(write_run(tmp_path / "a"))
    assert "complete" in text
    assert "not complete" not in text
    assert "4 of 4, 1 of them void" in text
    assert "54.0 %  (best 54.0 % in round 4)" in text
    assert "Lost: 28 of 120 asked (23.3 %)" in text
    assert "left during training" in text
    assert "simulator only" in text
    assert "report.html" in text
    assert "--resume" not in text
    assert "the server saw every update in the clear" in text


def test_a_killed_run_says_how_to_go_on(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", done=2)
    with (folder / "rounds.jsonl").open("a") as file:
        file.write('{"round": 3, "ask')  # the kill came in the middle of a line
    text = shown(folder)
    assert "not complete" in text
    assert "2 of 4" in text
    assert f"carpool run --resume {folder}" in text.replace("\n", "")
    found = show.document(read_run(folder))
    assert found["resume"] == f"carpool run --resume {folder}"
    assert found["totals"] == {"seconds": 5.0, "bytes_up": 2e6, "bytes_down": 4e6}
    assert found["final"] == {"accuracy": 0.52, "loss": 0.5}
    assert found["report"] is None


def test_a_run_that_wrote_its_result_early_is_not_complete(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", done=3)
    (folder / "result.json").write_text('{"experiment": "quickstart"}')
    assert not read_run(folder).complete
    assert read_run(folder).resumable


def test_a_run_before_its_first_round(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", done=0)
    assert "0 of 4" in shown(folder)
    assert show.document(read_run(folder))["best"] is None


def test_names_cannot_steer_the_terminal(tmp_path: Path) -> None:
    text = shown(write_run(tmp_path / "a", name="\x1b[2J[red]x[/red]\u202e"))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[red]x[/red]" in text


def test_json_is_one_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "quickstart-1a2b")
    result = invoke("show", "quick", "--json", "--rounds", "2")
    found = json.loads(result.stdout)
    assert found["run"] == "quickstart-1a2b"
    assert found["complete"] is True
    assert [record["round"] for record in found["rounds"]] == [3, 4]
    assert found["left"]["during_training"] == 12
    assert found["void_rounds"] == 1


def test_nan_in_a_round_is_null_in_json(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    with (folder / "rounds.jsonl").open("a") as file:
        file.write('{"round": 5, "asked": 1, "replied": 1, "loss": NaN}\n')
    found = show.document(read_run(folder))
    assert json.loads(json.dumps(found, allow_nan=False))["rounds"][-1]["loss"] is None


def test_a_run_is_found_by_folder_name_or_start(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    for name in ("gtsrb-11", "gtsrb-12", "quickstart-1a"):
        write_run(root / name)
    assert find_run(str(root / "gtsrb-11"), root) == root / "gtsrb-11"
    assert find_run("gtsrb-12", root) == root / "gtsrb-12"
    assert find_run("qu", root) == root / "quickstart-1a"
    with pytest.raises(UsageError, match=r"2 runs start with 'gtsrb': gtsrb-11, gtsrb-12;"):
        find_run("gtsrb", root)
    with pytest.raises(UsageError, match=r"no run 'quikstart' in .*; nearest: quickstart-1a"):
        find_run("quikstart", root)
    with pytest.raises(UsageError, match=r"there are no runs in .*; start one with carpool run FILE"):
        find_run("x", tmp_path / "none")


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is not a run's folder: it has no config\.toml"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [("config.toml", "x = ["), ("result.json", "{"), ("result.json", "[]"),
     ("rounds.jsonl", "{}\n"), ("rounds.jsonl", "[1]\n")],
)  # fmt: skip
def test_a_damaged_file_is_one_sentence(tmp_path: Path, file: str, content: str) -> None:
    folder = write_run(tmp_path / "a")
    (folder / file).write_text(content)
    with pytest.raises(RunError, match=f"{file} is damaged"):
        read_run(folder)


def test_a_config_of_bytes_that_are_no_text_is_one_sentence(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    (folder / "config.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(RunError, match=r"config.toml is damaged"):
        read_run(folder)


@settings(max_examples=30)
@given(st.text(max_size=40))
def test_clean_text_prints_on_one_line(text: str) -> None:
    assert clean(text).isprintable()
    assert len(clean(text)) == len(text)


@settings(max_examples=30)
@given(st.lists(st.floats(-1e6, 1e6), max_size=99), st.integers(1, 50))
def test_a_sparkline_fits_its_width(values: list[float], width: int) -> None:
    assert len(sparkline(values, width)) <= width
    assert bool(sparkline(values, width)) == bool(values)


@given(st.integers(0, 10**15))
def test_sizes_and_durations_are_short(value: int) -> None:
    assert len(size(value)) <= 10
    assert "e+" not in size(value)
    assert not duration(value % 10**8).startswith("0 ")


def test_figures_for_people() -> None:
    assert size(999_900) == "1 MB"
    assert duration(59.97) == "1 min"
    assert duration(3600) == "1 h"
    assert percent(math.nan) == "–"


@pytest.mark.slow
def test_looking_at_runs_loads_neither_torch_nor_matplotlib() -> None:
    code = "import sys, carpool.experiments.cli_results, carpool.experiments.report as r; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "carpool.experiments.plots" in found.stdout.split()
    assert not {"torch", "matplotlib", "flwr"} & set(found.stdout.split())


@pytest.mark.parametrize(
    ("settings_", "said"),
    [
        ('[train]\nbatching = "stacked"\n', "stacked (a cohort as one computation), 1 process"),
        ('[train]\nbatching = "sequential"\n', "sequential (one vehicle after another), 1 process"),
        ("", None),
    ],
)
def test_the_path_of_training_is_shown(tmp_path: Path, settings_: str, said: str | None) -> None:
    folder = write_run(tmp_path / "a")
    config = folder / "config.toml"
    if said is not None:
        config.write_text(config.read_text().replace("rounds = 4\n", "rounds = 4\nworkers = 1\n") + settings_)
    shown_ = shown(folder)
    assert ("training" in shown_.split("Rounds")[0]) is (said is not None)
    assert said is None or said in shown_
    found = show.document(read_run(folder))
    assert (found["workers"], found["profile"]) == (None if said is None else 1, None)


def test_what_the_server_saw_under_secure_aggregation(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    config = folder / "config.toml"
    config.write_text(config.read_text().replace('"plain"', '"secagg"'))
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    for line in lines:
        sums = (
            [] if line["void"] else [{"vehicles": 13, "released": True}, {"vehicles": 12, "released": True}]
        )
        line["secagg"] = {"protocol": "secagg+", "cryptography": "full", "n_min": 12, "sums": sums}
        line["secagg"] |= {"why": "9 masked vectors came" if line["void"] else None, "steps": {"asked": 30}}
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = shown(folder)
    assert "secagg+: The server saw 6 sums, each over at least 12 vehicles, and no single update." in text
    assert "Small: a sum may be over as few as 12" in text
    assert "round 2 was void: 9 masked vectors came" in text
    assert "in sums" in text
    assert "13+12" in text
    assert "none in this folder" in text
    found = show.document(read_run(folder))
    assert (found["secagg"]["sums"], found["secagg"]["smallest"], found["log"]) == (6, 12, None)
    assert found["secagg"]["void"] == [{"round": 2, "why": "9 masked vectors came"}]
    json.dumps(found, allow_nan=False)
    (folder / "log.jsonl").write_text("no log\n")
    assert "damaged: " in shown(folder)
    assert "in sums" not in shown(write_run(tmp_path / "plain"))
