"""The server's half of secure aggregation in a Flower ServerApp of one's own.

    secure = SecureSum(grid, "fleet/aggregator-0", Settings("secagg+", n_min=12, most_weight=500), clip=10.0)
    summed = secure.round(arrays, node_ids=grid.get_node_ids())              # one round, or
    result = secure.start(FedAvg(min_train_nodes=16), arrays, num_rounds=10)   # Flower's own loop

The trips are those of server/secure_plus.py. Flower's node ids and the vehicles' numbers are two things: the
first answer of a node shows a certificate, and from then on the node speaks for that vehicle alone. A round
that falls below n_min, or cannot be opened, is void: no arrays, and the reason.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from logging import INFO, WARNING
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, QFedAvg, Result
from flwr.serverapp.strategy import Strategy as FlowerStrategy
from flwr.supercore import log as say

from carpool.experiments import flower_terms as ft
from carpool.experiments.flower_common import EXAMPLES
from carpool.experiments.flower_grids import Summing
from carpool.experiments.flower_in import NOT_HERE, ROBUST
from carpool.experiments.flower_turn import Order, Turn, Unlogged
from carpool.privacy.errors import ConfigError, VehicleError
from carpool.privacy.identity import Role
from carpool.privacy.memberfolder import MemberKeys, open_member
from carpool.privacy.secagg.settings import Settings
from carpool.server.clock import Clock, RealClock
from carpool.server.secure import Log, Secrecy

TRAIN = "train"


@dataclass(frozen=True)
class Summed:
    """What a round came to.

    arrays: the weighted mean of the vehicles' arrays, None for a void round and for metrics alone; metrics:
    their weighted means, and the total weight; vehicles: the numbers of those in the sum; record: who saw
    what, as in `result.json`, with `refused` and `silent` by node and `why` a round is void.
    """

    arrays: ArrayRecord | None
    metrics: MetricRecord
    vehicles: tuple[int, ...]
    record: Mapping[str, Any]

    @property
    def why(self) -> str | None:
        """What made the round void; None for one that counts."""
        found = self.record["why"]
        return None if found is None else str(found)


class SecureSum:
    """Rounds of `secagg+` over Flower's Grid, with vehicles that run `secagg_mod`.

    identity: the aggregator's folder, or its keys; settings: protocol "secagg+", and the vehicles' own n_min,
    gamma, delta, adversary; clip: L2 norm of what a vehicle's training changes, weight units, a longer change
    is scaled down; metrics, evaluate_metrics: those that vehicles answer with, name to the largest absolute
    value; weight: the metric that vehicles count by; quorum: share of the asked below which nothing is
    opened; trip_s, upload_s: how long to wait for a short answer and for a masked vector, seconds. Raises
    ConfigError, UsageError, PrivacyRefused.
    """

    def __init__(
        self,
        grid: Grid,
        identity: str | Path | MemberKeys,
        settings: Settings,
        *,
        clip: float,
        metrics: Mapping[str, float] | None = None,
        evaluate_metrics: Mapping[str, float] | None = None,
        weight: str = EXAMPLES,
        quorum: float = 0.0,
        log: Log | None = None,
        trip_s: float = 60.0,
        upload_s: float = 600.0,
        ca: str | Path | None = None,
        revoked: str | Path | None = None,
        clock: Clock | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        if settings.protocol != "secagg+" or settings.extras:
            text = f"Flower's rounds are of secagg+ without extra seeds, not of {settings.protocol}"
            raise ConfigError([f'{text}; use Settings("secagg+", ...)'])
        if not 0 <= quorum <= 1 or not all(0 < one < math.inf for one in (trip_s, upload_s)):
            raise ConfigError([f"quorum {quorum}, trip_s {trip_s}, upload_s {upload_s}: use 0 to 1, seconds"])
        if not isinstance(identity, MemberKeys):
            identity = open_member(Path(identity), Role.AGGREGATOR, now(), ca=ca, revoked=revoked)
        self._grid, self._keys, self._settings, self._quorum = grid, identity, settings, quorum
        self._metrics = {TRAIN: metrics or {}, "evaluate": evaluate_metrics or {}}
        self._clip, self._weight = float(clip), weight
        self._clock, self._now = clock or RealClock(), now
        self._speaks: dict[int, int] = {}
        self._round = 0
        self._secrecy = Secrecy(
            settings,
            identity.trust,
            identity.key,
            identity.certificate,
            log or Unlogged(),
            now,
            trip_s=trip_s,
            upload_s=upload_s,
        )
        self._terms(TRAIN)  # raises

    @property
    def grid(self) -> Grid:
        """Flower's grid, but what `send_and_receive` gives is one reply: the mean, as if of one vehicle.

        For strategies whose update is a function of the weighted mean; see `start`.
        """
        return Summing(self._grid, self._reply)

    def start(
        self, strategy: FlowerStrategy, initial_arrays: ArrayRecord, num_rounds: int = 3, **more: Any
    ) -> Result:
        """Run a strategy of Flower's on secure sums: its own loop, sampling and server step.

        more: of `Strategy.start`. A void round changes nothing. Raises ConfigError for a strategy that must
        see every update, and for evaluation on vehicles whose metrics were not named.
        """
        if why := unsummed(strategy):
            raise ConfigError([f"{type(strategy).__name__} cannot run on secure sums: {why}"])
        if getattr(strategy, "fraction_evaluate", 0) and not self._metrics["evaluate"]:
            text = "vehicles would evaluate, but SecureSum has no evaluate_metrics to sum"
            raise ConfigError([f'{text}; name them, such as {{"accuracy": 1.0}}, or set fraction_evaluate=0'])
        return strategy.start(grid=self.grid, initial_arrays=initial_arrays, num_rounds=num_rounds, **more)

    def round(
        self,
        arrays: ArrayRecord,
        config: ConfigRecord | None = None,
        node_ids: Iterable[int] | None = None,
        timeout: float = 3600.0,
        message_type: str = TRAIN,
    ) -> Summed:
        """One round over these nodes, default all; timeout: seconds for training, the first trip.

        Under "evaluate", or "evaluate.<action>", vehicles are sent the arrays and only metrics are summed.
        Raises ConfigError for arrays that are no floats; never for what vehicles do.
        """
        content = RecordDict({"arrays": arrays, "config": config or ConfigRecord()})
        nodes = self._grid.get_node_ids() if node_ids is None else node_ids
        return self.summed(content, nodes, timeout, message_type)

    def summed(
        self, content: RecordDict, node_ids: Iterable[int], timeout: float, message_type: str = TRAIN
    ) -> Summed:
        """As `round`, for the very records that vehicles are to be sent."""
        if not 0 < timeout < math.inf:
            raise ConfigError([f"timeout is {timeout}; give a round a number of seconds above 0"])
        self._round += 1
        terms = self._terms(message_type)
        try:
            sent = ft.opened(ft.the_arrays(content))
        except VehicleError as error:
            raise ConfigError([str(error)]) from error
        order = Order(content, terms, sent if terms.arrays else {}, message_type, timeout)
        turn = Turn(self._secrecy, self._grid, self._clock, self._speaks, self._quorum)
        turn.run(order, sorted(set(node_ids)))
        if turn.record["why"] is not None:
            say(WARNING, "secagg: round %s is void: %s", terms.round, turn.record["why"])
            return Summed(None, MetricRecord(), (), turn.record)
        say(INFO, "secagg: round %s: a sum of %s vehicles", terms.round, len(turn.vehicles))
        return self._told(terms, sent, turn)

    def _told(self, terms: ft.Terms, sent: ft.Sent, turn: Turn) -> Summed:
        reduced = turn.given.reduce()
        means = {name: float(reduced.mean(ft.METRIC + name)[0]) for name in terms.metrics}
        arrays = ft.moved(sent, reduced.mean(ft.ARRAYS)) if terms.arrays else None
        metrics = MetricRecord({terms.weight: reduced.weight, **means})
        return Summed(arrays, metrics, turn.vehicles, turn.record)

    def _terms(self, message_type: str) -> ft.Terms:
        category = message_type.partition(".")[0]
        if category not in self._metrics:
            raise ConfigError([f"messages of type {message_type!r} are not summed; use train or evaluate"])
        settings, metrics = self._settings, self._metrics[category]
        try:
            return ft.Terms(
                round=self._round,
                arrays=category == TRAIN,
                clip=self._clip,
                weight=self._weight,
                most_weight=float(settings.most_weight),
                metrics={name: float(most) for name, most in metrics.items()},
                bits=settings.bits,
                rotate=settings.rotate,
            )
        except ValueError as error:
            raise ConfigError([str(error)]) from error

    def _reply(self, messages: Sequence[Message], timeout: float) -> list[Message]:
        """What Flower's loop is given for its messages: one reply, or none for a void round."""
        if not messages:
            return []
        one = messages[0]
        if any(other.content is not one.content and other.content != one.content for other in messages):
            raise ConfigError(["a masked round sends all vehicles the same, and this strategy does not"])
        nodes = [message.metadata.dst_node_id for message in messages]
        summed = self.summed(one.content, nodes, timeout, one.metadata.message_type)
        if summed.why is not None:
            return []
        content = RecordDict({"metrics": summed.metrics})
        if summed.arrays is not None:
            content["arrays"] = summed.arrays
        return [Message(content, reply_to=one)]


def unsummed(strategy: FlowerStrategy) -> str | None:
    """Why a strategy of Flower's cannot do with the mean alone; None where it can."""
    names = [cls.__name__ for cls in type(strategy).__mro__]
    if not isinstance(strategy, FedAvg):
        return "only FedAvg and what is derived from it is known to need the mean alone"
    if isinstance(strategy, QFedAvg) or any(name in ROBUST or NOT_HERE.search(name) for name in names[:-3]):
        return "it must see every update; use FedAvg, FedAvgM, FedProx, FedAdam, FedAdagrad or FedYogi"
    return None
