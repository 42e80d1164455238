"""result.json: what a run came to. Its keys are a promise; times are the only thing a seed does not fix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from carpool.experiments.attack_report import attack_facts
from carpool.experiments.config import Experiment


def build_result(
    experiment: Experiment,
    records: Sequence[Mapping[str, Any]],
    seconds: float,
    served: Mapping[str, Any] | None = None,
    stopped: str = "",
) -> dict[str, Any]:
    """The document; metrics that the task lacks are null. seconds: wall time of the run.

    served: `fairness`, how well the fleet's model serves the vehicles (known to the simulator only), and
    `personal`, the same of their own models; see `fairness.distribution`. stopped: why privacy allowed no
    more rounds than there are, "" where it did.
    """
    evaluated = [record for record in records if record["loss"] is not None]
    last = evaluated[-1] if evaluated else {}
    return {
        "experiment": experiment.experiment.name,
        "engine": experiment.experiment.engine,
        "seed": experiment.experiment.seed,
        "strategy": experiment.strategy.name,
        "vehicles": experiment.fleet.vehicles,
        "rounds": [dict(record) for record in records],
        "final": {
            "loss": last.get("loss"),
            "accuracy": last.get("accuracy"),
            "targets": last.get("targets"),
        },
        "privacy": privacy_facts(experiment, records),
        "totals": {
            "seconds": round(seconds, 3),
            "fleet_seconds": round(sum(record["fleet_seconds"] for record in records), 3),
            "bytes_up": sum(record["bytes_up"] for record in records),
            "bytes_down": sum(record["bytes_down"] for record in records),
            "energy_wh": None,
        },
        "stopped": stopped or None,
        **(served or {"fairness": None, "personal": None}),
        **attack_facts(experiment, last),
    }


def privacy_facts(experiment: Experiment, records: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """What protects the vehicles, in the words of the configuration; null where nothing does.

    private: false where the noise came from a seeded generator: NOT PRIVATE.
    """
    privacy = experiment.privacy
    last = records[-1] if records else {}
    dp = last.get("dp") or {}
    plain = privacy.channel != "secagg"
    noise = privacy.dp.mechanism != "none"
    return {
        "unit": privacy.dp.unit if noise else None,
        "relation": privacy.dp.relation if noise else None,
        "channel": privacy.channel,
        "protocol": None if plain else privacy.protocol,
        "mechanism": privacy.dp.mechanism,
        "epsilon": last.get("epsilon") if noise else None,
        "delta": privacy.dp.delta if noise else None,
        "noise_multiplier": dp.get("noise_multiplier"),
        "private": dp.get("private"),
    }
