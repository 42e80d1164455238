"""Reading experiment files: TOML with positions in its errors, `extends`, and which line set which key."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from carpool.experiments.checks import EXCLUSIVE
from carpool.experiments.hints import shown
from carpool.privacy.errors import ConfigError

Key = tuple[str, ...]
Table = dict[str, object]
MAX_BYTES = 1_000_000
MAX_LINES = 600  # above it errors name the file only: finding lines is quadratic


@dataclass(frozen=True)
class Layer:
    """One file of the `extends` chain: what it says, and where."""

    path: Path
    text: str
    document: Table

    @cached_property
    def lines(self) -> dict[Key, int]:
        """The line (from 1) on which each key or table of the file starts.

        The TOML library gives no positions, so the file is parsed line by line: a key is on the line after
        the last prefix of the file that was valid without it.
        """
        rows, start = self.text.splitlines(), 1
        found: dict[Key, int] = {}
        if len(rows) > MAX_LINES:
            return {}
        for count in range(1, len(rows) + 1):
            try:
                document = tomllib.loads("\n".join(rows[:count]) + "\n")
            except tomllib.TOMLDecodeError:
                continue  # inside an array or a text of several lines
            for key in paths(document):
                found.setdefault(key, start)
            start = count + 1
        return found

    def place(self, key: Key) -> str:
        """`file:line` of the key, of the table it would be in, or of the file alone."""
        for length in range(len(key), 0, -1):
            if key[:length] in self.lines:
                return f"{self.path}:{self.lines[key[:length]]}"
        return str(self.path)


def paths(document: Mapping[str, object], above: Key = ()) -> Iterator[Key]:
    """The path of every table and every value, tables first."""
    for name, value in document.items():
        yield (*above, name)
        if isinstance(value, dict):
            yield from paths(value, (*above, name))


def get(document: Mapping[str, object], key: Key) -> object | None:
    """The value at `key`, or None."""
    value: object = document
    for name in key:
        if not isinstance(value, dict) or name not in value:
            return None
        value = value[name]
    return value


def put(document: Table, key: Key, value: object) -> None:
    """Set the value at `key`, making tables on the way; raises ConfigError where a value is in the way."""
    for depth, name in enumerate(key[:-1], 1):
        inner = document.setdefault(name, {})
        if not isinstance(inner, dict):
            above = ".".join(key[:depth])
            raise ConfigError([f"{'.'.join(key)} cannot be set: {above} is {shown(inner)}, not a table"])
        document = inner
    document[key[-1]] = value


def drop(document: Table, key: Key) -> None:
    """Remove the value at `key`, where there is one."""
    table = get(document, key[:-1])
    if isinstance(table, dict):
        table.pop(key[-1], None)


def yield_to(document: Table, keys: set[Key]) -> None:
    """Remove from `document` what excludes one of `keys`, which are about to be laid over it."""
    for pair in EXCLUSIVE:
        for old, new in (pair, pair[::-1]):
            if new in keys and old not in keys:
                drop(document, old)


def overlay(below: Table, above: Mapping[str, object]) -> Table:
    """`above` over `below`: tables are merged key by key, anything else is replaced."""
    result = copy.deepcopy(below)
    yield_to(result, set(paths(above)))
    _merge(result, above)
    return result


def _merge(target: Table, above: Mapping[str, object]) -> None:
    for name, value in above.items():
        inner = target.get(name)
        if isinstance(inner, dict) and isinstance(value, dict):
            _merge(inner, value)
        else:
            target[name] = copy.deepcopy(value)


def read_layers(path: Path) -> list[Layer]:
    """The file and all that it extends, base first; raises ConfigError."""
    layers: list[Layer] = []
    seen: list[Path] = []
    while True:
        layer = _read(path, layers[-1] if layers else None)
        real = path.resolve()
        if real in seen:
            chain = " -> ".join(file.name for file in [*seen, real])
            raise ConfigError(
                [f"{layers[-1].place(('extends',))}: extends goes in a circle, {chain}; remove one extends"],
                str(path),
            )
        seen.append(real)
        base = layer.document.pop("extends", None)
        layers.append(layer)
        if base is None:
            return layers[::-1]
        if not isinstance(base, str) or not base:
            raise ConfigError(
                [f'{layer.place(("extends",))}: extends is {shown(base)}; it must be one path, "base.toml"'],
                str(path),
            )
        path = path.parent / Path(base).expanduser()


def _read(path: Path, parent: Layer | None) -> Layer:
    try:
        if path.is_dir():
            raise ConfigError([_folder(path)], str(path))
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        if parent:
            text = (
                f"{parent.place(('extends',))}: extends names {path}, which does not exist; correct the path"
            )
        else:
            text = f"there is no file {path}; write one to start from with: carpool init {path.parent}"
        raise ConfigError([text], str(path)) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError([f"cannot read {path}: {reason}; allow reading it"], str(path)) from error
    if len(data) > MAX_BYTES:
        raise ConfigError([f"{path} has more than {MAX_BYTES} bytes; an experiment file is short text"])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        fault = f"byte 0x{data[error.start]:02x} is not UTF-8"
        raise ConfigError([not_toml(path, fault, line, column)], str(path)) from error
    try:
        return Layer(path, text, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([not_toml(path, *_position(str(error), text))], str(path)) from error
    except ValueError as error:  # Python refuses numbers of thousands of digits
        raise ConfigError([f"{path} has a number that is too long to read; shorten it"], str(path)) from error
    except RecursionError as error:
        raise ConfigError([f"{path} nests too deep; an experiment file has three levels"]) from error


def _folder(path: Path) -> str:
    inside = path / "experiment.toml"
    if inside.is_file():
        return f"{path} is a folder; did you mean {inside}?"
    return f"{path} is a folder, not a file; give the path of a .toml file"


def _position(message: str, text: str) -> tuple[str, int, int]:
    match = re.fullmatch(r"(?P<fault>.*) \(at line (?P<line>\d+), column (?P<column>\d+)\)", message, re.S)
    if match:
        return match["fault"], int(match["line"]), int(match["column"])
    rows = text.splitlines() or [""]
    return message.removesuffix(" (at end of document)"), len(rows), len(rows[-1]) + 1


def not_toml(path: Path, fault: str, line: int, column: int) -> str:
    """The sentence for a file that is not TOML."""
    fault = fault[:1].lower() + fault[1:]
    return (
        f"{path}:{line}: this is not TOML, {fault} at line {line}, column {column}; "
        'a line is key = value, with text in quotes, such as name = "first"'
    )
