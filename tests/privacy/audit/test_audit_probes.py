"""What the probes hand in is what their names say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from carpool.privacy.audit.probes import FAR, PROBES, honest, huge, opposite, silent
from carpool.privacy.audit.reference import reference_claim

CLAIM = reference_claim({"weight": (3, 4), "bias": (4,)}, clip_norm=0.5)
MADE = {probe.name: probe.make(CLAIM, "me") for probe in PROBES}


def numbers(name):
    return np.concatenate([tensor.reshape(-1) for tensor in MADE[name][0].tensors.values()])


def test_the_probes_of_the_design_are_all_here():
    wanted = (
        "huge dense|one coordinate|opposite|zero|NaN|+inf|-inf|1e200|denormal|weight 1e9|weight 0|"
        "weight negative|weight NaN|extra tensor|missing tensor|integer buffer|wrong shape|duplicate vehicle"
    )
    assert set(wanted.split("|")) <= set(MADE)
    assert len(MADE) == len(PROBES)


def test_the_numbers_are_those_of_the_names():
    assert (numbers("huge dense") == 0.5 * FAR).all()
    assert (numbers("opposite") == -0.5 * FAR).all()
    assert np.count_nonzero(numbers("one coordinate")) == 1
    assert not numbers("zero").any()
    tiny = numbers("denormal")
    assert ((tiny > 0) & (tiny < np.finfo(np.float32).tiny)).all()
    assert np.isnan(numbers("NaN")).sum() == 1
    assert np.isnan(numbers("all NaN")).all()
    assert (numbers("+inf") == np.inf).sum() == (numbers("-inf") == -np.inf).sum() == 1
    assert numbers("1e200").dtype == np.float64
    assert (numbers("1e200") == 1e200).all()


def test_the_forms_are_those_of_the_names():
    assert set(MADE["extra tensor"][0].tensors) == {"weight", "bias", "extra"}
    assert set(MADE["missing tensor"][0].tensors) == {"weight"}
    assert MADE["integer buffer"][0].tensors["bias"].dtype == np.int64
    assert MADE["wrong shape"][0].tensors["bias"].shape == (5,)
    assert [one.vehicle for one in MADE["duplicate vehicle"]] == ["me", "me"]
    weights = [MADE[f"weight {name}"][0].weight for name in ("1e9", "0", "negative", "NaN")]
    assert weights[:3] == [1e9, 0, -1]
    assert math.isnan(weights[3])
    assert all(one.weight == 1 for name, own in MADE.items() if "weight" not in name for one in own)


def test_only_what_is_unsound_must_be_refused():
    must = {probe.name for probe in PROBES if probe.fate == "refused"}
    assert must == {
        "NaN", "all NaN", "+inf", "-inf", "weight negative", "weight NaN", "extra tensor", "missing tensor",
        "wrong shape",
    }  # fmt: skip


def test_neighbours_and_honest_vehicles():
    assert silent(CLAIM, "me").silent
    assert not any(tensor.any() for tensor in silent(CLAIM, "me").tensors.values())
    for name in CLAIM.tensors:
        np.testing.assert_array_equal(huge(CLAIM, "a").tensors[name], -opposite(CLAIM, "b").tensors[name])
    rng = np.random.default_rng(0)
    norms = [
        math.sqrt(sum(float((t**2).sum()) for t in honest(CLAIM, "me", rng).tensors.values()))
        for _ in range(200)
    ]
    assert 0.3 * 0.5 <= min(norms) < 0.5 < max(norms) <= 3 * 0.5 * (1 + 1e-6)


@pytest.mark.parametrize("name", ["NaN", "extra tensor", "missing tensor", "wrong shape", "integer buffer"])
def test_each_call_makes_new_arrays(name):
    probe = next(probe for probe in PROBES if probe.name == name)
    one, other = probe.make(CLAIM, "a")[0], probe.make(CLAIM, "a")[0]
    for key in one.tensors:
        assert not np.shares_memory(one.tensors[key], other.tensors[key])
