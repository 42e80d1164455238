"""Secure aggregation in a Flower app of one's own: a mod for the ClientApp, a helper for the ServerApp.

    vehicle     app = ClientApp(mods=[secagg_mod("fleet/vehicle-7", n_min=12)])
    server      SecureSum(grid, "fleet/aggregator-0", Settings("secagg+", 12, most_weight=500), clip=10.0)

See docs/flower.md. On a vehicle, `carpool.experiments.flower_masked` has the mod without the server's half.
"""

from __future__ import annotations

from carpool.experiments.flower_masked import secagg_mod
from carpool.experiments.flower_sums import SecureSum, Summed
from carpool.privacy.secagg.settings import Settings

__all__ = ["SecureSum", "Settings", "Summed", "secagg_mod"]
