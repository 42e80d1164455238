"""Forms of private sums: how much noise is in a sum, for sure, and what it is charged as."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool.privacy.dp.budget import Books
from carpool.privacy.dp.events import Event
from carpool.privacy.dp.forms import GridForm, NoisyForm, form_for
from carpool.privacy.dp.ledger import Ledger
from carpool.privacy.dp.ledgerlines import Header, Release
from carpool.privacy.dp.protection import Protection, honest, sure
from carpool.privacy.errors import RoundError
from carpool.privacy.secagg import noise_levels
from carpool.privacy.secagg.announcement import Announcement, Protocol
from carpool.privacy.secagg.masks import KEY

SIZES = {"delta": 300}


def noisy(
    *,
    most: int = 100,
    n_min: int = 60,
    gamma: float = 0.05,
    delta: float = 0.3,
    extras: int = 16,
    **more: object,
) -> NoisyForm:
    fields: dict[str, object] = {"private": False, **more}
    form = form_for(
        Protection("distributed", 1.0, 4.0, 100, **fields),  # type: ignore[arg-type]
        SIZES, most=most, n_min=n_min, bits=32, rotation=bytes(16), gamma=gamma, delta=delta, extras=extras,
        variance=0.0,
    )  # fmt: skip
    assert isinstance(form, NoisyForm)
    return form


def test_colluders_are_of_the_roster_and_all_stay() -> None:
    assert honest(12, 12, 0.05, "zero-out") == 12
    assert honest(12, 30, 0.05, "zero-out") == 11, "one of thirty asked lies, and may be among the twelve"
    assert honest(100, 100, 0.05, "zero-out") == 95 == honest(100, 100, 0.05, "replace-one")
    assert honest(100, 100, 0.05, "add-remove") == 94
    assert sure(60, 100, 0.1, "zero-out") == 50, "not 54: ten lie, however few are in the sum"
    with pytest.raises(ValueError, match="n_min"):
        honest(2, 2, 0.5, "add-remove")


@given(
    roster=st.integers(20, 400),
    gamma=st.sampled_from([0.0, 0.02, 0.05, 0.1]),
    delta=st.sampled_from([0.1, 0.3, 0.4]),
    data=st.data(),
)
def test_xnoise_keeps_its_target_up_to_the_planned_losses(
    roster: int, gamma: float, delta: float, data: st.DataObject
) -> None:
    form = noisy(most=400, n_min=12, gamma=gamma, delta=delta)
    planned = math.floor(delta * roster + 1e-9)
    lost = data.draw(st.integers(0, planned))
    assert form.realised(roster, roster - lost) >= form.plan.target * (1 - 1e-9)
    # Each vehicle's first noise is no more than what is announced, so that its vector is not refused.
    first = form.total_variance * sum(noise_levels.shares(roster, delta, form.extras))
    assert first <= form.noise
    beyond = planned + 1 + math.floor(gamma * roster) + roster // 10
    if beyond < roster * (1 - gamma):
        less = form.realised(roster, roster - beyond)
        assert less < form.realised(roster, roster - planned) * (1 - 1e-9)


@pytest.mark.slow
def test_announced_noise_is_all_that_a_vehicle_adds_at_first() -> None:
    form, roster = noisy(gamma=0.05, delta=0.3), 60
    announced = Announcement(
        Protocol.SECAGG_PLUS, bytes(16), bytes(32), form.numbers, form.bits, form.levels, 100, 60, 1,
        form.noise, 0, (bytes(32),),
    )  # fmt: skip
    levels = len(noise_levels.shares(roster, form.delta, form.extras)) - 1
    seeds = [bytes([k]) * KEY for k in range(levels)]
    ring = form.finish(np.zeros(form.numbers, np.uint32), roster, seeds)
    values = ring.view(np.int32).astype(np.float64)
    spread = float(values.var())
    # Variance of 512 draws: five standard errors each way (6e-7); 30 % less would be seen.
    assert abs(spread / form.noise - 1) < 5 * math.sqrt(2 / values.size) < 0.35
    assert np.abs(values).max() <= announced.limit
    assert announced.most * announced.levels + announced.spread(0.0) < 1 << 31
    base = form.total_variance / roster
    assert spread > base * 1.2, "the parts that may be taken off are in it"


def test_nobodys_noise_is_a_void_round() -> None:
    form = noisy(extras=0, n_min=25, gamma=0.2)
    assert form.realised(100, 21) == form.plan.variance
    with pytest.raises(RoundError, match="nobody's noise is sure"):
        form.event(100, 20)


def test_without_xnoise_the_charge_is_for_what_is_there() -> None:
    form = noisy(extras=0, n_min=60, gamma=0.05)
    assert form.plan.honest == 55
    assert form.event(100, 60).noise_multiplier == pytest.approx(4.0), (
        "the target, by the fewest of all asked"
    )
    assert form.event(100, 100).noise_multiplier == pytest.approx(4.0 * math.sqrt(95 / 55))


def test_other_vehicles_have_other_noise_also_where_it_is_seeded() -> None:
    def ring(purpose: str) -> np.ndarray:
        form = form_for(
            Protection("distributed", 1.0, 4.0, 100, private=False), SIZES, most=100, n_min=60, bits=32,
            rotation=bytes(16), gamma=0.0, delta=0.3, extras=0, variance=0.0, purpose=purpose,
        )  # fmt: skip
        vectors = {"delta": np.zeros(300, np.float32)}
        return form.encode(vectors, 1.0, 0.0, np.random.default_rng(0))

    assert np.array_equal(ring("1"), ring("1"))
    assert not np.array_equal(ring("1"), ring("2"))


def test_a_sum_without_noise_is_never_decoded() -> None:
    form = form_for(
        Protection("central", 1.0, 4.0, 100), SIZES, most=100, n_min=60, bits=32, rotation=bytes(16),
        gamma=0.05, delta=0.3, extras=0, variance=0.0,
    )  # fmt: skip
    assert isinstance(form, GridForm)
    with pytest.raises(RoundError, match="not decoded"):
        form.decode(np.zeros(300, np.uint32), 1)


PLANNED, Z, DELTA = 100, 22.36, 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kept", "xnoise", "epsilon"), [(1.0, False, 1.995), (0.7, False, 2.426), (0.7, True, 1.995)]
)
def test_the_dropout_table_of_the_ledger(tmp_path: Path, kept: float, xnoise: bool, epsilon: float) -> None:
    """Planned 100 releases; of a roster of 1000, 30 % are lost: charged as it is there, or kept by XNoise."""
    roster = 1000
    share = noise_levels.realised(roster, round(kept * roster), 0.3, 16 if xnoise else 0)
    header = Header("run", "r", "vehicle", "zero-out", DELTA)
    with Ledger.open(tmp_path / "ledger.jsonl", header) as ledger:
        books = Books((ledger, None))
        for round_ in range(PLANNED):
            ticket = books.charge(released(round_, Event("gaussian", Z)))
            books.realised(ticket, Z * math.sqrt(share), round(kept * roster))
            books.publish(ticket, f"{round_:064x}")
        assert ledger.epsilon() == pytest.approx(epsilon, abs=6e-4)


def released(round_: int, event: Event) -> Release:
    names: Mapping[str, object] = {"unit": "vehicle", "relation": "zero-out"}
    return Release(
        run="r", round=round_, what="model sum", mechanism="distributed", event=event, delta=DELTA,
        clip_norm=1.0, cohort=1000, noise_from="vehicles", **names,  # type: ignore[arg-type]
    )  # fmt: skip
