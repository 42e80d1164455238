"""What the privacy ledger in a run's folder comes to: its head, and epsilon computed anew from its facts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from carpool.privacy.dp.ledgerfile import LEDGER
from carpool.privacy.errors import CarpoolError


def ledger_head(folder: Path, *, compute: bool = True) -> dict[str, Any] | None:
    """The run's ledger, checked as a whole; None where there is none.

    compute: epsilon, too, which may take a second; None where it is infinite, or was not computed. `fault`
    says what is wrong with the ledger, null for nothing.
    """
    path = folder / LEDGER
    if not path.is_file():
        return None
    from carpool.privacy.dp.accounting import epsilon
    from carpool.privacy.dp.ledgerfile import read

    head: dict[str, Any] = {"file": str(path), "verify": f"carpool privacy ledger {folder}"}
    empty = ("lines", "charges", "number", "hash", "private", "epsilon", "gaussian", "accountant")
    try:
        found = read(path)
        header, charges = found.state.header, found.state.charges
        events = [one.event for one in charges.values()] if compute else []
        total = epsilon(events, header.delta, header.relation)
    except (CarpoolError, ValueError) as error:
        return head | dict.fromkeys(empty) | {"fault": str(error)}
    return head | {
        "lines": found.lines,
        "charges": len(charges),
        "number": found.last["number"],
        "hash": found.last["hash"],
        "private": found.state.private,
        "epsilon": total.epsilon if compute and math.isfinite(total.epsilon) else None,
        "gaussian": total.gaussian,
        "accountant": total.accountant if compute else None,
        "fault": None,
    }
