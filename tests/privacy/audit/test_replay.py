"""The replay as a library: a stranger's code in a few lines, what it refuses, and the audit's own tests."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from carpool.privacy.audit import processes, selftest
from carpool.privacy.audit.reference import NoLeak, Reference, reference_claim, without_leak
from carpool.privacy.audit.replay import audit
from carpool.privacy.audit.rounds import Block, Claim, Part, Released
from carpool.privacy.audit.selftest import PLANNED, SMALL
from carpool.privacy.dp import accounting
from carpool.privacy.dp.events import Event
from carpool.privacy.errors import RoundError, UsageError

D, N, Z = 3000, 6, 1.0
EPSILON = accounting.epsilon([Event("gaussian", Z)], 1e-5, "add-remove").epsilon
STRANGER = Claim(
    tensors={"w": (D,)},
    clip_norm=1.0,
    parts=(Part("mean", {"w": Block(D, 1.0, N)}, Z),),
    planned=N,
    epsilon=EPSILON,
    delta=1e-5,
    relation="add-remove",
)


def stranger(ask, weighted=False):
    """Somebody's aggregation with noise, as one function over plain arrays."""
    rng = np.random.default_rng(None if ask.randomness is None else [ask.randomness, ask.number])
    total, counted, refused = np.zeros(D), [], []
    for one in ask.cohort:
        if one.vehicle in ask.lost:
            continue
        w = one.tensors.get("w", np.empty(0))
        bad = one.vehicle in counted or w.shape != (D,) or len(one.tensors) > 1 or w.dtype.kind != "f"
        if bad or not np.isfinite(w).all() or np.abs(w).max() > 1e30 or not one.weight >= 0:
            refused.append(one.vehicle)
            continue
        norm = np.linalg.norm(w.astype(float))
        total += (one.weight if weighted else 1) * w * min(1, 1 / norm if norm else 1)
        counted.append(one.vehicle)
    noisy = total + rng.normal(0, Z, D)
    return Released({"w": noisy / N}, tuple(counted), tuple(refused), {"mean": Event("gaussian", Z)})


def found(report):
    return {finding.what for finding in report.findings}


def test_a_strangers_function_is_plugged_in_as_it_is():
    report = audit(stranger, STRANGER, seed=1)
    assert report.passed, report.text()
    assert report.epsilon[0] == EPSILON
    weighted = audit(partial(stranger, weighted=True), STRANGER, seed=1, forks=False)
    assert found(weighted) == {"difference"}
    assert {finding.probe for finding in weighted.findings} == {"weight 1e9"}
    assert max(finding.seen for finding in weighted.findings) == pytest.approx(1e9)


def test_the_same_seed_gives_the_same_report_but_for_what_is_the_mechanisms_own():
    one, other = (audit(stranger, STRANGER, seed=3, forks=False) for _ in range(2))
    assert one.checks == other.checks
    assert one.findings == other.findings


def test_a_smaller_claim_is_not_kept_and_a_larger_one_is():
    def with_part(**changes):
        return replace(STRANGER, parts=(replace(STRANGER.parts[0], **changes),))

    assert found(audit(stranger, with_part(sensitivity=0.999), forks=False)) == {"difference"}
    assert found(audit(stranger, replace(STRANGER, epsilon=0.9 * EPSILON), forks=False)) >= {"price"}
    assert found(audit(stranger, with_part(noise_multiplier=1.5), forks=False)) == {"charge"}
    generous = replace(with_part(sensitivity=1.2, noise_multiplier=0.9), epsilon=2 * EPSILON)
    assert audit(stranger, generous, forks=False).passed


def test_noise_on_vehicles_needs_the_exact_sums_where_a_neighbour_takes_its_noise_along():
    claim = reference_claim(SMALL, planned=PLANNED, relation="add-remove", shared=True)

    def hides(ask):
        return replace(Reference(claim)(ask), exact=None)

    with pytest.raises(UsageError, match="give the exact sums"):
        audit(hides, claim, forks=False)


def test_a_mechanism_that_never_releases_is_found():
    def void(ask):
        raise RoundError("no")

    report = audit(void, STRANGER, forks=False)
    assert [finding.what for finding in report.findings] == ["void"]

    def broken(ask):
        raise ZeroDivisionError

    assert found(audit(broken, STRANGER, forks=False)) == {"crash"}


def test_what_was_not_looked_at_is_said():
    report = audit(stranger, STRANGER, forks=False)
    assert any("after a restart" in why for why in report.skipped)
    assert any("processes" in why for why in report.skipped)
    whole = audit(stranger, STRANGER, restart=lambda: stranger)
    assert whole.skipped == ()


def test_a_child_that_fails_is_a_finding(monkeypatch):
    monkeypatch.setattr(processes, "in_child", lambda work: b"short!!!")
    report = audit(stranger, STRANGER)
    assert {finding.probe for finding in report.findings} == {"in another process"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tensors": {}}, "each is claimed once"),
        ({"parts": ()}, "each is claimed once"),
        ({"parts": STRANGER.parts * 2}, "each is claimed once"),
        ({"relation": "other"}, "use one of"),
        ({"planned": 0}, "use one of"),
        ({"rounds": 0}, "use one of"),
        ({"mixing": np.eye(2)}, "mixing of 1 rounds"),
        ({"takes": ()}, "takes part in rounds"),
        ({"takes": (2,)}, "takes part in rounds"),
    ],
)
def test_claims_that_cannot_be_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        replace(STRANGER, **changes)


def test_one_run_compares_with_nothing():
    with pytest.raises(ValueError, match="2 or more"):
        audit(stranger, STRANGER, runs=1)


def test_the_null_test_finds_nothing_and_a_vehicle_that_moves_nothing_moves_nothing():
    claim = without_leak(selftest.small_claim())
    assert audit(NoLeak(claim), claim, forks=False).passed
    # The same claim, but of a round that does release something.
    assert found(audit(Reference(claim), claim, forks=False)) == {"difference"}


@pytest.mark.slow
def test_the_audits_own_tests_pass_and_fail_where_they_must(monkeypatch):
    assert selftest.self_test() == ""
    known, bound = selftest.coverage(range(5))
    assert 0.8 * known < bound <= known
    with monkeypatch.context() as patch:
        patch.setattr(selftest, "power", lambda seed: selftest.null_test(seed)[0])
        assert "does not see that the noise is missing" in selftest.self_test()
    with monkeypatch.context() as patch:
        patch.setattr(selftest, "coverage", lambda seeds: (1.0, 1.1))
        assert "above the known epsilon" in selftest.self_test()
    with monkeypatch.context() as patch:
        patch.setattr(selftest, "null_test", lambda seed: (selftest.power(seed),))
        assert "accuses a mechanism without a fault" in selftest.self_test()


def test_the_lower_bound_on_epsilon_is_that_of_the_noise_seen():
    claim = selftest.small_claim()
    report = audit(Reference(claim), claim, forks=False)
    assert math.isfinite(report.epsilon[1])
    assert 0.7 * claim.epsilon < report.epsilon[1] <= claim.epsilon
