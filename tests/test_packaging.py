"""What is installed is what is in the repository, and it runs without the repository."""

from __future__ import annotations

import fnmatch
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOP = ("client", "experiments", "privacy", "server", "strategies")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
DATA = ("py.typed", "template.toml", "report.html.j2")
"""Names of files that are not Python and that an installed Carpool needs."""


def folders() -> dict[str, str]:
    """{import name: folder} of every folder with Python files."""
    found = {}
    for top in TOP:
        for file in (ROOT / top).rglob("*.py"):
            folder = file.parent.relative_to(ROOT)
            found[".".join(("carpool", *folder.parts))] = folder.as_posix()
    return found


def test_the_packages_are_the_folders_with_python_files():
    assert set(SETUPTOOLS["packages"]) == set(folders())
    assert SETUPTOOLS["package-dir"] == folders()


def test_namespace_packages_have_no_init():
    assert [str(file) for top in TOP for file in (ROOT / top).rglob("__init__.py")] == []


def test_every_top_folder_is_typed():
    for top in TOP:
        assert (ROOT / top / "py.typed").is_file(), top


def test_data_files_exist_and_have_a_pattern():
    patterns = SETUPTOOLS["package-data"]["*"]
    for pattern in patterns:
        assert any(list((ROOT / top).glob(pattern)) for top in TOP), pattern
    for name in DATA:
        assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), name
    assert (ROOT / "experiments/template.toml").is_file()
    assert (ROOT / "experiments/report.html.j2").is_file()


def test_the_licence_and_the_readme_that_the_project_names_exist():
    assert (ROOT / PROJECT["project"]["readme"]).is_file()
    for name in PROJECT["project"]["license-files"]:
        assert "Apache License" in (ROOT / name).read_text()


def source(folder: Path) -> Path:
    """A copy of what a wheel is built from: setuptools leaves its build folder where it builds."""
    folder.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for top in TOP:
        shutil.copytree(ROOT / top, folder / top, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.mark.slow
def test_the_wheel_runs_outside_the_repository(tmp_path):
    python, pip = sys.executable, [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    wheels, target, away = tmp_path / "wheels", tmp_path / "target", tmp_path / "away"
    away.mkdir()
    # Without isolation: the setuptools that is installed builds, nothing is downloaded.
    build = [*pip, "wheel", source(tmp_path / "source"), "--no-deps", "--no-build-isolation", "-w", wheels]
    subprocess.run(build, check=True, cwd=away)
    [wheel] = wheels.glob("carpool-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for package in SETUPTOOLS["packages"]:
        assert any(name.startswith(package.replace(".", "/") + "/") for name in names), package
    assert {f"carpool/{top}/py.typed" for top in TOP} <= names
    assert {"carpool/experiments/template.toml", "carpool/experiments/report.html.j2"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    subprocess.run([*pip, "install", "--no-deps", "--target", target, wheel], check=True, cwd=away)

    def carpool(*arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(target)}
        code = "import sys; from carpool.experiments import cli; sys.stderr.write(cli.__file__); cli.main()"
        done = subprocess.run(
            # -P: the present folder is not on the path
            [python, "-P", "-c", code, *arguments],
            cwd=away, env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stderr.startswith(str(target)), f"the repository was used: {done.stderr}"
        return done.stdout

    assert carpool("--version") == f"carpool {PROJECT['project']['version']}\n"
    carpool("init", "first")
    assert 'name = "first"' in (away / "first/experiment.toml").read_text()
    assert "is valid" in carpool("validate", "first/experiment.toml")
