"""Differential privacy in a run: the noise that the target asks for, the ledgers, the mechanism's parts.

target (epsilon, delta) -> noise multiplier -> Protection   what vehicles and server agree on
                                            -> Private      the server's half: books, noise, participation
                                            -> Guard        the vehicles' odometers
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carpool.experiments.config import Experiment
from carpool.experiments.private_books import Spent, check_ledgers
from carpool.experiments.private_noise import MatrixStream, central_noise, participation
from carpool.privacy.dp.budget import Books, Budget
from carpool.privacy.dp.events import Event
from carpool.privacy.dp.forms import NoisyForm, form_for
from carpool.privacy.dp.ledger import Ledger
from carpool.privacy.dp.ledgerlines import Header
from carpool.privacy.dp.protection import Protection
from carpool.privacy.errors import ConfigError
from carpool.server.private import Private
from carpool.strategies.contract import Strategy

if TYPE_CHECKING:
    from carpool.experiments.example_runs import Examples
    from carpool.experiments.workshop import Workshop
    from carpool.privacy.dp import matrix

LEDGER = "ledger.jsonl"
MOST_BANDS = 64


@dataclass(frozen=True)
class Planned:
    """A training's noise. event: of one release, of the whole training for `matrix`; releases: as charged.

    plan: of `matrix`; examples: of `sgd`, whose protection says which noise is in every step of a training.
    """

    protection: Protection
    event: Event
    releases: int = 1
    plan: matrix.Plan | None = None
    examples: Examples | None = None


def planned(
    experiment: Experiment, sizes: Mapping[str, int], examples: Examples | None = None
) -> Planned | None:
    """The noise that the experiment asks for, None without; sizes: numbers by channel of a contribution.

    examples: `examples_for` the experiment, None but for `sgd`. Raises ConfigError where no noise keeps the
    target, or the ring has no room for it.
    """
    if experiment.privacy.dp.mechanism == "none":
        return None
    if examples is not None:
        noise = examples.noise.noise_multiplier
        return Planned(protection_of(experiment, noise), examples.event, examples=examples)
    try:
        return _planned(experiment, tuple(sorted(sizes.items())))
    except (ValueError, ArithmeticError) as error:
        raise ConfigError([f"[privacy.dp]: {error}"]) from error


def _planned(experiment: Experiment, sizes: tuple[tuple[str, int], ...]) -> Planned:
    dp, rounds = experiment.privacy.dp, experiment.experiment.rounds
    if dp.mechanism == "matrix":
        from carpool.privacy.dp import matrix

        plan = matrix_plan(experiment)
        noise = dp.noise_multiplier or _calibrated(experiment, 1)
        event = matrix.event(plan, plan.width(noise))
        _check_room(experiment, plan.width(noise) * largest_noise(plan))
        return Planned(protection_of(experiment, noise), event, rounds, plan)
    if dp.mechanism == "distributed":
        noise = dp.noise_multiplier or _distributed(experiment, sizes)
        form = form_of(experiment, dict(sizes), protection_of(experiment, noise))
        return Planned(protection_of(experiment, noise), form.plan.event(form.plan.target))
    rate = sampling_rate(experiment)
    noise = dp.noise_multiplier or _calibrated(experiment, rounds, rate)
    if dp.mechanism == "central":
        _check_room(experiment, noise)
    return Planned(protection_of(experiment, noise), Event("gaussian", noise, rate))


def _check_room(experiment: Experiment, noise: float) -> None:
    """Raise ValueError where masked sums and their noise, in clip norms, do not fit into the ring."""
    from carpool.privacy.dp.grid import most_in_ring

    privacy, most = experiment.privacy, most_asked(experiment)
    room = most_in_ring(noise, privacy.secagg.bits)
    if privacy.channel == "secagg" and most > room:
        raise ValueError(
            f"sums of {most} vehicles with noise of {noise:.3g} clip norms do not fit into "
            f"{privacy.secagg.bits} bits, which have room for {room}; use privacy.secagg.bits = 32, ask "
            'fewer, or use mechanism = "distributed"'
        )


def widened(strategy: Strategy[Any], plan: Planned | None, shared: int) -> Strategy[Any]:
    """With room for a vehicle's own noise in the ranges of its channels, where they have any; `local`."""
    if plan is None or plan.protection.mechanism != "local":
        return strategy
    p, sizes = plan.protection, strategy.sizes(shared)
    longest = {name: p.clip_norm * (1 + p.noise_multiplier * (math.sqrt(n) + 6)) for name, n in sizes.items()}
    channels = tuple(c if c.clip is None else replace(c, clip=longest[c.name]) for c in strategy.channels)
    return replace(strategy, channels=channels)


def largest_noise(plan: matrix.Plan) -> float:
    """The largest standard deviation of a round's noise, for raw noise of 1."""
    from carpool.privacy.dp import toeplitz

    if not plan.coefficients:
        return math.sqrt(2.0) * math.sqrt(float(plan.variances().max()))
    row = toeplitz.inverse(plan.column, plan.rounds)
    return math.sqrt(float((row * row).sum()))


def _calibrated(experiment: Experiment, releases: int, rate: float = 1.0) -> float:
    from carpool.privacy.dp.calibrate import calibrate

    dp = experiment.privacy.dp
    return calibrate(dp.epsilon, dp.delta, releases, rate, dp.relation)


def _distributed(experiment: Experiment, sizes: tuple[tuple[str, int], ...]) -> float:
    from carpool.privacy.dp.calibrate import noise_for

    dp, rounds = experiment.privacy.dp, experiment.experiment.rounds

    def plan(noise: float) -> tuple[Event, ...]:
        form = form_of(experiment, dict(sizes), protection_of(experiment, noise))
        one = form.plan.event(form.plan.target)
        return (Event(one.mechanism, one.noise_multiplier, 1.0, rounds, one.sensitivity, one.l1, one.step),)

    return noise_for(plan, dp.epsilon, dp.delta, dp.relation)


def form_of(experiment: Experiment, sizes: Mapping[str, int], protection: Protection) -> NoisyForm:
    """The form of the experiment's noisy sums, for a round of everybody asked; raises ValueError."""
    how = experiment.privacy.secagg
    form = form_for(
        protection,
        sizes,
        most=max(most_asked(experiment), how.n_min),
        n_min=how.n_min,
        bits=how.bits,
        rotation=bytes(16),
        gamma=how.corrupt_fraction,
        delta=how.dropout_fraction,
        extras=extras_of(experiment),
        variance=error_of(experiment),
    )
    if not isinstance(form, NoisyForm):
        raise ValueError(f"{protection.mechanism} has no noise on vehicles")
    return form


def most_asked(experiment: Experiment) -> int:
    """Vehicles asked in a round at most; under Poisson sampling, but for once in 10^9 rounds."""
    vehicles, wanted = experiment.fleet.vehicles, experiment.selection.asked
    if experiment.selection.name != "poisson":
        return wanted
    return min(vehicles, wanted + math.ceil(6.1 * math.sqrt(wanted)) + 6)


def extras_of(experiment: Experiment) -> int:
    """Seeds of noise that can be taken back: under `secagg+` alone."""
    privacy = experiment.privacy
    used = privacy.channel == "secagg" and privacy.protocol == "secagg+" and privacy.dp.xnoise
    return 16 if used and privacy.dp.mechanism == "distributed" else 0


def error_of(experiment: Experiment) -> float:
    """Variance of the protocol's own error in one vehicle's number, squared steps."""
    from carpool.privacy.secagg import rlwe

    return rlwe.VARIANCE if experiment.privacy.protocol == "one-shot" else 0.0


def sampling_rate(experiment: Experiment) -> float:
    """The probability with which a vehicle is asked, where the accountant may use it, else 1."""
    from carpool.server.selectors.poisson import sampling_rate as rate

    if experiment.privacy.dp.sampling != "poisson":
        return 1.0
    selection = experiment.selection
    return rate(selection.cohort * (1 + selection.over_select), experiment.fleet.vehicles)


def protection_of(experiment: Experiment, noise: float) -> Protection:
    """What vehicles and server agree on."""
    dp = experiment.privacy.dp
    return Protection(
        dp.mechanism,
        dp.clip_norm,
        noise,
        experiment.selection.cohort,
        dp.unit,
        dp.relation,
        dp.randomness == "system",
    )


def matrix_plan(experiment: Experiment) -> matrix.Plan:
    """The factorisation of a training; raises ValueError."""
    from carpool.privacy.dp import matrix
    from carpool.privacy.dp.schema import Schema

    how, rounds = experiment.privacy.dp.matrix, experiment.experiment.rounds
    most = how.max_participations or math.ceil(rounds / how.min_separation)
    schema = Schema(how.min_separation, most)
    if how.kind == "tree":
        return matrix.tree_plan(rounds, schema)
    bands = how.bands or min(how.min_separation, MOST_BANDS, rounds)
    return matrix.toeplitz_plan(rounds, schema, bands)


@contextmanager
def private(workshop: Workshop, folder: Path, round_: int) -> Iterator[Private | None]:
    """The server's half for a block, from the round after `round_`; None without noise on updates.

    Raises ConfigError, PrivacyRefused (a damaged ledger), RunError.
    """
    experiment, plan = workshop.experiment, workshop.noise
    if plan is None:
        yield None
        return
    dp, run = experiment.privacy.dp, workshop.run[:64]
    with ExitStack() as stack:
        header = Header("run", run, dp.unit, dp.relation, dp.delta, plan.protection.private)
        own = stack.enter_context(Ledger.open(folder / LEDGER, header))
        target = None if dp.noise_multiplier else Budget(dp.epsilon * (1 + 1e-9), dp.delta)
        accounts: list[tuple[Ledger, Budget | None]] = [(own, target)]
        if dp.ledger:
            fleet = Header("fleet", "fleet", dp.unit, dp.relation, dp.delta)
            limit = Budget(dp.fleet_epsilon, dp.delta) if dp.fleet_epsilon else None
            accounts.append((stack.enter_context(Ledger.open(Path(dp.ledger), fleet)), limit))
        check_ledgers(accounts, run, round_, plan.releases)
        found = Private(
            plan.protection,
            Books(*accounts),
            run,
            folder,
            plan.event,
            dp.delta,
            Spent(own, plan.event, experiment.experiment.rounds).epsilon,
            releases=plan.releases,
            always=dp.sampling == "poisson",
            began={one.release.round for one in own.charges if one.release.run == run},
        )
        if plan.plan is not None:
            schema = plan.plan.schema
            found.separation, found.most = schema.min_separation, schema.max_participations
            found.schema = record = participation(folder, plan.plan)
            found.began = {record.latest}
            size = sum(workshop.strategy.sizes(workshop.sharing.size).values())
            width = plan.plan.width(plan.protection.noise_multiplier)
            seed = None if plan.protection.private else workshop.experiment.experiment.seed
            stream = MatrixStream(plan.plan, width, size, folder, run, seed)
            found.noise, found.mark = stream, stream.mark
        elif plan.protection.mechanism == "central":
            found.noise = central_noise(plan.protection, workshop.experiment.experiment.seed)
        elif plan.examples is not None:
            from carpool.experiments.example_runs import recorded

            recorded(found, plan.examples, experiment)
        found.resume()
        yield found
