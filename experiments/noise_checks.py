"""What an experiment under differential privacy must fulfil: what a mechanism does not claim is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from carpool.experiments.example_checks import example_problems
from carpool.experiments.hints import shown

if TYPE_CHECKING:
    from carpool.experiments.config import Experiment

Found = Iterator[tuple[tuple[str, ...], str]]
KEY = "privacy.dp"
OF_MATRIX = ("kind", "bands", "min_separation", "max_participations")


def noise_problems(e: Experiment) -> Found:
    """Every broken rule that the file alone shows, if it has a mechanism."""
    dp = e.privacy.dp
    if dp.mechanism == "none":
        return
    yield from _claimed(e)
    yield from example_problems(e)
    yield from _sampling(e)
    yield from _matrix(e)
    yield from _adaptive(e)
    yield from _together(e)
    yield from _books(e)
    if dp.mechanism == "distributed" and e.privacy.channel == "secagg":
        yield from _honest(e)


def _claimed(e: Experiment) -> Found:
    from carpool.privacy.dp.mechanism import CLAIMS, misfits

    dp = e.privacy.dp
    keys: dict[str, str] = {
        "channel": "privacy.channel",
        "engine": "experiment.engine",
        "selector": "selection.name",
    }
    if dp.mechanism != "sgd":  # example_problems has better words for these
        keys |= {"unit": f"{KEY}.unit", "relation": f"{KEY}.relation"}
    unfit = misfits(
        dp.mechanism,  # type: ignore[arg-type]  # "none" has returned above
        channel=e.privacy.channel,
        engine=e.experiment.engine,
        selector=e.selection.name,
        unit=dp.unit,
        relation=dp.relation,
    )
    for what, value, good in unfit:
        if what in keys:
            yield (
                (keys[what], f"{KEY}.mechanism"),
                f"{keys[what]} is {shown(value)}, but {KEY}.mechanism {shown(dp.mechanism)} is claimed for "
                f"{', '.join(map(shown, good))} only; it trusts {CLAIMS[dp.mechanism].trusted}",  # type: ignore[index]
            )


def _sampling(e: Experiment) -> Found:
    dp = e.privacy.dp
    if dp.sampling == "poisson" and (dp.mechanism != "central" or e.selection.name != "poisson"):
        yield (
            (f"{KEY}.sampling", "selection.name", f"{KEY}.mechanism"),
            f'{KEY}.sampling is "poisson", but amplification by sampling holds for mechanism "central" with '
            f'selection.name = "poisson" only, not for {shown(dp.mechanism)} with {shown(e.selection.name)}; '
            'use sampling = "none"',
        )
    elif dp.sampling == "poisson" and e.privacy.channel == "secagg":
        yield (
            (f"{KEY}.sampling", "privacy.channel"),
            f'{KEY}.sampling is "poisson", but privacy.channel = "secagg" shows no sum of fewer than '
            "privacy.secagg.n_min vehicles, and such a round would tell something of who was drawn; use "
            'sampling = "none", or channel = "sealed", where every round is released',
        )


def _matrix(e: Experiment) -> Found:
    dp, rounds = e.privacy.dp, e.experiment.rounds
    how = dp.matrix
    if dp.mechanism != "matrix":
        for name in OF_MATRIX:
            if getattr(how, name) != type(how).model_fields[name].default:
                yield (
                    (f"{KEY}.matrix.{name}", f"{KEY}.mechanism"),
                    f"{KEY}.matrix.{name} is {shown(getattr(how, name))}, which only mechanism "
                    f'"matrix" uses, not {shown(dp.mechanism)}; leave it out',
                )
        return
    if how.bands > rounds:
        text = f"{KEY}.matrix.bands is {how.bands}, but there are {rounds} rounds; use at most {rounds}"
        yield (f"{KEY}.matrix.bands", "experiment.rounds"), text
    fewest = e.selection.asked * how.min_separation
    if fewest > e.fleet.vehicles:
        yield (
            (f"{KEY}.matrix.min_separation", "selection.cohort", "fleet.vehicles"),
            f"{KEY}.matrix.min_separation {how.min_separation} keeps each vehicle out of that many rounds, "
            f"so {e.selection.asked} asked a round need {fewest} vehicles; fleet.vehicles is "
            f"{e.fleet.vehicles}: lower the separation or the cohort",
        )


def _adaptive(e: Experiment) -> Found:
    dp = e.privacy.dp
    if dp.adaptive.quantile and dp.mechanism not in ("central", "distributed"):
        yield (
            (f"{KEY}.adaptive.quantile", f"{KEY}.mechanism"),
            f"{KEY}.adaptive.quantile is {dp.adaptive.quantile}, but the clip norm adapts under mechanism "
            f'"central" or "distributed" alone, not {shown(dp.mechanism)}; use 0.0',
        )
    for name in ("lr", "bits_noise"):
        given = getattr(dp.adaptive, name)
        if not dp.adaptive.quantile and given != type(dp.adaptive).model_fields[name].default:
            yield (
                (f"{KEY}.adaptive.{name}", f"{KEY}.adaptive.quantile"),
                f"{KEY}.adaptive.{name} is {given}, but {KEY}.adaptive.quantile is 0.0, so the clip norm "
                "stays; set quantile = 0.5 or leave it out",
            )


def _together(e: Experiment) -> Found:
    dp = e.privacy.dp
    if e.compression.name != "none":
        yield (
            ("compression.name", f"{KEY}.mechanism"),
            f"compression.name is {shown(e.compression.name)}, but under {KEY}.mechanism "
            f"{shown(dp.mechanism)} what a vehicle could not send must not come back later; leave "
            "[compression] out",
        )
    if dp.mechanism == "distributed" and e.privacy.protocol == "one-shot" and e.privacy.secagg.bits == 16:
        yield (
            (f"{KEY}.mechanism", "privacy.secagg.bits"),
            "distributed noise under one-shot needs 24 or 32 bits",
        )


def _books(e: Experiment) -> Found:
    dp = e.privacy.dp
    if dp.fleet_epsilon and not dp.ledger:
        yield (
            (f"{KEY}.fleet_epsilon", f"{KEY}.ledger"),
            f"{KEY}.fleet_epsilon is {dp.fleet_epsilon}, but {KEY}.ledger is empty; name the fleet's ledger, "
            'such as ledger = "fleet.jsonl"',
        )
    if dp.randomness == "seeded" and dp.ledger:
        yield (
            (f"{KEY}.randomness", f"{KEY}.ledger"),
            f'{KEY}.randomness is "seeded", which protects nobody, so {KEY}.ledger {shown(dp.ledger)} must '
            'not count it; leave ledger out or use randomness = "system"',
        )


def _honest(e: Experiment) -> Found:
    from carpool.privacy.dp.protection import honest

    how = e.privacy.secagg
    taken_back = e.privacy.protocol == "secagg+" and e.privacy.dp.xnoise
    roster = how.n_min if taken_back else e.selection.asked
    try:
        honest(how.n_min, roster, how.corrupt_fraction, e.privacy.dp.relation)
    except ValueError as error:
        yield (f"{'privacy.secagg'}.n_min", f"{KEY}.mechanism"), str(error)
