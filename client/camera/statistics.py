"""Numbers on a fleet's data for people: who has how much of what; the body of `carpool data info`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from carpool.client.camera.samples import FleetData, Schema, Shard, Target


def describe(fleet: FleetData) -> dict[str, Any]:
    """A JSON-able description: the schema, one entry a vehicle, and a summary of the fleet.

    label_skew is the mean over vehicles of the total-variation distance (0..1) between the vehicle's class
    mixture and the fleet's, for the first target with classes; null where there is none.
    """
    target = next((one for one in fleet.schema.targets if one.kind == "class"), None)
    shards = [fleet.training(vehicle) for vehicle in range(fleet.vehicles)]
    histograms = [histogram(shard, target) for shard in shards]
    amounts = np.array([len(shard) for shard in shards])
    table = [
        {
            "vehicle": vehicle,
            "samples": len(shard),
            "groups": groups(shard),
            "held_back": len(fleet.own_validation(vehicle)),
            "classes": counts.tolist(),
            "domain": fleet.domain(vehicle),
        }
        for vehicle, (shard, counts) in enumerate(zip(shards, histograms, strict=True))
    ]
    return {
        "schema": schema_words(fleet.schema),
        "class_target": None if target is None else target.name,
        "fleet": {
            "vehicles": fleet.vehicles,
            "samples": int(amounts.sum()),
            "validation_samples": len(fleet.validation()),
            "samples_min": int(amounts.min()),
            "samples_median": float(np.median(amounts)),
            "samples_max": int(amounts.max()),
            "classes": np.sum(histograms, axis=0, dtype=np.int64).tolist() if target else [],
            "label_skew": label_skew(histograms) if target else None,
        },
        "vehicles": table,
    }


def schema_words(schema: Schema) -> dict[str, Any]:
    """The schema as plain values."""
    return {
        "views": list(schema.views),
        "width": schema.width,
        "height": schema.height,
        "targets": [
            {
                "name": one.name,
                "kind": one.kind,
                "classes": list(one.classes),
                "width": one.width,
                "unit": one.unit,
            }
            for one in schema.targets
        ],
    }


def groups(shard: Shard) -> int:
    """Number of tracks or drives that the shard touches."""
    return len(np.unique(shard.pool.group[shard.rows]))


def histogram(shard: Shard, target: Target | None) -> NDArray[np.int64]:
    """int64 [classes]: samples a class; empty where there are no classes."""
    if target is None:
        return np.zeros(0, np.int64)
    labels = np.asarray(shard.pool.targets[target.name][shard.rows], np.int64)
    return np.bincount(labels, minlength=len(target.classes)).astype(np.int64)


def label_skew(histograms: list[NDArray[np.int64]]) -> float:
    """Mean total-variation distance of the vehicles' class mixtures to that of the fleet, 0..1.

    >>> label_skew([np.array([4, 0]), np.array([0, 4])])
    0.5
    """
    table = np.stack(histograms).astype(np.float64)
    fleet = table.sum(axis=0) / max(table.sum(), 1.0)
    own = table / np.maximum(table.sum(axis=1, keepdims=True), 1.0)
    return float(np.abs(own - fleet).sum(axis=1).mean() / 2)
