"""pydantic's errors as our sentences: the key, its value and what would be right."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from carpool.experiments.checks import Problem
from carpool.experiments.config import Experiment
from carpool.experiments.hints import choose, shown, unknown_key
from carpool.experiments.toml_files import Key, Table, get

RULES = {
    "missing": "it has no default; give it",
    "int_type": "it must be a whole number",
    "int_from_float": "it must be a whole number",
    "float_type": "it must be a number",
    "finite_number": "it must be a finite number",
    "string_type": "it must be a text in quotes",
    "bool_type": "it must be true or false",
    "tuple_type": 'it must be a list, such as ["front", "rear"]',
    "model_type": "it must be a table",
}
BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}


def leaves(model: type[BaseModel] = Experiment, above: Key = ()) -> Iterator[tuple[Key, FieldInfo]]:
    """Every key of the experiment file, with its field."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from leaves(inner, (*above, name))
        else:
            yield (*above, name), field


def translate(error: ValidationError, document: Table) -> list[Problem]:
    """A problem an error, in the order of the file's keys."""
    fields = dict(leaves())
    problems = []
    for fault, key in zip(error.errors(include_url=False), bad_keys(error, document), strict=True):
        dotted = ".".join(key)
        if fault["type"] == "extra_forbidden":
            text = unknown_key(key, fields)
        elif fault["type"] == "missing":
            example = ': name = "first"' if key == ("experiment", "name") else ""
            text = f"{dotted} is missing; {RULES['missing']}{example}"
        else:
            text = f"{dotted} is {shown(get(document, key))}; {_rule(fault, fields.get(key))}"
        problems.append(Problem((dotted,), text))
    return problems


def bad_keys(error: ValidationError, document: Table) -> list[Key]:
    """The key of each error: places inside a list or an option table count as the key itself."""
    known = set(dict(leaves()))
    found = []
    for fault in error.errors(include_url=False):
        key = tuple(str(part) for part in fault["loc"])
        lengths = [n for n in range(1, len(key) + 1) if key[:n] in known]
        key = key[: lengths[0]] if lengths else key
        if fault["type"] == "missing" and key == ("experiment",):
            key = ("experiment", "name")  # what the table is needed for
        found.append(key)
    return found


def _rule(fault: Any, field: FieldInfo | None) -> str:
    kind, message = fault["type"], str(fault["msg"])
    if kind == "value_error":
        return str(fault["ctx"]["error"])
    if kind == "literal_error" and field is not None:
        options = [str(option) for option in _options(field.annotation)]
        return choose(str(fault["input"]), options)
    if kind in BOUNDS:
        limits = _limits(field) if field else []
        return f"it must be {' and '.join(limits)}" if limits else message
    if kind == "string_type" and isinstance(fault["loc"][-1], int):
        return f"every entry must be a text in quotes, not {shown(fault['input'])}"
    return RULES.get(kind, message.lower())


def _options(annotation: object) -> tuple[object, ...]:
    return typing.get_args(annotation) if typing.get_origin(annotation) is Literal else ()


def _limits(field: FieldInfo) -> list[str]:
    """`above 0`, `at most 1`: both bounds, whichever was broken."""
    annotated = [m for arg in typing.get_args(field.annotation) for m in getattr(arg, "__metadata__", ())]
    metadata = [*field.metadata, *annotated]
    inner = [m for entry in metadata for m in (entry.metadata if isinstance(entry, FieldInfo) else [entry])]
    return [
        f"{word} {value}"
        for name, word in BOUNDS.values()
        for entry in inner
        if (value := getattr(entry, name, None)) is not None
    ]
