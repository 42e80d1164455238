"""Whether a masked pass counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from carpool.server.receive import RoundPlan
from carpool.server.secure_sums import verdict
from carpool.strategies.bucketing import bucketed
from carpool.strategies.catalogue import build
from carpool.strategies.contract import Facts
from carpool.strategies.deadline import Decision, Policy

PLAN = RoundPlan("run", Facts(1, 0, 100, 20), np.arange(1, 31), Policy(cohort=20, quorum=0.9))
COUNTED = Decision(True, True, None, "everybody answered")


@pytest.mark.parametrize(
    ("sums", "inside", "whys", "counted", "words"),
    [
        (1, 18, (None,), True, "everybody answered"),
        (1, 17, (None,), False, "17 vehicles are in the sums, the quorum is 18"),
        (0, 0, ("a secret cannot be opened",), False, "a secret cannot be opened"),
        (3, 17, (None, "one group failed", None), False, "17 vehicles"),
    ],
)
def test_a_pass_counts_with_a_quorum_in_sound_sums(sums, inside, whys, counted, words):
    found, why = verdict(build("fedavg", {}), PLAN, COUNTED, sums, inside, whys)
    assert found is counted
    assert words in why


def test_too_few_groups_for_the_rule_or_a_round_that_was_void_before():
    rule = replace(bucketed(build("median", {}), 6), least=3)
    assert verdict(rule, PLAN, COUNTED, 3, 18, ()) == (True, "everybody answered")
    assert verdict(rule, PLAN, COUNTED, 2, 18, ()) == (False, "2 groups of 3 needed")
    late = Decision(True, False, None, "the longest round is over")
    assert verdict(rule, PLAN, late, 3, 18, ()) == (False, "the longest round is over")
