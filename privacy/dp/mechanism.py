"""What each mechanism claims, against whom, and what it may be combined with: a table.

The words are those of the configuration. A combination that is not here is refused: somebody would have to
show first that its epsilon is true.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from carpool.privacy.dp.events import RELATIONS, Relation, Unit

Name = Literal["central", "distributed", "local", "sgd", "matrix"]
Weights = Literal["one", "bounded"]
Sampling = Literal["none", "poisson selector", "poisson batches"]

BLIND = ("uniform", "poisson", "refl", "stratified")
"""Selectors that do not look at what vehicles say of their data."""
SERVED = ("inline", "ray", "superlink")
"""Engines with a server. Peers send models to each other, and none of these releases is one of those."""
UNIT_NEEDS: Mapping[Unit, str] = {
    "vehicle": "nothing: a contribution is one vehicle's, whichever telematics unit sends it",
    "owner": "at most one vehicle of an owner in a round, or an owner's updates summed and clipped again "
    "before they leave the owner",
    "vehicle-day": "each contribution trained on samples of one day of its vehicle",
    "example": "clipping and noise in every step of training, on the vehicle",
}
"""What else must hold, and be enforced, for the unit to be the one that is claimed."""


@dataclass(frozen=True)
class Claim:
    """What is claimed of one mechanism.

    against: whom its epsilon holds against; trusted: whom it needs, and with what; channels, engines,
    selectors: of the configuration, those that fit; weights: every vehicle counts alike ("one"), or with a
    weight up to a largest, multiplied in before clipping ("bounded"); sets: whether strategies fit that see
    single contributions; units, relations: for which the sensitivity is shown; sampling: what may lower its
    epsilon, besides "none"; realised: whether lost vehicles take noise away, so that a release is charged
    again with the noise that is there. Numbers that leave a vehicle beside the contribution (loss, accuracy)
    are one more channel of it, or off.
    """

    against: str
    trusted: str
    channels: tuple[str, ...]
    units: tuple[Unit, ...]
    relations: tuple[Relation, ...]
    sampling: Sampling = "none"
    realised: bool = False
    sets: bool = False
    weights: tuple[Weights, ...] = ("one", "bounded")
    engines: tuple[str, ...] = SERVED
    selectors: tuple[str, ...] = BLIND


_WHOLE: tuple[Unit, ...] = ("vehicle", "owner", "vehicle-day")
_SEEN: tuple[Relation, ...] = ("zero-out", "replace-one")
"""Where the adversary sees who takes part, or how many examples there are, none can be hidden by adding or
removing it."""
_ANY = ("secagg", "sealed", "plain")

CLAIMS: Mapping[Name, Claim] = {
    "central": Claim(
        "whoever sees the released models, other vehicles included; with Poisson sampling only those who "
        "never learn who was asked",
        "the aggregator: it sees each sum without noise, and under sealed or plain each update",
        _ANY,
        _WHOLE,
        RELATIONS,
        sampling="poisson selector",
    ),
    "distributed": Claim(
        "the aggregator and whoever sees the released models, with as many vehicles on their side as the "
        "protocol allows",
        "no single party: that enough of the other vehicles in a sum add their noise",
        ("secagg",),
        _WHOLE,
        _SEEN,
        realised=True,
    ),
    "local": Claim(
        "everybody but the vehicle itself",
        "nobody",
        _ANY,
        _WHOLE,
        _SEEN,
        sets=True,
    ),
    "sgd": Claim(
        "everybody but the vehicle itself; the number of its examples is not hidden",
        "nobody",
        _ANY,
        ("example",),
        _SEEN,
        sampling="poisson batches",
        sets=True,
        weights=("one",),  # a weight by examples would tell their number without noise
    ),
    "matrix": Claim(
        "whoever sees the released models, other vehicles included",
        "the aggregator: it sees each sum without noise and keeps the noise's key, and it lets each vehicle "
        "in as seldom as the schema says",
        _ANY,
        _WHOLE,
        RELATIONS,
    ),
}


def misfits(
    name: Name,
    *,
    channel: str,
    engine: str,
    selector: str,
    unit: str,
    relation: str,
    weights: str = "one",
    sets: bool = False,
) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """What of a combination is not claimed, as (what, its value, the values that would do); none: it fits.

    sets: whether the strategy sees single contributions.
    """
    claim = CLAIMS[name]
    asked: tuple[tuple[str, str, tuple[str, ...]], ...] = (
        ("channel", channel, claim.channels),
        ("engine", engine, claim.engines),
        ("selector", selector, claim.selectors),
        ("unit", unit, claim.units),
        ("relation", relation, claim.relations),
        ("weights", weights, claim.weights),
        ("strategy's view", "set" if sets else "sum", ("sum", "set") if claim.sets else ("sum",)),
    )
    for what, value, good in asked:
        if value not in good:
            yield what, value, good


def may_sample(name: Name, selector: str) -> bool:
    """Whether the epsilon over rounds may be lowered by the sampling of VEHICLES.

    >>> may_sample("central", "poisson"), may_sample("central", "uniform"), may_sample("matrix", "poisson")
    (True, False, False)
    """
    return CLAIMS[name].sampling == "poisson selector" and selector == "poisson"
