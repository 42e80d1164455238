"""The written word holds: links resolve, command lines parse, keys exist, what is missing is said to be."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
import typer

from carpool.experiments.cli import app
from carpool.experiments.config import Experiment
from carpool.experiments.faults import leaves

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
COMMANDS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "docs/cli.md"]
KEYS = {".".join(key) for key, _ in leaves()}
TABLES = {key.rsplit(".", depth)[0] for key in KEYS for depth in (1, 2)}
WRONG = {"train.lrr", "train.learning_rate"}
"""Keys that a page shows as an example of what is refused."""
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FILES = (
    ".toml",
    ".py",
    ".md",
    ".json",
    ".jsonl",
    ".safetensors",
    ".png",
    ".svg",
    ".html",
    ".npz",
    ".csv",
    ".onnx",
)


@cache
def commands() -> click.Group:
    found = typer.main.get_command(app)
    assert isinstance(found, click.Group)
    return found


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def blocks(text: str) -> Iterator[str]:
    """The content of fenced blocks."""
    yield from re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def command_lines(page: Path) -> list[str]:
    """Every `carpool ...` line of the fenced blocks, without prompt, up to a pipe."""
    lines = [
        line.strip().removeprefix("$ ") for block in blocks(page.read_text()) for line in block.splitlines()
    ]
    return [line.split(" | ")[0] for line in lines if line.startswith("carpool ") and "--version" not in line]


def parse(line: str) -> str:
    """The command that the line runs; raises click's errors where it does not parse. Nothing is run."""
    command: click.Command = commands()
    arguments = shlex.split(line, comments=True)[1:]
    path = "carpool"
    while isinstance(command, click.Group):
        default = getattr(command, "default", None)  # a command that may be left out
        if default is not None and (not arguments or arguments[0] not in command.commands):
            arguments = [default, *arguments]
        path, arguments = f"{path} {arguments[0]}", arguments[1:]
        found = command.commands.get(path.rsplit(" ", 1)[1])
        if found is None:
            raise click.UsageError(f"no command {path}")
        command = found
    if not {"-h", "--help"} & set(arguments):
        command.make_context(path, arguments)
    return path


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_relative_link_resolves(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in LINK.findall(text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{name(page)} links to {target}"
        assert ROOT in found.parents, f"{name(page)} links out of the repository: {target}"
        if anchor:
            assert anchor in anchors(found), f"{name(page)} links to {target}"


@pytest.mark.parametrize("page", COMMANDS, ids=name)
def test_every_command_line_parses(page):
    for line in command_lines(page):
        try:
            parse(line)
        except click.ClickException as error:
            pytest.fail(f"{name(page)}: {line}: {error.format_message()}")


def test_a_wrong_command_line_would_be_found():
    with pytest.raises(click.UsageError):
        parse("carpool runs first/experiment.toml")
    with pytest.raises(click.UsageError):
        parse("carpool run first/experiment.toml --output x")
    with pytest.raises(click.UsageError):
        parse("carpool compare")


def test_the_command_lines_cover_every_command():
    command = commands()
    wanted = set()
    for word, inner in command.commands.items():
        wanted |= (
            {f"carpool {word} {sub}" for sub in inner.commands}
            if isinstance(inner, click.Group)
            else {f"carpool {word}"}
        )
    assert wanted <= {parse(line) for line in command_lines(ROOT / "docs/cli.md")}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_in_running_text_exist(page):
    command = commands()
    for word in re.findall(r"`carpool ([a-z]+)", page.read_text()):
        assert word in command.commands, f"{name(page)} names carpool {word}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_config_key_exists(page):
    text = re.sub(r".*carpool strategies test .*", "", page.read_text())  # sets options, not keys
    named = set(re.findall(r"--set '?([a-z_.]+)=", text))
    for word in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)(?: = [^`]*)?`", text):
        if word.split(".")[0] in Experiment.model_fields and not word.endswith(FILES):
            named.add(word)
    for key in named - TABLES:
        known = key in KEYS or key.startswith(("model.options.", "strategy.options."))
        assert known or key in WRONG, f"{name(page)} names the key {key}"


def test_the_first_screen_says_what_is_not_there_yet():
    text = (ROOT / "README.md").read_text().lower()
    first = text.split("## a five-minute tour")[0]
    assert "docs/run.png" in first
    assert "make demo" in first
    assert "make test" in first
    for missing in (
        "audit", "deployment on real vehicles", "peers",
        "inference for others", "rewards", "battery ageing",
    ):  # fmt: skip
        assert missing in first.split("not there yet")[1], missing


def test_decisions_are_numbered_without_gap_and_listed():
    notes = sorted((ROOT / "docs/decisions").glob("*.md"))
    assert [note.name[:4] for note in notes] == [f"{number:04}" for number in range(1, len(notes) + 1)]
    listed = (ROOT / "docs/architecture.md").read_text()
    for note in notes:
        title = note.read_text().splitlines()[0].removeprefix("# ")
        assert f"[{title[:4]}](decisions/{note.name}) | {title[5:]} |" in listed, note.name


def test_the_version_is_in_the_changelog():
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert f"## [{version[1]}]" in (ROOT / "CHANGELOG.md").read_text()
