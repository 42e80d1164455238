"""The audit tried on what is known, before it is believed: no leak, a known epsilon, a gross error.

Auditors have bugs, too. The null test hands in mechanisms without a fault and must find none, the coverage
test has a known epsilon that the lower bound may not exceed, and a mechanism without noise must be found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from carpool.privacy.audit.reference import Forgetful, NoLeak, Reference, reference_claim, without_leak
from carpool.privacy.audit.replay import audit
from carpool.privacy.audit.report import Report
from carpool.privacy.audit.rounds import Claim

SMALL: Mapping[str, tuple[int, ...]] = {"weight": (40, 50), "bias": (50,)}
PLANNED = 6


def null_test(seed: int = 0) -> tuple[Report, ...]:
    """Reports on mechanisms without a fault, one of which leaks nothing; a finding is the audit's bug."""
    claims = [small_claim(shared=shared) for shared in (False, True)]
    rounds = [NoLeak(without_leak(claims[0])), *(Reference(claim) for claim in claims)]
    return tuple(audit(one, one.claim, restart=partial(type(one), one.claim), seed=seed) for one in rounds)


def coverage(seeds: Sequence[int]) -> tuple[float, float]:
    """The known epsilon, and the largest lower bound that audits gave: above it once in 1e6 checks."""
    claim = small_claim()
    reports = [audit(Reference(claim), claim, seed=seed, forks=False) for seed in seeds]
    return claim.epsilon, max(report.epsilon[1] for report in reports)


def power(seed: int = 0) -> Report:
    """The report on a mechanism that forgets its noise: without a finding, the audit sees nothing."""
    claim = small_claim()
    return audit(Forgetful(claim), claim, seed=seed, forks=False)


def self_test(seed: int = 0) -> str:
    """An empty string where the audit does what it must, or one sentence on what it does not."""
    for report in null_test(seed):
        if not report.passed:
            return (
                f"the audit accuses a mechanism without a fault ({report.findings[0].text()}); do not use it"
            )
    known, bound = coverage([seed])
    if not bound <= known * (1 + 1e-6):
        return f"the audit's lower bound {bound:.6g} is above the known epsilon {known:.6g}; do not use it"
    if power(seed).passed:
        return "the audit does not see that the noise is missing; do not use it"
    return ""


def small_claim(*, shared: bool = False) -> Claim:
    """Of a reference that is audited in a moment."""
    return reference_claim(SMALL, planned=PLANNED, shared=shared)
