"""Where a vehicle stands in a masked round of Flower, in `context.state`; secret, it never leaves.

carpool.secagg           the protocol's state (plus_state.py) and the round's number
carpool.secagg.vector    uint32 [numbers], from the training until it is masked
"""

from __future__ import annotations

from dataclasses import dataclass, field
from logging import WARNING

from flwr.app import Array, ArrayRecord, ConfigRecord, Context
from flwr.supercore import log

from carpool.privacy.errors import VehicleError
from carpool.privacy.secagg import plus_vehicle as plus
from carpool.privacy.secagg.masks import Ring

STATE, VECTOR = "carpool.secagg", "carpool.secagg.vector"


@dataclass(frozen=True)
class Held:
    """What `context.state` has of a round; secret: all of it, not printed."""

    round: int
    state: plus.VehicleState = field(repr=False)
    vector: Ring | None = field(repr=False)


def keep(context: Context, held: Held) -> None:
    """Put where the vehicle stands into its context, in place of what was there."""
    erase(context)
    context.state[STATE] = ConfigRecord({"state": plus.dump(held.state), "round": held.round})
    if held.vector is not None:
        context.state[VECTOR] = ArrayRecord({"vector": Array(held.vector)})


def recalled(context: Context) -> Held | None:
    """Where the vehicle stands; None where it is in no round, or its state is damaged (then it is erased)."""
    if STATE not in context.state:
        return None
    try:
        kept = context.state.config_records[STATE]
        data, round_ = kept["state"], kept["round"]
        if not isinstance(data, bytes) or not isinstance(round_, int):
            raise ValueError("it has other types")
        vector = context.state.array_records[VECTOR]["vector"].numpy() if VECTOR in context.state else None
        return Held(round_, plus.load(data), vector)
    except (VehicleError, KeyError, ValueError) as error:
        log(WARNING, "secagg: the saved state of a round is damaged, the vehicle is out of it: %s", error)
        erase(context)
        return None


def erase(context: Context) -> None:
    """Take everything about the round out of the context."""
    for name in (STATE, VECTOR):
        context.state.pop(name, None)
