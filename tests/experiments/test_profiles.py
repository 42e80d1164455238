"""A run's profile: its file, its table, and that nothing is left behind without --profile."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from carpool.experiments import cli, profiles
from carpool.experiments.config import Experiment
from carpool.experiments.load import load_experiment
from carpool.experiments.run import resume, start
from carpool.privacy.errors import RunError
from carpool.privacy.spans import CATEGORIES, Profile, profiling, span

Write = Callable[..., Path]


def experiment(**general: object) -> Experiment:
    return Experiment.model_validate({"experiment": {"name": "x", **general}})


def taken(**general: object) -> dict[str, object]:
    """A profile of 10 s: 6 of training, 3 of data inside it, 1 of the rest."""
    now = [0.0]
    profile = Profile(lambda: now[0], lambda: now[0] / 2)
    with profiling(profile):
        now[0] = 1
        with span("training"):
            with span("data"):
                now[0] = 4
            now[0] = 10
    return profiles.document(profile, experiment(**general), "cpu")


def text(found: dict[str, object]) -> str:
    file = io.StringIO()
    Console(file=file, width=80, color_system=None).print(profiles.screen(found))
    return file.getvalue()


def test_the_document_adds_up() -> None:
    found = taken()
    categories = found["categories"]
    assert isinstance(categories, dict)
    assert list(categories) == list(CATEGORIES) == list(profiles.WHAT)
    assert found["wall_seconds"] == 10
    assert found["cpu_seconds"] == 5
    assert categories["training"] == {"wall_seconds": 6, "cpu_seconds": 3, "share": 0.6, "spans": 1}
    assert categories["data"]["share"] == 0.3
    assert json.loads(json.dumps(found)) == found


def test_the_table_fits_80_columns_and_shows_shares_as_bars() -> None:
    lines = text(taken()).splitlines()
    assert lines[0].strip() == "Where the time went: 10.0 s, 5.00 s of them on the processor"
    assert len(lines) == 2 + len(CATEGORIES)
    [training] = [line for line in lines if line.startswith("training")]
    assert "6.00 s  3.00 s  60.0 %  ██████████" in training
    assert training.count("█") == 10


def test_what_is_not_in_the_figures_is_said() -> None:
    assert "2 workers trained the vehicles" in text(taken(workers=2))
    found = taken()
    assert "Ray's processes" in text(found | {"engine": "ray"})
    assert "GPU works on its own" in text(found | {"device": "cuda"})
    assert profiles.remarks(found) == []


def test_there_is_no_profile_where_none_was_taken(tmp_path: Path) -> None:
    profiles.write_profile(tmp_path, experiment(), "cpu")
    assert list(tmp_path.iterdir()) == []
    assert profiles.read_profile(tmp_path) is None


@pytest.mark.parametrize("content", ['{"categories', "[]", '{"categories": 5}', '{"categories": {"a": 1}}'])
def test_a_damaged_file_is_refused_with_the_fix(tmp_path: Path, content: str) -> None:
    (tmp_path / "profile.json").write_text(content)
    with pytest.raises(RunError, match="is damaged .*; delete it, the run does not need it"):
        profiles.read_profile(tmp_path)


def test_a_strange_file_cannot_steer_the_terminal() -> None:
    found = {"categories": {"\x1b[2Jx": {"share": 7.0, "wall_seconds": None}}, "wall_seconds": "a"}
    shown = text(found)
    assert "\x1b" not in shown
    assert "?[2Jx" in shown


@pytest.mark.slow
@pytest.mark.parametrize("batching", ["sequential", "stacked"])
def test_every_part_of_a_run_is_in_its_profile(tiny: Write, tmp_path: Path, batching: str) -> None:
    sets = [f"train.batching={batching}", "strategy.name=fedprox"]
    with profiling() as profile:
        folder, result = start(load_experiment(tiny(), sets), out=tmp_path / "r")
    found = profiles.read_profile(folder)
    assert found is not None
    parts = {name: one["wall_seconds"] for name, one in found["categories"].items()}
    assert sum(parts.values()) == pytest.approx(found["wall_seconds"], rel=0.05)
    assert sum(parts.values()) <= sum(profile.wall.values()) + 0.001
    zero = {name for name, one in found["categories"].items() if not one["spans"]}
    assert zero == {"privacy"}
    assert parts["privacy"] == 0
    assert parts["other"] < 0.6 * found["wall_seconds"]
    assert "profile" not in result
    _, again = resume(folder)
    assert again == result


@pytest.mark.slow
def test_the_command_prints_it_and_show_shows_it(
    tiny: Write, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file, out = str(tiny()), tmp_path / "r"
    assert cli.run(["run", file, "--out", str(out), "--profile", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["profile"] == json.loads((out / "profile.json").read_text())
    assert "profile" not in json.loads((out / "result.json").read_text())
    assert cli.run(["show", str(out)]) == 0
    assert "Where the time went" in capfd.readouterr().out
    before = (out / "profile.json").read_bytes()
    assert cli.run(["run", "--resume", str(out), "--profile"]) == 0
    assert "Where the time went" in capfd.readouterr().out
    assert (out / "profile.json").read_bytes() == before


@pytest.mark.slow
def test_without_the_option_there_is_no_file_and_no_key(
    tiny: Write, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r"
    assert cli.run(["run", str(tiny()), "--out", str(out), "--json"]) == 0
    assert "profile" not in json.loads(capfd.readouterr().out)
    assert not (out / "profile.json").exists()
    assert cli.run(["run", "--resume", str(out), "--profile"]) == 0
    assert "profile: none, the run was complete already" in capfd.readouterr().out
