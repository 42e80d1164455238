"""What an audit found: findings, and the checks that were made, as words and as a document."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from carpool.privacy.audit.limits import FALSE_ALARM

SAID: Mapping[str, str] = {
    "replay": "the same randomness did not give the same release: numbers that differ",
    "crash": "the round raised an error that is none of its own",
    "void": "the round was void: vehicles lost at which it must release",
    "form": "numbers released in other blocks, or other sizes, than claimed",
    "finite": "numbers that are NaN or infinite in what was released",
    "counted": "times that the vehicle was in the sum",
    "refused": "times that the vehicle was reported as dropped",
    "lost": "vehicles in the sum that never uploaded",
    "difference": "clip norms by which one vehicle moved what was released",
    "noise": "upper limit of the noise's standard deviation, in clip norms",
    "charges": "charges in the ledger for what was released",
    "charge": "noise multiplier that the ledger was charged",
    "correlation": "correlation of noise that must be independent",
    "epsilon": "epsilon from the noise that is there (the lowest that it allows)",
    "price": "epsilon of what the ledger was charged",
}
"""What each check counts or measures: the unit of `claimed` and `seen`."""
SHOWN = 3
"""Findings of one check that are shown to a person; a document has all."""
CHANCE = ("noise", "correlation", "epsilon")
"""Checks that may be wrong by chance."""


@dataclass(frozen=True)
class Finding:
    """A claim that does not hold. probe: the case; what: the check, one of SAID; claimed, seen: numbers."""

    probe: str
    what: str
    claimed: float
    seen: float

    def text(self) -> str:
        """One line for a person."""
        return (
            f"{self.what}, {self.probe}: claimed {self.claimed:.6g}, seen {self.seen:.6g} ({SAID[self.what]})"
        )

    def document(self) -> dict[str, Any]:
        """For JSON; a number that is not finite is null, and in words in `text`."""
        return {
            "probe": self.probe,
            "what": self.what,
            "claimed": _finite(self.claimed),
            "seen": _finite(self.seen),
            "text": self.text(),
        }


@dataclass(frozen=True)
class Report:
    """The outcome. checks: how many of each kind were made; skipped: what could not be looked at, and why.

    epsilon: what was claimed, and the lowest that the noise seen allows (NaN where no noise was seen).
    """

    findings: tuple[Finding, ...]
    checks: Mapping[str, int]
    seconds: float
    skipped: tuple[str, ...] = ()
    epsilon: tuple[float, float] = (math.nan, math.nan)

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def false_alarm(self) -> float:
        """Probability that a sound mechanism has any finding: at most this."""
        return FALSE_ALARM * sum(self.checks.get(what, 0) for what in CHANCE)

    def text(self) -> str:
        """For people: the verdict, each finding in a line, what was looked at and what was not."""
        total, n = sum(self.checks.values()), len(self.findings)
        verdict = "nothing found" if not n else f"{n} finding" + "s" * (n != 1)
        lines = [f"gray-box replay: {verdict} in {total} checks, {self.seconds:.2f} s"]
        for what in SAID:
            alike = [finding for finding in self.findings if finding.what == what]
            lines += [f"  FOUND {finding.text()}" for finding in alike[:SHOWN]]
            lines += [f"        and {len(alike) - SHOWN} more of {what}"] * (len(alike) > SHOWN)
        lines.append("  checks: " + ", ".join(f"{what} {count}" for what, count in self.checks.items()))
        lines += [f"  not checked: {what}" for what in self.skipped]
        if math.isfinite(self.epsilon[1]):
            lines.append(
                f"  epsilon: {self.epsilon[0]:.4g} claimed, at least {self.epsilon[1]:.4g} by the noise seen"
            )
        lines.append(
            f"  a sound mechanism would have a finding with probability below {self.false_alarm:.1g}"
        )
        return "\n".join(lines)

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "audit": "gray-box replay",
            "passed": self.passed,
            "findings": [finding.document() for finding in self.findings],
            "checks": dict(self.checks),
            "skipped": list(self.skipped),
            "epsilon_claimed": _finite(self.epsilon[0]),
            "epsilon_at_least": _finite(self.epsilon[1]),
            "false_alarm": self.false_alarm,
            "seconds": self.seconds,
        }


@dataclass
class Book:
    """Findings and counts while an audit runs."""

    findings: list[Finding] = field(default_factory=list)
    checks: dict[str, int] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    lowest: float = math.nan

    def judge(self, what: str, probe: str, claimed: float, seen: float, *, holds: bool) -> bool:
        """Count a check, note it where it does not hold, and hand the verdict back."""
        assert what in SAID, what  # noqa: S101
        self.checks[what] = self.checks.get(what, 0) + 1
        if not holds:
            self.findings.append(Finding(probe, what, claimed, seen))
        return holds

    def skip(self, why: str) -> None:
        """Note what could not be looked at."""
        self.skipped.append(why)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
