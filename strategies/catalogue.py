"""Which strategies there are, and building one from its name and options with errors that help."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from carpool.strategies.contract import Strategy
from carpool.strategies.fedadam import fedadam
from carpool.strategies.fedavg import fedavg
from carpool.strategies.fedavgm import fedavgm
from carpool.strategies.fedprox import fedprox

Builder = Callable[..., Strategy[Any]]

CATALOGUE: Mapping[str, Builder] = {
    "fedavg": fedavg,
    "fedavgm": fedavgm,
    "fedadam": fedadam,
    "fedprox": fedprox,
}


def names() -> tuple[str, ...]:
    """The names that `strategy.name` may have."""
    return tuple(CATALOGUE)


def nearest(word: str, known: Mapping[str, object] | tuple[str, ...]) -> str:
    """A hint: the nearest known word, or all of them."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known) or 'none'}"


def options(name: str) -> Mapping[str, inspect.Parameter]:
    """The options of a strategy with defaults and annotations; raises ValueError for an unknown name."""
    if name not in CATALOGUE:
        raise ValueError(f"there is no strategy {name!r}; {nearest(name, names())}")
    return inspect.signature(CATALOGUE[name]).parameters


def build(name: str, given: Mapping[str, object]) -> Strategy[Any]:
    """The strategy `name` with its options; raises ValueError with the value and the fix.

    >>> build("fedavgm", {"beta": 0.5}).name
    'fedavgm'
    """
    known = options(name)
    for key, value in given.items():
        if key not in known:
            raise ValueError(f"{name} has no option {key!r}; {nearest(key, tuple(known))}")
        default = known[key].default
        wanted = str if isinstance(default, str) else (int, float)
        if isinstance(value, bool) != isinstance(default, bool) or not isinstance(value, wanted):
            kind = "a word" if wanted is str else "a number"
            raise ValueError(f"{name}: {key} is {value!r}; it must be {kind}, for example {default!r}")
    return CATALOGUE[name](**given)
