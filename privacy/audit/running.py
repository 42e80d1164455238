"""Running a mechanism for the audit: what it raises and the form of its releases are judged, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from carpool.privacy.audit.report import Book
from carpool.privacy.audit.rounds import Ask, Claim, Contribution, Released, Round
from carpool.privacy.errors import PrivacyRefused, RoundError

Training = tuple[Released, ...]
"""One round, or all rounds where noise is correlated over them."""
Cohort = Callable[[int], tuple[Contribution, ...]]
"""Who would contribute in a round, by its number."""
VOID = Released({}, ())


@dataclass(frozen=True)
class Bench:
    """A mechanism under audit: where findings go, what it is, and what it claims."""

    book: Book
    round: Round
    claim: Claim

    def once(self, ask: Ask, probe: str) -> Released | None:
        """One round; VOID where it released nothing, None where what came cannot be looked at."""
        try:
            released = self.round(ask)
        except (RoundError, PrivacyRefused):
            released = VOID
        except Exception:
            # Whatever a stranger's code raises on hostile input is what is looked for.
            self.book.judge("crash", probe, 0, 1, holds=False)
            return None
        self.book.judge("crash", probe, 0, 0, holds=True)
        there = sum(name in ask.lost for name in released.counted)
        self.book.judge("lost", probe, 0, there, holds=not there)
        return released if self._sound(released, probe) else None

    def training(
        self,
        cohort: Cohort,
        probe: str,
        randomness: int | None,
        *,
        numbers: Sequence[int] | None = None,
        lost: frozenset[str] = frozenset(),
        late: frozenset[str] = frozenset(),
        exact: bool = False,
    ) -> Training | None:
        """Rounds 1 to the claim's span (or `numbers`); None where one cannot be looked at."""
        rounds = range(1, self.claim.span + 1) if numbers is None else numbers
        asks = [Ask(cohort(number), number, randomness, lost, late, exact) for number in rounds]
        found = [self.once(ask, probe) for ask in asks]
        kept = tuple(released for released in found if released is not None)
        return kept if len(kept) == len(found) else None

    def _sound(self, released: Released, probe: str) -> bool:
        """Whether the blocks are those of the claim; blocks that nobody claimed are noted and left out."""
        if not released.vectors:
            return True
        blocks = self.claim.blocks
        good = {
            name for name, block in blocks.items() if np.size(released.vectors.get(name, ())) == block.size
        }
        odd = len(set(released.vectors) ^ set(blocks) | (set(blocks) - good))
        self.book.judge("form", probe, 0, odd, holds=not odd)
        with np.errstate(all="ignore"):
            wrong = sum(int(np.sum(~np.isfinite(vector))) for vector in released.vectors.values())
        self.book.judge("finite", probe, 0, wrong, holds=not wrong)
        return good == set(blocks)


def is_void(training: Training) -> bool:
    """Whether any of its rounds released nothing."""
    return any(not released.vectors for released in training)
