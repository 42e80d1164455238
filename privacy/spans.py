"""Where a run's time goes, by category; a leaf that every folder but `strategies` may use.

`with span("wire"):` and `@timed("wire")` mark what a piece of code is for. Time is exclusive: what is inside
an inner span counts for the inner one alone, so that the categories and "other" add up to the whole. Without
a `profiling()` block, and in threads other than the one that opened it, both do nothing.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from types import TracebackType
from typing import Literal, ParamSpec, TypeVar, get_args

Category = Literal["data", "training", "strategy", "privacy", "wire", "evaluation", "bookkeeping", "other"]
CATEGORIES: tuple[Category, ...] = get_args(Category)
P = ParamSpec("P")
R = TypeVar("R")


class Profile:
    """Seconds by category, from the moment it is made to the last change of spans or `charge`.

    wall, cpu: seconds, of the clock and of all threads of this process; entered: spans opened. clock, busy:
    where the two come from.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        busy: Callable[[], float] = time.process_time,
    ) -> None:
        self.wall = dict.fromkeys(CATEGORIES, 0.0)
        self.cpu = dict.fromkeys(CATEGORIES, 0.0)
        self.entered = dict.fromkeys(CATEGORIES, 0)
        self.thread = threading.get_ident()
        self._clock, self._busy = clock, busy
        self._children = ended_children()
        self._open: list[Category] = ["other"]
        self._since = clock(), busy()

    @property
    def children(self) -> float:
        """CPU seconds of child processes that have ended and been waited for since the profile began."""
        return ended_children() - self._children

    def enter(self, category: Category) -> None:
        """From now on time is that of `category`, until the matching `leave`."""
        self.charge()
        self.entered[category] += 1
        self._open.append(category)

    def leave(self) -> None:
        """From now on time is again that of the span around."""
        self.charge()
        self._open.pop()

    def charge(self) -> None:
        """Add the time since the last change to the innermost open span."""
        now = self._clock(), self._busy()
        category = self._open[-1]
        self.wall[category] += now[0] - self._since[0]
        self.cpu[category] += now[1] - self._since[1]
        self._since = now


def ended_children() -> float:
    """CPU seconds of all child processes of this one that have ended and been waited for."""
    times = os.times()
    return times.children_user + times.children_system


class _Span:
    """An open span of a profile."""

    __slots__ = ("_category", "_profile")

    def __init__(self, profile: Profile, category: Category) -> None:
        self._profile, self._category = profile, category

    def __enter__(self) -> None:
        self._profile.enter(self._category)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._profile.leave()


_OFF: AbstractContextManager[None] = nullcontext()
_active: Profile | None = None


def current() -> Profile | None:
    """The profile that is being taken in this thread, if any."""
    return _active if _active is not None and _active.thread == threading.get_ident() else None


def span(category: Category) -> AbstractContextManager[None]:
    """The block is for `category`; without a profile one object that does nothing."""
    if _active is None:
        return _OFF
    profile = current()
    return _OFF if profile is None else _Span(profile, category)


def timed(category: Category) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """`span` around a whole function (not a generator)."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def inside(*args: P.args, **kwargs: P.kwargs) -> R:
            if _active is None:
                return function(*args, **kwargs)
            with span(category):
                return function(*args, **kwargs)

        return inside

    return decorate


@contextmanager
def profiling(profile: Profile | None = None) -> Iterator[Profile]:
    """Take a profile of this thread for the block; inside another one it takes over."""
    global _active
    before, found = _active, profile or Profile()
    _active = found
    try:
        yield found
    finally:
        found.charge()
        _active = before


@contextmanager
def undivided(category: Category) -> Iterator[None]:
    """The whole block is for `category`, whatever spans are opened in it."""
    global _active
    profile = current()
    with span(category):
        before, _active = _active, None if profile is not None else _active
        try:
            yield
        finally:
            _active = before
