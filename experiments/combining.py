"""What may not be combined, with the way out, and what the catalogues of selectors and attacks say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from carpool.experiments.checks import Found, Problem, cross_problems
from carpool.experiments.hints import shown
from carpool.privacy.errors import ConfigError

if TYPE_CHECKING:
    from carpool.experiments.config import Experiment


def combination_problems(e: Experiment) -> list[Problem]:
    """Every pairing that does not hold of an experiment whose names and options are known to be right."""
    rules = (
        losses_under_masks,
        sets_under_masks,
        rounds_under_masks,
        unseen_by_noise,
        example_by_example,
        attackers_apart,
        nobody,
    )
    return [Problem(keys, text) for rule in rules for keys, text in rule(e)]


def losses_under_masks(e: Experiment) -> Found:
    """A selector that looks at single vehicles' losses, under secure aggregation."""
    from carpool.server.selectors import catalogue

    if e.privacy.channel == "secagg" and catalogue.build(e.selection.name, e.selection.options).needs_loss:
        yield (
            ("selection.name", "privacy.channel"),
            f"selection.name is {shown(e.selection.name)}, which looks at each vehicle's loss, but "
            'privacy.channel = "secagg" hides it; use "uniform", "poisson", "refl" or "stratified", or '
            'privacy.channel = "sealed"',
        )


def sets_under_masks(e: Experiment) -> Found:
    """A strategy that must see each update, under secure aggregation and without groups large enough."""
    from carpool.experiments import plugins

    if e.privacy.channel != "secagg":
        return
    try:
        strategy = plugins.build(e.strategy)
    except ConfigError:
        return  # reported by itself
    bucket, cohort, least = e.strategy.bucket, e.selection.cohort, e.privacy.secagg.n_min
    smallest = cohort // -(-cohort // bucket) if bucket > 1 else 1
    if strategy.needs_set and 1 < smallest < least:
        yield (
            ("strategy.bucket", "selection.cohort", "privacy.secagg.n_min"),
            f"strategy.bucket {bucket} of selection.cohort {cohort} makes groups of {smallest}, but a sum of "
            f"fewer than {least} vehicles (privacy.secagg.n_min) is never shown; make cohort a multiple of a "
            f"bucket of {least} or more, and larger where vehicles leave",
        )
    elif strategy.needs_set and smallest == 1:
        yield (
            ("strategy.name", "privacy.channel"),
            f"strategy.name is {shown(e.strategy.name)}, which compares single updates, but privacy.channel "
            f'= "secagg" shows sums only; set strategy.bucket to at least {least} '
            "(privacy.secagg.n_min) so that it compares sums of groups, or use "
            'privacy.channel = "sealed"',
        )


def rounds_under_masks(e: Experiment) -> Found:
    """A strategy without rounds, under masks: protocols of one message, and sums that are large enough."""
    if e.privacy.channel != "secagg":
        return
    how, size, key = e.privacy.secagg, buffer_of(e), "privacy.secagg"
    buffer = "asynchrony.buffer" if e.asynchrony.buffer else "strategy.options"
    if not size:
        if how.per_version:
            yield (
                (f"{key}.per_version", "asynchrony.buffer"),
                f"{key}.per_version is {how.per_version}, but the run has rounds, whose vehicles all start "
                "from one version; leave it out",
            )
        return
    if e.privacy.protocol == "secagg+":
        yield (
            ("privacy.protocol", "strategy.name", buffer),
            f"strategy.name {shown(e.strategy.name)} has a buffer and no rounds, but the vehicles of "
            'privacy.protocol = "secagg+" mask with each other, round by round; use protocol = "one-shot", '
            "in which a vehicle speaks once",
        )
        return
    if size < how.n_min:
        yield (
            (buffer, f"{key}.n_min"),
            f"a step takes {size} contributions ({buffer}), but a sum of fewer than {how.n_min} vehicles "
            f"({key}.n_min) is never shown; make the buffer {how.n_min} or more",
        )
    if how.per_version > how.n_min:
        yield (
            (f"{key}.per_version", f"{key}.n_min"),
            f"{key}.per_version is {how.per_version}, above the {how.n_min} of {key}.n_min; use 0 for as "
            "many",
        )
    if how.full_rounds:
        yield (
            (f"{key}.full_rounds", buffer),
            f"{key}.full_rounds is {how.full_rounds}, but without rounds all of the cryptography runs; leave "
            "it out",
        )
    if e.strategy.bucket > 1:
        yield (
            ("strategy.bucket", buffer, "privacy.channel"),
            f"strategy.bucket is {e.strategy.bucket}, but a buffer under masks is one sum and has no groups; "
            'use rounds, or channel = "sealed"',
        )


def buffer_of(e: Experiment) -> int:
    """Contributions of a step, 0 for rounds, or where the strategy is reported by itself."""
    from carpool.experiments import plugins

    try:
        return plugins.build(e.strategy).buffer or e.asynchrony.buffer
    except ConfigError:
        return 0


def unseen_by_noise(e: Experiment) -> Found:
    """A strategy or selector that differential privacy leaves nothing to see."""
    from carpool.experiments import plugins
    from carpool.server.selectors import catalogue

    dp = e.privacy.dp
    if dp.mechanism == "none":
        return
    if catalogue.build(e.selection.name, e.selection.options).needs_loss:
        yield (
            ("selection.name", "privacy.dp.mechanism"),
            f"selection.name is {shown(e.selection.name)}, which looks at each vehicle's loss, but under "
            f'privacy.dp.mechanism {shown(dp.mechanism)} no loss leaves a vehicle; use "uniform"',
        )
    try:
        strategy = plugins.build(e.strategy)
    except ConfigError:
        return  # reported by itself
    if strategy.needs_set and dp.mechanism not in ("local", "sgd"):
        yield (
            ("strategy.name", "privacy.dp.mechanism"),
            f"strategy.name is {shown(e.strategy.name)}, which compares updates, but privacy.dp.mechanism "
            f'{shown(dp.mechanism)} makes their sum private; use a strategy of sums, or mechanism = "local"',
        )
    if strategy.passes or strategy.buffer or e.asynchrony.buffer:
        yield (
            ("strategy.name", "privacy.dp.mechanism"),
            f"strategy.name is {shown(e.strategy.name)}, which has several passes a round or a buffer, but "
            "each would be a release of its own, which is not charged in this version; use one of rounds",
        )


def example_by_example(e: Experiment) -> Found:
    """A strategy that does not fit example-level noise."""
    from carpool.experiments import plugins
    from carpool.experiments.example_checks import refusal

    if e.privacy.dp.mechanism != "sgd":
        return
    try:
        strategy = plugins.build(e.strategy)
    except ConfigError:
        return  # reported by itself
    keys = ("strategy.name", "privacy.dp.mechanism")
    if strategy.root:
        yield (
            keys,
            f"strategy.name is {shown(e.strategy.name)}, which compares with an update from trusted samples, "
            'which here are some of the vehicles\' own, and under privacy.dp.mechanism "sgd" nothing of them '
            "goes without noise; use another strategy, such as fedavg or median",
        )
    elif why := refusal(strategy):
        yield keys, why


def attackers_apart(e: Experiment) -> Found:
    """Attackers that must know the honest updates, on an engine that trains each vehicle by itself."""
    from carpool.experiments.attacks import build

    if e.attack.name == "none" or e.experiment.engine != "ray":
        return
    if build(e.attack.name, dict(e.attack.options)).together:
        yield (
            ("attack.name", "experiment.engine"),
            f"attack.name is {shown(e.attack.name)}, which looks at what honest vehicles send, but engine "
            'ray trains each vehicle by itself; use engine = "inline"',
        )


def nobody(e: Experiment) -> Found:
    """An attack in which nobody takes part."""
    fraction, vehicles = e.attack.fraction, e.fleet.vehicles
    if e.attack.name != "none" and not 0 < round(fraction * vehicles) < vehicles:
        yield (
            ("attack.fraction", "fleet.vehicles"),
            f"attack.fraction {fraction} of {vehicles} vehicles is {round(fraction * vehicles)} of them; "
            "some must be malicious and some honest",
        )


def option_problems(e: Experiment) -> list[Problem]:
    """What the catalogues say against the options of the selector and the attack, then the pairings.

    A pairing with something that is refused by itself is not reported again.
    """
    if found := [*_options(e)]:
        return found
    refused = {problem.keys[0] for problem in cross_problems(e)}
    return [problem for problem in combination_problems(e) if not refused & {*problem.keys}]


def _options(e: Experiment) -> Iterator[Problem]:
    from carpool.experiments import attacks
    from carpool.server.selectors import catalogue

    sections: list[tuple[str, Any, Any]] = [("selection", e.selection, catalogue.build)]
    if e.attack.name != "none":
        sections.append(("attack", e.attack, attacks.build))
    for table, section, build in sections:
        try:
            build(section.name, dict(section.options))
        except ValueError as error:
            yield Problem((f"{table}.options", f"{table}.name"), f"{table}.options: {error}")
