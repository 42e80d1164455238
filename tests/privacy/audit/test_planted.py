"""Every planted fault is found, by the check that should find it; rounds without a fault are not accused."""

from __future__ import annotations

from functools import partial

import pytest

from carpool.privacy.audit.reference import Reference, reference_claim
from carpool.privacy.audit.replay import audit
from tests.privacy.audit import planted
from tests.privacy.audit.planted import DESIGN, MORE, claimed

SMALL = {"body": (30, 40), "head": (20, 10), "bias": (10,)}
"""Enough for all but noise that is 5 % too small."""
FINE = (planted.FewSharesLost,)


def found_by(bug, seed=0):
    claim = claimed(bug, shapes=SMALL) if bug not in FINE else claimed(bug)
    report = audit(bug(claim), claim, restart=partial(bug, claim), seed=seed)
    return report, {finding.what for finding in report.findings}


@pytest.mark.slow
@pytest.mark.parametrize("bug", [*DESIGN, *MORE], ids=lambda bug: bug.__name__)
def test_a_planted_fault_is_found_by_its_checks_and_no_others(bug):
    report, found = found_by(bug)
    assert found == {**DESIGN, **MORE}[bug], report.text()
    assert not report.passed
    assert "FOUND" in report.text()


def test_the_twelve_of_the_design_are_here():
    assert len(DESIGN) == 12


@pytest.mark.slow
def test_what_is_found_is_as_large_as_the_fault():
    def worst(bug, what, probe):
        report, _ = found_by(bug)
        return max(one.seen for one in report.findings if one.what == what and one.probe.startswith(probe))

    assert worst(planted.NoClip, "difference", "huge dense") == pytest.approx(1e6 * 1410**0.5, rel=1e-3)
    assert worst(planted.ClipByLayer, "difference", "huge dense") == pytest.approx(3**0.5, rel=1e-6)
    assert worst(planted.WeightedByWhatTheySay, "difference", "weight 1e9") == pytest.approx(1e9, rel=1e-6)
    assert worst(planted.ReplaceOneClaimedWithC, "difference", "huge dense") == pytest.approx(2, rel=1e-6)
    claim = claimed(planted.ReplaceOneClaimedWithC)
    assert worst(planted.ReplaceOneClaimedWithC, "price", "") == planted.epsilon_of_replace_one(claim)
    assert worst(planted.DividedByReplies, "difference", "huge dense, 50% lost") > 1.9
    assert 0.5 <= worst(planted.NoiseHalved, "noise", "0% lost, all blocks") < 0.6
    assert worst(planted.ReseededEachRound, "correlation", "round 1 and round 2") > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("relation", ["zero-out", "add-remove", "replace-one"])
@pytest.mark.parametrize("shared", [False, True])
def test_a_round_without_a_fault_is_never_accused(relation, shared):
    """Twelve seeds; each audit accuses it with probability below `false_alarm`, about 1e-4."""
    for seed in range(12):
        claim = reference_claim(SMALL, relation=relation, shared=shared, planned=8 + seed)
        report = audit(
            Reference(claim), claim, restart=partial(Reference, claim), seed=seed, forks=seed % 4 == 0
        )
        assert report.passed, report.text()
        assert report.false_alarm < 5e-4
        assert report.epsilon[1] <= report.epsilon[0]


@pytest.mark.nightly
def test_no_false_alarm_over_many_seeds():
    for seed in range(300):
        claim = reference_claim(SMALL, shared=bool(seed % 2), planned=6)
        report = audit(Reference(claim), claim, seed=seed, forks=False)
        assert report.passed, (seed, report.text())


def test_five_percent_too_little_noise_is_found_and_the_right_amount_is_not():
    class Short(Reference):
        def noise(self, ask, counted):
            return 0.95 * super().noise(ask, counted)

    claim = reference_claim(planned=3)
    for seed in range(3):
        short = audit(Short(claim), claim, seed=seed, forks=False)
        assert "0% lost, all blocks" in {one.probe for one in short.findings if one.what == "noise"}
        assert audit(Reference(claim), claim, seed=seed, forks=False).passed
