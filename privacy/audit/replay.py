"""Gray-box replay: one mechanism, run again and again under the audit's control, held to its claim.

    probes      each hostile contribution against a neighbouring cohort, under the SAME randomness: finite,
                dropped and counted where it must be, moved by no more than the sensitivity (a proof)
    noise       on a cohort of zeros, by block, for shares of lost and late vehicles: the level that is
                claimed and charged, and the epsilon that follows (false alarm 1e-6 a check)
    likeness    noise of two rounds, restarts, processes or tensors: uncorrelated (likewise)

It takes seconds, so that it can stand in a gate. It sees what it is shown: the round that is plugged in must
be the code that runs. What one machine cannot show (a server that keeps the sum without its noise, vehicles
that collude) is not covered, nor is how noise is distributed beyond its variance and correlations.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np

from carpool.privacy.audit import processes
from carpool.privacy.audit.differences import check_differences, probed
from carpool.privacy.audit.noise import Rows, check_independence, check_level, rows
from carpool.privacy.audit.probes import silent
from carpool.privacy.audit.report import Book, Report
from carpool.privacy.audit.rounds import Ask, Claim, Contribution, Released, Round, in_clips
from carpool.privacy.audit.running import Bench, Training, is_void
from carpool.privacy.errors import RunError

FRACTIONS = (0.05, 0.1, 0.3, 0.5)
"""Shares of the planned vehicles that are lost, besides none and all."""
Restart = Callable[[], Round]


def audit(
    round_: Round,
    claim: Claim,
    *,
    restart: Restart | None = None,
    seed: int = 0,
    runs: int = 4,
    forks: bool = True,
) -> Report:
    """Hold a mechanism to its claim.

    round_: the mechanism; restart: makes it as a new process or training would, where that can be; seed: of
    the cohorts, the losses and the randomness that is handed in (what the mechanism draws by itself stays
    its own); runs: rounds of noise that are compared, 2 or more; forks: look at child processes, too.
    Raises UsageError where the mechanism shows too little.
    """
    if runs < 2:
        raise ValueError(f"{runs} runs cannot be compared; use 2 or more")
    started, book = time.perf_counter(), Book()
    bench = Bench(book, round_, claim)
    rng = np.random.default_rng(seed)
    first, second, third = (int(word) for word in rng.integers(1, 1 << 31, 3))
    gone = _lost_sets(claim, rng)
    base = check_differences(bench, first, [lost for lost in gone if lost])
    if base is not None:
        if all(released.exact is not None for released in base):
            # Under add-remove the neighbour's vehicle is not there, nor is its noise.
            absent = 1 / claim.planned if claim.relation == "add-remove" else 0.0
            check_level(book, claim, base, rows(claim, base, data=True), "with data", absent)
        _check_zeros(bench, gone, second, third, runs)
        _check_production(bench, restart, forks)
    return Report(
        tuple(book.findings),
        dict(book.checks),
        time.perf_counter() - started,
        tuple(book.skipped),
        (claim.epsilon, book.lowest),
    )


def _zeros(claim: Claim) -> tuple[Contribution, ...]:
    return tuple(silent(claim, f"vehicle-{number:04d}") for number in range(claim.planned))


def _lost_sets(claim: Claim, rng: np.random.Generator) -> list[frozenset[str]]:
    """Nobody, then FRACTIONS of the planned vehicles, rounded up; never the probed one."""
    names = [f"vehicle-{number:04d}" for number in range(claim.planned)]
    names.remove(probed(claim))
    order = [names[place] for place in rng.permutation(len(names))]
    counts = {min(math.ceil(share * claim.planned - 1e-9), len(order)) for share in FRACTIONS}
    return [frozenset(order[:count]) for count in sorted(counts | {0})]


def _check_zeros(bench: Bench, gone: list[frozenset[str]], randomness: int, other: int, runs: int) -> None:
    """Level and independence of the noise on zeros, for each set of vehicles lost before or after upload."""
    claim, zeros = bench.claim, _zeros(bench.claim)
    everybody = frozenset(one.vehicle for one in zeros)
    numbers = range(1, runs + 1) if claim.mixing is None else None
    for lost in (*gone, everybody):
        share = len(lost) / claim.planned
        for late in (False, True) if lost and lost != everybody else (False,):
            probe = f"{share:.0%} {'lost after upload' if late else 'lost'}"
            before, after = (frozenset[str](), lost) if late else (lost, frozenset[str]())
            found = bench.training(
                lambda _: zeros,
                probe,
                randomness,
                numbers=numbers if not lost else None,
                lost=before,
                late=after,
            )
            if found is None or is_void(found):
                bench.book.skip(f"noise, {probe}: the round was void or unsound")
                continue
            noise = rows(claim, found)
            check_level(bench.book, claim, found, noise, probe, share)
            if not lost:
                labels = [f"round {number}" for number in range(1, len(found) + 1)]
                check_independence(bench.book, claim, noise, labels)
    _check_sessions(bench, zeros, randomness, other)


def _check_sessions(bench: Bench, zeros: tuple[Contribution, ...], one: int, other: int) -> None:
    """Two trainings of different randomness."""
    found = [
        bench.training(lambda _: zeros, "another training", randomness, numbers=(1,))
        for randomness in (one, other)
    ]
    _compare(
        bench, [training[0] if training else None for training in found], ["a training", "another training"]
    )


def _check_production(bench: Bench, restart: Restart | None, forks: bool) -> None:
    """Noise of the mechanism's own randomness: two rounds, after a restart, and in child processes."""
    claim, zeros, labels = bench.claim, _zeros(bench.claim), ["own randomness"]
    found = [bench.once(Ask(zeros, 1), labels[0])]
    if found[0] is not None and found[0].vectors:
        training: Training = (found[0],)
        check_level(bench.book, claim, training, rows(claim, training), labels[0], 0.0)
    if claim.mixing is None:
        found.append(bench.once(Ask(zeros, 2), "own randomness, round 2"))
        labels.append("own randomness, round 2")
    if restart is None:
        bench.book.skip("correlation after a restart: no restart was given")
    else:
        found.append(Bench(bench.book, restart(), claim).once(Ask(zeros, 1), "after a restart"))
        labels.append("after a restart")
    if not forks or not processes.can_fork() or (claim.mixing is not None and restart is None):
        bench.book.skip("correlation between processes: not asked for, not possible, or no restart given")
    else:
        for child in (1, 2):
            found.append(_in_child(bench, restart if claim.mixing is not None else None, zeros))
            labels.append(f"process {child}")
    _compare(bench, found, labels)


def _in_child(bench: Bench, restart: Restart | None, zeros: tuple[Contribution, ...]) -> Released | None:
    """A round run in a forked child, with what the parent's randomness has become there."""
    blocks = bench.claim.blocks

    def work() -> bytes:
        released = (restart() if restart else bench.round)(Ask(zeros, 1 if restart else 3))
        return b"".join(in_clips(block, released.vectors[name]).tobytes() for name, block in blocks.items())

    sizes = [block.size for block in blocks.values()]
    try:
        numbers = np.frombuffer(processes.in_child(work), np.float64)
    except RunError:
        numbers = np.empty(0)
    whole = len(numbers) == sum(sizes)
    if not bench.book.judge("crash", "in another process", 0, not whole, holds=whole):
        return None
    parts = np.split(numbers, np.cumsum(sizes)[:-1])
    return Released(
        {
            name: part * (block.clip / block.divisor)
            for (name, block), part in zip(blocks.items(), parts, strict=True)
        },
        (),
    )


def _compare(bench: Bench, found: list[Released | None], labels: list[str]) -> None:
    """Independence of first rounds."""
    pairs = [
        (one, label) for one, label in zip(found, labels, strict=True) if one is not None and one.vectors
    ]
    if len(pairs) < 2:
        bench.book.skip(f"correlation of {', '.join(labels)}: rounds were void or unsound")
        return
    each: list[Rows] = [rows(bench.claim, (released,)) for released, _ in pairs]
    noise = {name: np.concatenate([one[name] for one in each]) for name in bench.claim.blocks}
    check_independence(bench.book, bench.claim, noise, [label for _, label in pairs])
