"""What every test of an attack on secagg+ begins with."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from carpool.privacy.errors import VehicleError
from tests.privacy.secagg.fleet import (
    TASK,
    Given,
    Round,
    announced,
    members,
)

TERMS = Given(3, 0.05, 0.3, "curious", threshold=lambda n: 3)
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(range(2, 34)))


class Case:
    """Five vehicles, three of them needed, everybody everybody's neighbour, threshold 3."""

    def setup_method(self):
        self.facts = announced(8, 3)
        self.fleet = members(5, 8, terms=TERMS)
        self.one, self.other = self.fleet[:2]

    def until(self, trip, leaves=None):
        self.round = Round(self.fleet, self.facts).until(trip, leaves)
        return self.round.answers

    def refuses(self, match, trip, data, state=None, one=None):
        with pytest.raises(VehicleError, match=match):
            (one or self.one).on(trip, data, state)

    def refuses_to_begin(self, match, facts, task=TASK):
        with pytest.raises(VehicleError, match=match):
            self.one.begin(facts, task)
        assert self.one.journal.get(facts.round_id) is None  # it may still speak in an honest one
