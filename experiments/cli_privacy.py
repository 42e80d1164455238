"""`carpool privacy epsilon` and `calibrate`: from noise to its promise and back, without a run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from carpool.experiments import cli_ledger
from carpool.experiments.cli_common import JsonOption, emit, err, say, table
from carpool.privacy.errors import UsageError

if TYPE_CHECKING:
    from carpool.privacy.dp.accounting import Epsilon
    from carpool.privacy.dp.events import Event

RelationName = Literal["zero-out", "add-remove", "replace-one"]
AccountantName = Literal["auto", "closed", "pld", "rdp"]

DELTA = 1e-5
MOST_ROUNDS = 1_000_000_000
HARDLY = 10.0  # an epsilon above which the promise is hardly one
NEIGHBOURS: dict[str, str] = {
    "zero-out": "had its data been blank",
    "add-remove": "had it not taken part",
    "replace-one": "had its data been any other data",
}

RoundsOption = Annotated[
    int, typer.Option(help="Releases in which a vehicle may take part, one after the other.")
]
RateOption = Annotated[
    float,
    typer.Option(help="Probability that a round asks a vehicle, drawn in secret (Poisson); 1 claims none."),
]
DeltaOption = Annotated[float, typer.Option(help="Probability with which epsilon need not hold.")]
RelationOption = Annotated[
    RelationName,
    typer.Option(help="What neighbouring fleets differ in: one vehicle's data blank, absent, or replaced."),
]
AccountantOption = Annotated[
    AccountantName,
    typer.Option(help="auto reports the sharpest value that holds; the others are for comparison."),
]


def register(app: typer.Typer) -> None:
    """Add `carpool privacy ...`; the commands raise UsageError."""
    privacy = typer.Typer(
        help="Differential privacy: what noise promises, what noise a promise needs, what was charged.\n\n"
        "Example: [cyan]carpool privacy calibrate --epsilon 8 --rounds 100[/]",
        no_args_is_help=True,
    )
    privacy.command()(epsilon)
    privacy.command()(calibrate)
    cli_ledger.register(privacy)
    app.add_typer(privacy, name="privacy")


def epsilon(
    noise_multiplier: Annotated[
        float, typer.Option(help="Standard deviation of the noise in the released sum, over the clip norm.")
    ],
    rounds: RoundsOption = 1,
    sampling_rate: RateOption = 1.0,
    delta: DeltaOption = DELTA,
    relation: RelationOption = "zero-out",
    accountant: AccountantOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Say what epsilon Gaussian noise on the sum of clipped updates gives.

    Examples: [cyan]carpool privacy epsilon --noise-multiplier 5 --rounds 100[/] ·
    [cyan]carpool privacy epsilon --noise-multiplier 1 --rounds 1000 --sampling-rate 0.01 --delta 1e-5[/]
    """
    if not 0 < noise_multiplier < math.inf:
        raise UsageError(
            f"--noise-multiplier is {noise_multiplier:g}; use a number above 0, such as 1: without noise "
            "epsilon is infinite"
        )
    _checked(rounds, sampling_rate, delta)
    from carpool.privacy.dp import accounting
    from carpool.privacy.dp.events import Event

    event = Event("gaussian", noise_multiplier, sampling_rate, rounds)
    with err().status("accounting ..."):
        spent = accounting.epsilon((event,), delta, relation, accountant=accountant)
    if not math.isfinite(spent.epsilon):
        raise UsageError(f"--noise-multiplier {noise_multiplier:g} gives no finite epsilon; use a larger one")
    _tell(event, spent, relation, as_json)


def calibrate(
    epsilon: Annotated[float, typer.Option(help="The target: at most this is spent after all rounds.")],
    rounds: RoundsOption = 1,
    sampling_rate: RateOption = 1.0,
    delta: DeltaOption = DELTA,
    relation: RelationOption = "zero-out",
    as_json: JsonOption = False,
) -> None:
    """Find the least Gaussian noise that keeps an epsilon: never too little, at most 0.1 % too much.

    Examples: [cyan]carpool privacy calibrate --epsilon 8 --delta 1e-5 --rounds 100[/] ·
    [cyan]carpool privacy calibrate --epsilon 2 --rounds 1000 --sampling-rate 0.01 --json[/]
    """
    _checked(rounds, sampling_rate, delta)
    from carpool.privacy.dp import accounting
    from carpool.privacy.dp.calibrate import LARGEST_EPSILON
    from carpool.privacy.dp.calibrate import calibrate as search
    from carpool.privacy.dp.events import Event

    if not 0 < epsilon <= LARGEST_EPSILON:
        raise UsageError(
            f"--epsilon is {epsilon:g}; use a number above 0 and up to {LARGEST_EPSILON:g}, such as 8"
        )
    with err().status("searching for the noise ..."):
        noise = search(epsilon, delta, rounds, sampling_rate, relation)
        event = Event("gaussian", noise, sampling_rate, rounds)
        spent = accounting.epsilon((event,), delta, relation)
    _tell(event, spent, relation, as_json)


def _checked(rounds: int, sampling_rate: float, delta: float) -> None:
    """Raise UsageError, naming the option, for a value that cannot be meant."""
    if not 1 <= rounds <= MOST_ROUNDS:
        raise UsageError(f"--rounds is {rounds}; use 1 to {MOST_ROUNDS}")
    if not 0 < sampling_rate <= 1:
        raise UsageError(
            f"--sampling-rate is {sampling_rate:g}; use a probability above 0 and up to 1, which claims none"
        )
    if not 0 < delta < 1:
        raise UsageError(f"--delta is {delta:g}; use a number above 0 and below 1, such as 1e-5")


def _tell(event: Event, spent: Epsilon, relation: RelationName, as_json: bool) -> None:
    """The facts and their epsilon, as JSON or for people."""
    shown = rounded(spent.epsilon)
    document = {
        "epsilon": shown,
        "delta": spent.delta,
        "noise_multiplier": event.noise_multiplier,
        "rounds": event.count,
        "sampling_rate": event.sampling_rate,
        "relation": relation,
        "accountant": spent.accountant,
    }
    if as_json:
        emit(document)
        return
    rows = [(name.replace("_", " "), f"{value:g}" if isinstance(value, float) else value)
            for name, value in document.items()]  # fmt: skip
    rows[2] = ("noise multiplier", f"{_upwards(event.noise_multiplier):.6g}")
    table(("", ""), rows, right=(1,))
    say(_meaning(event, spent, relation))
    if event.sampling_rate < 1:
        say(
            "The sampling rate counts against those who see the released models and not who was asked, and "
            "with the Poisson selector alone."
        )


def rounded(epsilon: float) -> float:
    """To three decimals, or to four digits where that is finer: at most 0.0005 below the value."""
    if epsilon <= 0:
        return 0.0
    return round(epsilon, max(3, 3 - math.floor(math.log10(epsilon))))


def _upwards(noise: float) -> float:
    """To six digits, never down: what a person copies must be enough."""
    digits = 5 - math.floor(math.log10(noise))
    near = round(noise, digits)
    return near if near >= noise else round(near + 10.0**-digits, digits)


def _meaning(event: Event, spent: Epsilon, relation: RelationName) -> str:
    """What the numbers promise, to whom, in a sentence."""
    what = "the released model" if event.count == 1 else f"all {event.count} released models"
    power = spent.epsilon / math.log(10)
    factor = f"{math.exp(spent.epsilon):,.{2 if power < 1 else 0}f}" if power < 6 else f"10^{power:.0f}"
    likelier = f"at most {factor} times likelier" if spent.epsilon > 0 else "no likelier"
    hardly = ", which is hardly a promise" if spent.epsilon > HARDLY else ""
    return (
        f"To every vehicle: whatever somebody who sees {what} concludes about it is {likelier} than "
        f"{NEIGHBOURS[relation]}{hardly} (but for a chance of {spent.delta:g})."
    )
