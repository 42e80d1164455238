"""`carpool strategies [NAME]`: the catalogue, and one strategy with its options and an example."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable
from typing import Annotated, Any

import typer

from carpool.experiments.cli_common import JsonOption, emit, say, table
from carpool.privacy.errors import UsageError

SUM, EACH = "only the sum", "each update"


def register(app: typer.Typer) -> None:
    """Add `strategies`."""
    app.command(name="strategies")(strategies)


def strategies(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One strategy, in full; without it, all.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the aggregation strategies, or explain one with its options.

    Examples: [cyan]carpool strategies[/] · [cyan]carpool strategies fedadam[/]
    """
    from carpool.strategies import catalogue

    if name is None:
        listed = [describe(one) for one in catalogue.names()]
        if as_json:
            emit(listed)
        else:
            show_all(listed)
        return
    if name not in catalogue.names():
        raise UsageError(f"there is no strategy {name!r}; {catalogue.nearest(name, catalogue.names())}")
    described = describe(name)
    if as_json:
        emit(described)
    else:
        show_one(described)


def describe(name: str) -> dict[str, Any]:
    """Everything about one strategy of the catalogue, ready for JSON."""
    import tomli_w

    from carpool.strategies import catalogue

    builder, strategy = catalogue.CATALOGUE[name], catalogue.build(name, {})
    module = inspect.getmodule(builder)
    defaults = {key: parameter.default for key, parameter in catalogue.options(name).items()}
    example = {"strategy": {"name": name} | ({"options": defaults} if defaults else {})}
    return {
        "name": name,
        "paper": strategy.paper,
        "channels": [{"name": one.name, "reduce": one.reduce} for one in strategy.channels],
        "server_needs": EACH if strategy.needs_set else SUM,
        "options": [
            {"name": key, "default": default, "range": allowed(builder, key)}
            for key, default in defaults.items()
        ],
        "text": inspect.cleandoc(module.__doc__ or "") if module else "",
        "example": tomli_w.dumps(example).strip(),
    }


def allowed(builder: Callable[..., object], option: str) -> str:
    """What an option may be: the part of the builder's docstring that has its name, else the words it takes.

    >>> from carpool.strategies import catalogue
    >>> allowed(catalogue.CATALOGUE["fedadam"], "beta1")
    '0 <= beta1, beta2 < 1'
    """
    text = " ".join((builder.__doc__ or "").split())
    for clause in re.split(r";\s|\.\s|\.$", text):
        if re.search(rf"\b{re.escape(option)}\b", clause):
            return clause.strip()
    try:
        words = typing.get_args(typing.get_type_hints(builder).get(option))
    except NameError:  # an annotation that exists for type checkers only
        words = ()
    return " or ".join(f'"{word}"' for word in words if isinstance(word, str))


def show_all(listed: list[dict[str, Any]]) -> None:
    """The table for people."""
    table(
        ("strategy", "paper", "channels", "server needs", "options"),
        [
            (
                one["name"],
                one["paper"],
                ", ".join(f"{channel['name']} ({channel['reduce']})" for channel in one["channels"]),
                one["server_needs"],
                ", ".join(option["name"] for option in one["options"]),
            )
            for one in listed
        ],
    )
    say(f"{SUM!r}: secure aggregation is possible; what the server does see is set by privacy.channel")
    say("carpool strategies NAME explains one")


def show_one(one: dict[str, Any]) -> None:
    """One strategy for people."""
    say(f"{one['name']}   {one['paper']}")
    say("")
    say(one["text"])
    say("")
    channels = ", ".join(f"{channel['name']} ({channel['reduce']})" for channel in one["channels"])
    say(f"channels: {channels}; the server needs {one['server_needs']}")
    say("")
    if one["options"]:
        rows = [(option["name"], option["default"], option["range"]) for option in one["options"]]
        table(("option", "default", "may be"), rows)
        say("")
    say("In the experiment file:")
    say("")
    say(one["example"])
