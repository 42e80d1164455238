"""The gate: every mechanism, on the channels and relations that it claims, holds under the gray-box replay.

Each audit runs all probes, 0 to 50 % and 100 % of the vehicles lost, before upload and after it, and compares
noise across rounds, restarts, processes and tensors. Together they accuse a sound tree with probability below
1e-2; the seed is fixed, so that they do so once and for all, but for the noise of `own randomness`.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from carpool.privacy.audit.replay import audit
from carpool.privacy.dp import skellam
from carpool.privacy.dp.matrix import toeplitz_plan, tree_plan
from carpool.privacy.dp.randomness import SeededBits
from carpool.privacy.dp.samplers import add_skellam
from carpool.privacy.dp.schema import Schema
from carpool.privacy.dp.skellam import encode, quantised
from tests.privacy.audit.distributed import Distributed
from tests.privacy.audit.mechanisms import Adaptive, Central, Local, Matrix
from tests.privacy.dp.test_toeplitz import matrix as toeplitz_matrix
from tests.privacy.dp.test_tree_noise import estimate_matrix

T = 6
SCHEMA = Schema(2, 3)


def whitening_of_the_tree():
    """What makes the gains of the streaming estimate independent again."""
    gains = np.diff(estimate_matrix(T), axis=0, prepend=0)
    return np.linalg.inv(np.linalg.cholesky(gains @ gains.T))


def banded(bands):
    make = partial(toeplitz_plan, schema=SCHEMA, bands=bands)
    return partial(Matrix, make, mixing=toeplitz_matrix(make(T).column, T), takes=(1, 3, 5))


TREE = partial(Matrix, partial(tree_plan, schema=SCHEMA), mixing=whitening_of_the_tree(), takes=(1, 3, 5))

QUICK = {
    "central": Central,
    "central, two channels": partial(Central, split=True),
    "central over a secure sum": partial(Central, ring=True),
    "central, adaptive clipping": Adaptive,
    "local": Local,
    "distributed": Distributed,
    "distributed, XNoise": partial(Distributed, extras=3),
    "matrix, banded": banded(2),
    "matrix, tree": TREE,
}
SLOW = {
    **{f"central, {relation}": partial(Central, relation) for relation in ("add-remove", "replace-one")},
    **{f"adaptive, {relation}": partial(Adaptive, relation) for relation in ("add-remove", "replace-one")},
    "local, replace-one, two channels": partial(Local, "replace-one", split=True),
    **{
        f"distributed, {bits} bits, {relation}": partial(Distributed, relation, bits=bits, z=z)
        for bits, z in ((16, 2.0), (24, 1.0), (32, 0.6))
        for relation in ("zero-out", "replace-one")
    },
    "distributed, decoded, two channels": partial(Distributed, decoded=True, split=True),
    "distributed, more lost than planned": partial(Distributed, n_min=12, quorum=2),
    "distributed, some lie": partial(Distributed, gamma=0.2, n_min=8),
    "distributed, XNoise, more lost than planned": partial(Distributed, extras=3, leaving=0.2, quorum=2),
    "distributed, XNoise, some lie": partial(Distributed, extras=16, gamma=0.1, leaving=0.35),
    "distributed, XNoise, decoded": partial(Distributed, extras=5, decoded=True),
    **{
        f"matrix, {bands} bands, {relation}": partial(banded(bands), relation)
        for bands in (1, 2, T)
        for relation in ("add-remove", "replace-one")
    },
    "matrix, tree, replace-one": partial(TREE, "replace-one"),
}
LARGE = {"body": (120, 150), "head": (43, 45), "bias": (43,)}


def passes(make):
    mechanism = make()
    report = audit(mechanism, mechanism.claim(), restart=make, seed=5)
    assert report.passed, report.text()
    return report


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_mechanism_holds_what_it_claims(name):
    report = passes(QUICK[name])
    assert {"difference", "noise", "correlation", "epsilon", "refused", "charge"} <= set(report.checks)
    assert 0.5 * report.epsilon[0] < report.epsilon[1] <= report.epsilon[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_and_so_it_does_in_its_other_forms(name):
    passes(SLOW[name])


@pytest.mark.nightly
@pytest.mark.parametrize("name", {**QUICK, **SLOW})
def test_and_on_a_larger_model_with_more_vehicles(name):
    """20,000 numbers and 30 vehicles: 2 % too little noise would be found."""
    make = partial({**QUICK, **SLOW}[name], shapes=LARGE, planned=30)
    if name.startswith("distributed"):
        make = partial(make, n_min=15)
    passes(make)


def test_what_a_distributed_vehicle_sends_is_what_the_audit_takes_apart():
    """`encode` is `quantised` and then the noise, from one stream; the audit gives each its own."""
    mechanism = Distributed()
    vector = np.full(mechanism.form.grid.size, 0.01, np.float32)
    whole = encode(mechanism.form.plan, vector, bytes(16), SeededBits(1))
    plain = quantised(mechanism.form.plan, vector, bytes(16), SeededBits(1)).view(np.uint32)
    noise = (whole - plain).view(np.int32).astype(float)
    assert noise.std() == pytest.approx(mechanism.form.plan.variance**0.5, rel=0.15)


def halved(*arguments):
    from carpool.privacy.dp.grid import gaussian

    return gaussian(*arguments) // 2


def unclipped(vectors, clip_norm):
    return dict(vectors), False


def meagre(bits, variance, vector):
    add_skellam(bits, 0.6 * variance, vector)


def unbounded(plan, vector, row, *rest, rounded=skellam._rounded):
    rounded(plan, vector, row * 2, *rest)
    return 0


BROKEN = {
    "the aggregator's noise is halved": (
        Central,
        {"carpool.privacy.dp.central.gaussian": halved},
        {"noise", "epsilon"},
    ),
    "nothing is clipped or checked": (
        Central,
        {
            "tests.privacy.audit.mechanisms.clip_jointly": unclipped,
            "carpool.privacy.dp.grid._check_norm": lambda *_: None,
            "carpool.privacy.dp.grid._check_square": lambda *_: None,
        },
        {"difference", "crash"},
    ),
    "nothing is clipped, and the grid refuses it": (
        Central,
        {"tests.privacy.audit.mechanisms.clip_jointly": unclipped},
        {"counted"},
    ),
    "vehicles make less noise than they say": (
        Distributed,
        {
            f"{module}.add_skellam": meagre
            for module in ("carpool.privacy.dp.skellam", "tests.privacy.audit.distributed")
        },
        {"noise", "epsilon"},
    ),
    "fewer vehicles are left than the noise was made for": (
        Distributed,
        {"carpool.privacy.dp.skellam.Plan.variance": property(lambda plan: plan.target / (plan.honest + 2))},
        {"charge", "price", "epsilon"},  # the ledger is told
    ),
    "rounding is not held to its norm": (
        Distributed,
        {"carpool.privacy.dp.skellam._rounded": unbounded},
        {"difference"},
    ),
    "a component too many is taken off": (
        partial(Distributed, extras=3),
        {"tests.privacy.audit.distributed.noise_levels.revealed": lambda *_: (1, 2, 3)},
        {"charge", "price", "epsilon"},  # the ledger is told
    ),
    "each round has the same noise": (
        Local,
        {"tests.privacy.audit.mechanisms.bits_for": lambda *_: SeededBits(3)},
        {"correlation"},
    ),
    "the noise of the rounds is not correlated as the plan says": (
        banded(2),
        {"carpool.privacy.dp.matrix_noise.ToeplitzState.step": lambda state, round_, draw: draw() >> 12},
        {"correlation"},
    ),
    "a vehicle takes part more often than its schema allows": (
        lambda: Matrix(
            partial(toeplitz_plan, schema=Schema(2, 1), bands=2),
            mixing=banded(2)().mixing,
            takes=(1, 3),
        ),
        {},
        {"difference"},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_the_gate_sees_what_is_broken_in_our_own_code(name, monkeypatch):
    make, patches, wanted = BROKEN[name]
    for target, value in patches.items():
        monkeypatch.setattr(target, value)
    mechanism = make()
    report = audit(mechanism, mechanism.claim(), restart=make, seed=5)
    assert {finding.what for finding in report.findings} == wanted, report.text()


def test_a_small_round_holds_quickly():
    mechanism = Central(shapes={"body": (20, 20), "head": (20,)}, planned=5)
    report = audit(mechanism, mechanism.claim(), seed=5, forks=False)
    assert report.passed, report.text()
