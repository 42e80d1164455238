"""The threat model names tests that exist; every attack has one, or says that there is no answer."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "threat-model.md"
NAMED = re.compile(r"`(test_\w+)::(test_\w+)`")
HEAD = "| attack | answer | what is left | test |"


def functions(name: str) -> set[str]:
    """Tests in the one file of this name, inside of classes or not."""
    (file,) = ROOT.glob(f"tests/**/{name}.py")
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)}


def rows() -> list[list[str]]:
    """The cells of all attacks."""
    found, inside = [], False
    for line in PAGE.read_text().splitlines():
        inside = line == HEAD or (inside and line.startswith("|"))
        if inside and line != HEAD and not line.startswith("|---"):
            found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_every_named_test_exists() -> None:
    named = NAMED.findall(PAGE.read_text())
    assert len(named) > 50
    for file, test in named:
        assert test in functions(file), f"{file}::{test}"


@pytest.mark.parametrize("row", rows(), ids=lambda row: str(row[0])[:40])
def test_every_attack_has_a_test_or_no_answer(row: list[str]) -> None:
    attack, answer, left, tests = row
    assert attack
    if NAMED.search(tests):
        assert not answer.startswith("none")
    else:
        assert tests == "none"
        assert answer.startswith("none:")
        assert left


def test_the_attacks_of_the_design_are_there() -> None:
    text = " ".join(row[0] for row in rows())
    for word in (
        "models",
        "Sybils",
        "few",
        "differently",
        "old messages",
        "withhold",
        "shares",
        "wrap",
        "matrix",
    ):
        assert word in text, word
