"""Who may take part in which round: the promise that a factorisation's sensitivity rests on.

A vehicle takes part at most `max_participations` times, and no two of its rounds are closer than
`min_separation` (Choquette-Choo et al. 2023, arXiv:2211.06530, Section 2). The server keeps the promise when
a vehicle checks in, not the vehicle; `participation.py` remembers it across a crash. A vehicle is its lasting
identity (or its owner's): a replaced telematics unit is the same vehicle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carpool.privacy.errors import PrivacyRefused, RunError

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Schema:
    """At most `max_participations` rounds of one vehicle, `min_separation` or more apart (1: every round).

    Raises ValueError for numbers below 1.
    """

    min_separation: int
    max_participations: int

    def __post_init__(self) -> None:
        if type(self.min_separation) is not int or type(self.max_participations) is not int:
            raise ValueError(f"a participation schema has whole numbers, not {self}")
        if min(self.min_separation, self.max_participations) < 1:
            raise ValueError(f"a participation schema has numbers of 1 or more, not {self}")


class Participation:
    """Who took part when: last round and count of each vehicle that was asked, 16 bytes a vehicle."""

    def __init__(self, schema: Schema, rounds: int) -> None:
        if not 1 <= rounds < 1 << 31:
            raise ValueError(f"a training has 1 round to 2^31 - 1, not {rounds}")
        self.schema, self.rounds = schema, rounds
        self._ids: Ids = np.empty(0, np.int64)
        self._last = np.empty(0, np.int32)
        self._count = np.empty(0, np.int32)

    def __len__(self) -> int:
        return len(self._ids)

    def allowed(self, vehicles: ArrayLike, round_: int) -> NDArray[np.bool_]:
        """For each vehicle, int [n], whether it may take part in `round_`; nobody may outside 1 .. rounds.

        A round before one in which the vehicle took part already is refused as well.
        """
        ids = _checked(vehicles)
        if not 1 <= round_ <= self.rounds:
            return np.zeros(len(ids), np.bool_)
        at, known = self._find(ids)
        if not known.any():
            return np.ones(len(ids), np.bool_)
        at = np.where(known, at, 0)
        apart = round_ - self._last[at].astype(np.int64) >= self.schema.min_separation
        fresh = self._count[at] < self.schema.max_participations
        return np.asarray(~known | (apart & fresh))

    def check(self, vehicles: ArrayLike, round_: int) -> Ids:
        """The vehicles as int64 [n], rising; PrivacyRefused if any may not take part, or stands twice."""
        ids = np.sort(_checked(vehicles))
        if not 1 <= round_ <= self.rounds:
            raise PrivacyRefused(
                f"round {round_} is outside the {self.rounds} rounds that the noise was made for; "
                "start a new training with its own charge"
            )
        twice = ids[1:][np.diff(ids) == 0]
        if len(twice):
            raise PrivacyRefused(f"vehicle {twice[0]} is asked twice in round {round_}; ask it once")
        refused = ids[~self.allowed(ids, round_)]
        if len(refused):
            raise PrivacyRefused(self._why(int(refused[0]), round_, len(refused)))
        return ids

    def admit(self, vehicles: ArrayLike, round_: int) -> None:
        """Count the vehicles as taking part in `round_`, all or none; raises as `check`."""
        ids = self.check(vehicles, round_)
        at, known = self._find(ids)
        self._last[at[known]] = round_
        self._count[at[known]] += 1
        new = ~known
        if new.any():
            self._ids = np.insert(self._ids, at[new], ids[new])
            self._last = np.insert(self._last, at[new], round_)
            self._count = np.insert(self._count, at[new], 1)

    def dump(self) -> dict[str, NDArray[Any]]:
        """Arrays by name, for a checkpoint: ids int64, last int32, count int32, all [n]; rule int64 [3]."""
        rule = np.array([self.schema.min_separation, self.schema.max_participations, self.rounds], np.int64)
        return {
            "ids": self._ids.copy(),
            "last": self._last.copy(),
            "count": self._count.copy(),
            "rule": rule,
        }

    @classmethod
    def load(cls, schema: Schema, rounds: int, arrays: Mapping[str, NDArray[Any]]) -> Participation:
        """What `dump` gave; raises RunError for anything else, also where it is of another schema."""
        made = cls(schema, rounds)
        wanted = made.dump()
        if set(arrays) != set(wanted):
            raise RunError(
                f"a record of participation has {sorted(wanted)}, not {sorted(arrays)}; it is damaged"
            )
        for name, array in arrays.items():
            if array.dtype != wanted[name].dtype or array.ndim != 1:
                raise RunError(f"{name} of the record of participation is damaged; use the last whole one")
        if not np.array_equal(arrays["rule"], wanted["rule"]):
            raise RunError(
                f"the record of participation is of {arrays['rule'].tolist()} (separation, participations, "
                f"rounds), not of {wanted['rule'].tolist()}; go on with the schema that it began with"
            )
        ids, last, count = (arrays[name].copy() for name in ("ids", "last", "count"))
        most = schema.max_participations
        sound = len(ids) == len(last) == len(count) and bool(
            np.all(np.diff(ids) > 0)
            and np.all((last >= 1) & (last <= rounds))
            and np.all((count >= 1) & (count <= most))
        )
        if not sound or (len(ids) and ids[0] < 0):
            raise RunError("the record of participation is damaged; use the last whole one")
        made._ids, made._last, made._count = ids, last, count
        return made

    def _find(self, ids: Ids) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Where each id stands or would stand, and whether it is there."""
        at = np.searchsorted(self._ids, ids)
        known = np.zeros(len(ids), np.bool_)
        inside = at < len(self._ids)
        known[inside] = self._ids[at[inside]] == ids[inside]
        return at, known

    def _why(self, vehicle: int, round_: int, others: int) -> str:
        at = int(np.searchsorted(self._ids, vehicle))
        rule, more = self.schema, f" (and {others - 1} more)" if others > 1 else ""
        return (
            f"vehicle {vehicle}{more} may not take part in round {round_}: it did {self._count[at]} times, "
            f"last in round {self._last[at]}; the noise covers {rule.max_participations} times, "
            f"{rule.min_separation} rounds apart: choose the cohort among those `allowed`"
        )


def _checked(vehicles: ArrayLike) -> Ids:
    ids = np.atleast_1d(np.asarray(vehicles))
    if ids.ndim != 1 or (len(ids) and not np.issubdtype(ids.dtype, np.integer)):
        raise ValueError(f"vehicles are a list of whole numbers, not {ids.dtype} {ids.shape}")
    if len(ids) and (ids.min() < 0 or ids.max() >= 1 << 63):
        raise ValueError("a vehicle's number is from 0 up to 2^63 - 1")
    return ids.astype(np.int64)
