"""Neighbouring cohorts under the same randomness: how far one vehicle moves what is released.

With the same randomness the noise is the same on both sides, so the difference of two releases is exactly
what the noise has to hide: no statistics, one violation is a proof.
"""

from __future__ import annotations

import math

import numpy as np

from carpool.privacy.audit.probes import PROBES, Probe, honest, huge, opposite, silent
from carpool.privacy.audit.rounds import Array, Claim, Contribution, Part, in_clips
from carpool.privacy.audit.running import Bench, Cohort, Training, is_void
from carpool.privacy.errors import UsageError

SLACK = 8.0
"""Roundings of the largest float kind released that are forgiven, relative to the vectors' norms."""
RELATIVE = 1e-9


class Neighbours:
    """Runs of one vehicle's contributions among honest others, each run once."""

    def __init__(self, bench: Bench, randomness: int) -> None:
        claim = bench.claim
        rng = np.random.default_rng(randomness)
        self.bench, self.randomness = bench, randomness
        names = [f"vehicle-{number:04d}" for number in range(claim.planned)]
        self.vehicle = names.pop(claim.planned // 2)
        self.others = tuple(honest(claim, name, rng) for name in names)
        self._kept: dict[tuple[str, frozenset[str]], Training | None] = {}

    def play(
        self, own: tuple[Contribution, ...], probe: str, lost: frozenset[str] = frozenset()
    ) -> Training | None:
        """A training in which the vehicle hands in `own`."""
        return self.bench.training(self._cohort(own), probe, self.randomness, lost=lost, exact=True)

    def against(self, kind: str, lost: frozenset[str] = frozenset()) -> Training | None:
        """The neighbour: silent, absent, lost, opposite or huge; the same one for all probes."""
        key = (kind, lost)
        if key not in self._kept:
            claim, vehicle = self.bench.claim, self.vehicle
            makers = {"opposite": opposite, "huge": huge}
            own = () if kind == "absent" else (makers.get(kind, silent)(claim, vehicle),)
            gone = lost | {vehicle} if kind == "lost" else lost
            self._kept[key] = self.play(own, f"neighbour ({kind})", gone)
        return self._kept[key]

    def _cohort(self, own: tuple[Contribution, ...]) -> Cohort:
        takes, middle = self.bench.claim.takes, len(self.others) // 2

        def cohort(number: int) -> tuple[Contribution, ...]:
            mine = own if number in takes else ()
            return (*self.others[:middle], *mine, *self.others[middle:])

        return cohort


def check_differences(bench: Bench, randomness: int, gone: list[frozenset[str]]) -> Training | None:
    """Every probe with everybody there, and the huge one for each set of lost vehicles; returns the base.

    gone: sets of names, without the probed vehicle's (`probed`). Raises UsageError where releases of
    neighbours cannot have the same noise and no exact sum is given.
    """
    sides = Neighbours(bench, randomness)
    base = sides.against(_kind(bench.claim, "huge dense"))
    if base is None or not bench.book.judge("void", "nobody lost", 0, 0, holds=not is_void(base)):
        return None
    again = Neighbours(bench, randomness).against(_kind(bench.claim, "huge dense"))
    other = 0 if again is None else _unlike(base, again)
    if not bench.book.judge("replay", "nobody lost", 0, other, holds=again is not None and other == 0):
        return None
    for probe in PROBES:
        _check_probe(bench, sides, probe, frozenset())
    for lost in gone:
        share = len(lost) / bench.claim.planned
        _check_probe(bench, sides, PROBES[0], lost, f", {share:.0%} lost")
    return base


def probed(claim: Claim) -> str:
    """The vehicle whose contributions are the probes."""
    return f"vehicle-{claim.planned // 2:04d}"


def _check_probe(
    bench: Bench, sides: Neighbours, probe: Probe, lost: frozenset[str], where: str = ""
) -> None:
    name = probe.name + where
    left = sides.play(probe.make(bench.claim, sides.vehicle), name, lost)
    right = sides.against(_kind(bench.claim, probe.name), lost)
    if left is None or right is None or is_void(right):
        bench.book.skip(f"difference, {name}: a round was void or unsound")
        return
    if sides.others and not bench.book.judge("void", name, 0, len(lost), holds=not is_void(left)):
        return
    counted = _check_fate(bench, left, sides.vehicle, probe, name)
    if is_void(left):
        return  # it was alone
    aligned = bench.claim.noise == "server" or (counted and bench.claim.relation != "add-remove")
    if not aligned and not counted:
        # Its noise is missing with it: it must be as if it had left.
        right = sides.against("lost", lost)
        if right is None or is_void(right):
            bench.book.skip(f"difference, {name}: without the vehicle the round was void")
            return
        aligned = True
    exact = all(released.exact is not None for released in (*left, *right))
    if not aligned and not exact:
        raise UsageError(
            f"{bench.claim.relation} neighbours of a mechanism whose vehicles add the noise differ by noise, "
            "too; give the exact sums (Released.exact) when asked for them"
        )
    for part in bench.claim.parts:
        for kept in ([False] if aligned else []) + ([True] if exact else []):
            seen, slack = moved(bench.claim, part, left, right, exact=kept)
            what = name + (" (exact sum)" if kept else "")
            bench.book.judge(
                "difference", what, part.sensitivity, seen, holds=seen <= part.sensitivity + slack
            )


def moved(claim: Claim, part: Part, left: Training, right: Training, *, exact: bool) -> tuple[float, float]:
    """How far apart a part is in two trainings, L2 in clip norms, and what floats may have added to that."""
    square, slack = 0.0, RELATIVE * part.sensitivity
    gain = 1.0 if claim.mixing is None else float(np.linalg.norm(claim.mixing, 2))
    with np.errstate(all="ignore"):
        for name, block in part.blocks.items():
            one, other = ([_vector(released, name, exact) for released in side] for side in (left, right))
            rows, others = (
                np.stack([in_clips(block, vector, divided=not exact) for vector in side])
                for side in (one, other)
            )
            square += float(np.sum(claim.mixed(rows - others) ** 2))
            rounding = max(_rounding(vector) for vector in (*one, *other))
            norms = float(np.linalg.norm(rows) + np.linalg.norm(others))
            slack += SLACK * rounding * gain * (norms if math.isfinite(norms) else 0.0)
    return math.sqrt(square), slack


def _check_fate(bench: Bench, training: Training, vehicle: str, probe: Probe, name: str) -> bool:
    """Judge whether the vehicle was counted, or dropped and reported; whether it was counted at all."""
    rounds = [training[number - 1] for number in bench.claim.takes]
    counts = [released.counted.count(vehicle) for released in rounds]
    dropped = min(released.refused.count(vehicle) for released in rounds)
    wanted = 1 if probe.fate == "counted" else 0
    good = set(counts) <= ({0, 1} if probe.fate == "either" else {wanted})
    bench.book.judge("counted", name, wanted, max(counts), holds=good)
    if not max(counts):
        bench.book.judge("refused", name, 1, dropped, holds=dropped >= 1)
    return max(counts) > 0


def _kind(claim: Claim, probe: str) -> str:
    if claim.relation == "replace-one":
        return "huge" if probe == "opposite" else "opposite"
    return "silent" if claim.relation == "zero-out" else "absent"


def _vector(released: object, name: str, exact: bool) -> Array:
    vectors = getattr(released, "exact" if exact else "vectors")
    return np.asarray(vectors[name])


def _rounding(vector: Array) -> float:
    return float(np.finfo(vector.dtype).eps) if np.issubdtype(vector.dtype, np.floating) else 0.0


def _unlike(one: Training, other: Training) -> int:
    """Numbers that differ between two runs."""
    return sum(
        int(np.sum(np.asarray(first.vectors[name]) != np.asarray(second.vectors.get(name))))
        for first, second in zip(one, other, strict=True)
        for name in first.vectors
    )
