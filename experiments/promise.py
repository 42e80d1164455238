"""What differential privacy promises in a run, out of its records, in words and numbers.

`dp` is the `privacy` of a result.json or the [privacy.dp] of a configuration: mechanism, unit, relation and
delta stand in both. Epsilon is always what the records say was spent, never what was asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from carpool.experiments.results import Record, clean, number
from carpool.privacy.dp.mechanism import CLAIMS, Claim

STAMP = (
    "NOT PRIVATE: noise came from a seeded generator; whoever knows the seed takes it off, epsilon is void"
)
UNITS = {
    "vehicle": "each vehicle",
    "owner": "each owner",
    "vehicle-day": "each day of each vehicle",
    "example": "each example",
}
PARTS = {
    "vehicle": "all that one vehicle sent",
    "owner": "all that one owner's vehicles sent",
    "vehicle-day": "what one vehicle sent of one day",
    "example": "one picture with its labels",
}
RELATIONS = {
    "zero-out": "zero-out: as if its part were zeros",
    "add-remove": "add-remove: as if it had not taken part",
    "replace-one": "replace-one: as if its part were anything else",
}
NOISE = {
    "central": "central: the aggregator adds noise to each sum",
    "distributed": "distributed: each vehicle adds a share of the noise, inside the secure sum",
    "local": "local: each vehicle adds all the noise itself",
    "sgd": "sgd: each vehicle adds noise in every step of its training",
    "matrix": "matrix: the aggregator adds noise that takes itself back over the rounds",
}
SUMS = ("central", "distributed")
"""Mechanisms whose noise multiplier is that of each released sum."""
ALARM = 1e-4
"""The false alarms, of those asked about in vain, at which a promise is put into words."""
HARDLY = 10.0
"""An epsilon above which a promise is hardly one."""


def claim(dp: Mapping[str, Any]) -> Claim | None:
    """What is claimed of the mechanism; None without one, or for one that nobody knows."""
    name = dp.get("mechanism")
    return next((found for known, found in CLAIMS.items() if known == name), None)


def spent(records: Sequence[Record]) -> float:
    """Epsilon after the last record; NaN where it says none."""
    return number(records[-1].get("epsilon")) if records else math.nan


def private(records: Sequence[Record]) -> bool:
    """Whether no record says that its noise came from a seeded generator."""
    return all(_noise(record).get("private", True) is True for record in records)


def sentence(dp: Mapping[str, Any], records: Sequence[Record]) -> str | None:
    """Epsilon, delta, unit and against whom, in one sentence; None without a mechanism."""
    found = claim(dp)
    if found is None:
        return None
    unit = UNITS.get(str(dp.get("unit")), clean(dp.get("unit")))
    if math.isnan(spent(records)):
        return "Differential privacy was asked for, but no record says what was spent: nothing is claimed."
    told = f"epsilon {spent(records):.4g} at delta {number(dp.get('delta')):g} for {unit}"
    if not private(records):
        return f"{STAMP} ({told} with noise that nobody foresees)."
    return f"{told[0].upper()}{told[1:]}, against {found.against}."


def warnings(dp: Mapping[str, Any], records: Sequence[Record]) -> list[str]:
    """What must not be overlooked, the worst first; empty where all is as it should be."""
    if claim(dp) is None:
        return []
    told = [] if private(records) else [f"{STAMP}."]
    if spent(records) > HARDLY:
        told.append(f"Epsilon is {spent(records):.4g}: above {HARDLY:g} it is hardly a promise.")
    if short := [record for record in records if thin(record)]:
        told.append(
            f"In {len(short):,} of {len(records):,} rounds less noise than planned was in the sum, as more "
            "vehicles left than were planned for; each was charged with the noise that was there."
        )
    bare = [one for one in records if (one.get("secagg") or {}).get("cryptography", "full") != "full"]
    if dp.get("mechanism") == "distributed" and bare:
        told.append(
            f"In {len(bare):,} of {len(records):,} rounds the arithmetic of secure aggregation was run "
            "without keys and masks: noise, sum and charge are those of a fleet that masks, but here this "
            "process saw every update with its share of the noise only."
        )
    return told


def thin(record: Record) -> bool:
    """Whether a sum was left with less noise than was planned for it."""
    noise = _noise(record)
    planned, real = number(noise.get("noise_multiplier")), number(noise.get("realised_noise"))
    return real < planned * (1 - 1e-9)


def facts(
    dp: Mapping[str, Any], records: Sequence[Record], ledger: Mapping[str, Any] | None = None
) -> list[tuple[str, str]]:
    """What is promised, to whom and by which means, as (what, value); ledger: `ledgerfacts.ledger_head`."""
    found = claim(dp)
    if found is None:
        return []
    rows = [("Holds against", found.against), ("Trusted", found.trusted)]
    if not math.isnan(spent(records)):
        rows.append(("What that means", meaning(spent(records), number(dp.get("delta")))))
    rows += [
        ("Noise", NOISE.get(str(dp.get("mechanism")), "")),
        ("Unit", f"{clean(dp.get('unit'))}: {PARTS.get(str(dp.get('unit')), 'unknown')}"),
        ("Neighbours", RELATIONS.get(str(dp.get("relation")), clean(dp.get("relation")))),
        ("Delta", f"{number(dp.get('delta')):g}: probability with which epsilon need not hold"),
    ]
    return rows + _amount(str(dp.get("mechanism")), records) + _ledger(ledger)


def _amount(mechanism: str, records: Sequence[Record]) -> list[tuple[str, str]]:
    """How much noise there was."""
    planned = _numbers(records, "noise_multiplier")
    if not planned:
        return []
    told, real = _span(planned), _numbers(records, "realised_noise")
    if mechanism == "matrix":
        once = "charged once, before the first round, as one Gaussian release at"
        return [("Noise of the whole training", f"{once} {told} clip norms")]
    if mechanism not in SUMS:
        return [("Noise, in clip norms", told)]
    there = f"; really there: {_span(real)}" if real else ""
    return [("Noise in a sum, in clip norms", f"planned: {told}{there}")]


def _numbers(records: Sequence[Record], key: str) -> list[float]:
    found = [number(_noise(one).get(key)) for one in records]
    return [one for one in found if not math.isnan(one)]


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.4g}", f"{max(values):.4g}"
    return low if low == high else f"{low} to {high}"


def _ledger(found: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if found is None:
        return [("Ledger", "none in this run's folder: nothing shows that anything was charged")]
    if found["fault"] is not None:
        return [("Ledger", f"damaged: {clean(found['fault'])}")]
    charges = f"{found['charges']:,} charge" + "s" * (found["charges"] != 1)
    told = f"{charges} in {found['lines']:,} lines, all of which hold"
    rows = [("Ledger", told), ("Head of the ledger", f"{found['number']} {found['hash']}")]
    if found["epsilon"] is not None:
        rows.append(
            ("Epsilon, from the ledger alone", f"{found['epsilon']:.6g} by accountant {found['accountant']}")
        )
    if found["gaussian"] is not None:
        rows.append(("Were that noise Gaussian", f"{found['gaussian']:.6g} by the same accountant"))
    return rows


def meaning(epsilon: float, delta: float) -> str:
    """A promise as the best that a test for one unit can do: power is at most e^epsilon alarm + delta.

    >>> meaning(1.0, 1e-5).partition("finds ")[2]
    'at most 0.028% of those whose data are'
    """
    power = math.exp(min(epsilon, 700.0)) * ALARM + delta
    test = f"a test that wrongly names 1 in {1 / ALARM:,.0f} whose data are not in it finds"
    if power >= 1:
        return f"{test} up to all whose data are: no bound at that rate"
    return f"{test} at most {100 * power:.2g}% of those whose data are"


def document(
    dp: Mapping[str, Any], records: Sequence[Record], ledger: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """The same for JSON; None without a mechanism."""
    found = claim(dp)
    if found is None:
        return None
    epsilon, delta = spent(records), number(dp.get("delta"))
    return {
        "says": sentence(dp, records),
        "warnings": warnings(dp, records),
        "mechanism": dp.get("mechanism"),
        "epsilon": None if math.isnan(epsilon) else epsilon,
        "delta": None if math.isnan(delta) else delta,
        "unit": dp.get("unit"),
        "relation": dp.get("relation"),
        "against": found.against,
        "trusted": found.trusted,
        "private": private(records),
        "ledger": ledger,
    }


def _noise(record: Record) -> Mapping[str, Any]:
    found = record.get("dp")
    return found if isinstance(found, Mapping) else {}
