"""The privacy budget: a release that would go over it does not begin, in this run or in the whole fleet.

Whether the next release fits is first asked of a quick upper bound (Rényi), and of the reported accountant
only where that bound says no: so the budget can be used up to its end, and most rounds cost milliseconds.
A release is charged to every ledger that counts it under one ticket, so that a kill in between is seen.
"""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from carpool.privacy.dp.events import Event, Relation
from carpool.privacy.dp.ledger import Accountant, Ledger, tight
from carpool.privacy.dp.ledgerlines import Release
from carpool.privacy.dp.ledgerstate import Charge
from carpool.privacy.errors import PrivacyRefused

_HALF = "the process ended before every ledger had this charge"


def quick(events: Sequence[Event], delta: float, relation: Relation) -> float:
    """An upper bound of epsilon in milliseconds: by Rényi where there is sampling, else as reported."""
    from carpool.privacy.dp import accounting  # SciPy is slow to import, and only some need it

    sampled = any(event.sampling_rate < 1 for event in events)
    return accounting.epsilon(events, delta, relation, accountant="rdp" if sampled else "auto").epsilon


@dataclass(frozen=True)
class Budget:
    """At most this epsilon at this delta. epsilon > 0, finite; 0 < delta < 1; raises ValueError.

    reported, ahead: the accountant whose value counts, and a quick one that is never below it.
    """

    epsilon: float
    delta: float
    reported: Accountant = tight
    ahead: Accountant = quick
    _safe: dict[Relation, Counter[Event]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not (0 < self.epsilon < math.inf and 0 < self.delta < 1):
            raise ValueError(
                f"a budget is no epsilon {self.epsilon} at delta {self.delta}; use a finite epsilon above 0 "
                f"and a delta between 0 and 1"
            )

    def fits(self, events: Sequence[Event], relation: Relation) -> bool:
        """Whether all of these together are within the budget.

        What is part of something that was found to fit fits: asked for a whole plan at the start, it answers
        each of its rounds at once.
        """
        counts: Counter[Event] = Counter()
        for one in events:
            counts[replace(one, count=1)] += one.count
        if counts <= self._safe.get(relation, Counter()):
            return True
        # Written so that NaN does not fit.
        found = (
            self.ahead(events, self.delta, relation) <= self.epsilon
            or self.reported(events, self.delta, relation) <= self.epsilon
        )
        if found:
            self._safe[relation] = counts
        return found

    def check(self, ledger: Ledger, *more: Event, what: str = "the next release") -> None:
        """Raise PrivacyRefused if `more` on top of what the ledger has would exceed the budget."""
        self._check(ledger, ledger.events(), [*ledger.events(), *more], what)

    def check_realised(self, ledger: Ledger, number: int, noise_multiplier: float) -> None:
        """Raise PrivacyRefused if charge `number` with this little noise would exceed the budget."""
        then = [
            replace(one.event, noise_multiplier=min(one.noise, noise_multiplier))
            if one.number == number
            else one.event
            for one in ledger.charges
        ]
        what = f"the noise that is left of charge {number}"
        self._check(ledger, ledger.events(), then, what)

    def _check(self, ledger: Ledger, now: Sequence[Event], then: Sequence[Event], what: str) -> None:
        relation = ledger.header.relation
        if self.fits(then, relation):
            return
        spent, would = (self.reported(one, self.delta, relation) for one in (now, then))
        raise PrivacyRefused(
            f"{what} would take {ledger.header.scope} {ledger.header.name} from epsilon {spent:.6g} to "
            f"{would:.6g}, over its budget of {self.epsilon:.6g} at delta {self.delta:g} ({ledger.path}); it "
            f"was not released and the model so far stays: plan fewer rounds, more noise or a larger budget"
        )


class Books:
    """All ledgers that count a run's releases, such as the run's own and its fleet's, each with its budget.

    A release is first checked against every budget, then charged to every ledger; only then may it begin. A
    ticket names it in all of them.
    """

    def __init__(self, *accounts: tuple[Ledger, Budget | None]) -> None:
        if not accounts:
            raise ValueError("a release is charged to one ledger or more")
        self._accounts = accounts

    @property
    def private(self) -> bool:
        """False where any ledger has noise from a seeded generator."""
        return all(ledger.private for ledger, _ in self._accounts)

    def plan(self, *events: Event) -> bool:
        """Whether all of these fit on top of what is charged; asked at the start, it makes `charge` quick."""
        return all(
            budget is None or budget.fits([*ledger.events(), *events], ledger.header.relation)
            for ledger, budget in self._accounts
        )

    def charge(self, release: Release) -> str:
        """Charge a release everywhere and return its ticket, or raise PrivacyRefused before it begins.

        Raises RunError, too; a release that only some ledgers have is closed by `resume`.
        """
        for ledger, budget in self._accounts:
            if budget is not None:
                budget.check(ledger, release.event, what=f"the {release.what} of round {release.round}")
        ticket = secrets.token_hex(16)
        for ledger, _ in self._accounts:
            ledger.charge(release, ticket)
        return ticket

    def realised(self, ticket: str, noise_multiplier: float, survived: int) -> None:
        """Charge the realised noise everywhere, before unmasking.

        Raises PrivacyRefused where it does not fit; then the caller does not unmask, and voids the ticket.
        """
        found = self._find(ticket)
        for (ledger, budget), charge in zip(self._accounts, found, strict=True):
            if budget is not None:
                budget.check_realised(ledger, charge.number, noise_multiplier)
        for (ledger, _), charge in zip(self._accounts, found, strict=True):
            ledger.realised(charge.number, noise_multiplier, survived)

    def publish(self, ticket: str, digest: str, moment: int | None = None) -> None:
        """Bind the ticket to the SHA-256 of what is about to leave; only then may it (Ledger.publish)."""
        for (ledger, _), charge in zip(self._accounts, self._find(ticket), strict=True):
            ledger.publish(charge.number, digest, moment)

    def void(self, ticket: str, why: str) -> None:
        """Nothing (more) leaves under this ticket; it stays charged."""
        for (ledger, _), charge in zip(self._accounts, self._find(ticket), strict=True):
            ledger.void(charge.number, why)

    def resume(self, run: str) -> list[Charge]:
        """What a killed run left open: publish each one's persisted sum under its ticket, or void it.

        A charge that a kill kept from some ledgers was not acted upon: it is made void where it stands.
        """
        open_: dict[str, Charge] = {}
        for ledger, _ in self._accounts:
            for one in ledger.pending(run):
                if all(other.find(one.ticket) is not None for other, _ in self._accounts):
                    open_.setdefault(one.ticket, one)
                else:
                    ledger.void(one.number, _HALF)
        return list(open_.values())

    def _find(self, ticket: str) -> list[Charge]:
        found = [ledger.find(ticket) for ledger, _ in self._accounts]
        charges = [one for one in found if one is not None]
        if len(charges) != len(found):
            raise PrivacyRefused(f"the ticket {ticket[:32]!r} was not charged everywhere; charge it first")
        return charges
