"""What the lines of a privacy ledger add up to, and which line may follow which: pure, no files."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

from carpool.privacy.dp.events import Event
from carpool.privacy.dp.ledgerlines import Header, Line, Release, event_of


@dataclass
class Charge:
    """A release and what became of it.

    noise: the least noise multiplier known of it, planned or realised; survived: vehicles in the certified
    set, None before it is; published: round -> SHA-256 (hex); void: why nothing more leaves, "" if it may.
    """

    number: int
    at: int
    ticket: str
    release: Release
    noise: float
    realised: float | None = None
    survived: int | None = None
    published: dict[int, str] = field(default_factory=dict)
    void: str = ""

    @property
    def event(self) -> Event:
        """What the accountant counts: the release with the least noise known of it."""
        return replace(self.release.event, noise_multiplier=self.noise)

    @property
    def pending(self) -> bool:
        """Whether something may still leave under this charge."""
        return not self.void and len(self.published) < self.release.releases


class State:
    """What the lines of a ledger add up to. charges: number -> charge, in order; tickets: -> number."""

    def __init__(self, first: Line) -> None:
        if first["kind"] != "ledger":
            raise ValueError("a ledger begins with a line of kind ledger")
        self.header = Header(**{one.name: first[one.name] for one in fields(Header)})
        self.charges: dict[int, Charge] = {}
        self.tickets: dict[str, int] = {}

    @property
    def private(self) -> bool:
        """Whether all noise came from the machine's own randomness, never from a seeded generator."""
        return self.header.private and all(one.release.private for one in self.charges.values())

    def check(self, new: Line) -> None:
        """Raise ValueError unless `new` may follow."""
        kind = new["kind"]
        if kind == "ledger":
            raise ValueError("a ledger begins once")
        if kind == "charge":
            self._check_charge(new)
            return
        charge = self.charges.get(new["charge"])
        if charge is None:
            raise ValueError(f"there is no charge {new['charge']} above it")
        if kind == "published":
            _check_published(charge, new)
        elif kind == "void" and not charge.pending:
            raise ValueError(f"charge {charge.number} is void or used up already")

    def _check_charge(self, new: Line) -> None:
        if new["ticket"] in self.tickets:
            raise ValueError(f"the ticket {new['ticket']} was used by charge {self.tickets[new['ticket']]}")
        for name, counted in (("unit", self.header.unit), ("relation", self.header.relation)):
            if new[name] != counted:
                raise ValueError(f"the ledger counts per {name} {counted}, a release per {new[name]} adds no")
        if new["releases"] > 1 and new["event"]["mechanism"] != "matrix":
            raise ValueError(f"one charge pays for {new['releases']} releases under a matrix mechanism only")

    def apply(self, new: Line) -> None:
        """Add a line; raises ValueError, and then nothing was added."""
        self.check(new)
        if new["kind"] == "charge":
            facts = {one.name: new[one.name] for one in fields(Release)}
            release = Release(**{**facts, "event": event_of(new["event"])})
            noise = release.event.noise_multiplier
            self.charges[new["number"]] = Charge(new["number"], new["at"], new["ticket"], release, noise)
            self.tickets[new["ticket"]] = new["number"]
            return
        charge = self.charges[new["charge"]]
        if new["kind"] == "realised":
            charge.realised, charge.survived = new["noise_multiplier"], new["survived"]
            charge.noise = min(charge.noise, charge.realised)  # more noise than planned refunds nothing
        elif new["kind"] == "published":
            charge.published[new["round"]] = new["digest"]
        else:
            charge.void = new["why"]


def _check_published(charge: Charge, new: Line) -> None:
    release, moment = charge.release, new["round"]
    if charge.void:
        raise ValueError(f"charge {charge.number} is void: {charge.void}")
    if not release.round <= moment < release.round + release.releases:
        raise ValueError(f"charge {charge.number} does not pay for round {moment}")
    if moment in charge.published:
        raise ValueError(f"round {moment} was published under charge {charge.number} already")
    if release.noise_from == "vehicles" and charge.survived is None:
        raise ValueError(f"the noise that charge {charge.number} realised is not charged yet")
