"""What contributions become before they are masked, and sums of them after: laws, bounds, refusals."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carpool.privacy.errors import RoundError, VehicleError
from carpool.privacy.secagg.masks import shorten
from carpool.privacy.secagg.sumform import MOST_LOSS, TAIL, Part, SumForm, parts_of

PARTS = (Part("delta", 6, 2.0, True), Part("control", 6, 0.5, False), Part("steps", 1, 10.0, True))
CHANCES = 8
"""Standard deviations of what rounding does to a sum; one in 10^15 numbers is further off."""


def form(most: int = 20, **changes: object) -> SumForm:
    return SumForm(**{"parts": PARTS, "most": most, "most_weight": 30.0, **changes})


def fleet(
    n: int, seed: int, parts: tuple[Part, ...] = PARTS
) -> list[tuple[dict[str, np.ndarray], float, float]]:
    """n contributions: vectors of any norm up to the clip norm, weights up to 30, losses."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        vectors = {}
        for part in parts:
            raw = rng.normal(size=part.size)
            wanted = part.clip * rng.choice([0.0, 0.3, 1.0], p=[0.1, 0.5, 0.4])
            vectors[part.name] = (raw * wanted / np.linalg.norm(raw)).astype(np.float32)
        rows.append((vectors, float(rng.choice([0.5, 1, 17, 30])), float(rng.normal(1, 2))))
    return rows


def added(one: SumForm, rows: list[tuple[dict[str, np.ndarray], float, float]], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    total = np.zeros(one.numbers, np.uint32)
    for vectors, weight, loss in rows:
        total += one.encode(vectors, weight, loss, rng)
        shorten(total, one.bits)
    return total


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 20),
    bits=st.sampled_from([16, 24, 32]),
    rotation=st.sampled_from([None, b"r" * 16]),
    seed=st.integers(0, 2**32),
)
def test_the_sum_of_encoded_contributions_is_their_weighted_sum(
    n: int, bits: int, rotation: bytes | None, seed: int
) -> None:
    """Within n steps where nothing is rotated: each is rounded by less than a step."""
    one, rows = form(bits=bits, rotation=rotation), fleet(n, seed)
    found = one.decode(added(one, rows, seed), n)
    for part, quantiser in zip(PARTS, one.quantisers, strict=False):
        scale = [min(weight, 30.0) if part.weighted else 1.0 for _, weight, _ in rows]
        wanted = sum(s * row[0][part.name].astype(np.float64) for s, row in zip(scale, rows, strict=True))
        step = quantiser.step * (30.0 if part.weighted else 1.0)
        off = np.abs(found.sums[part.name] - wanted)
        # float32 in and out: 2^-24 of the largest value each time
        room = 4 * 2.0**-24 * n * part.clip * (30.0 if part.weighted else 1.0)
        if rotation is None or part.size == 1:
            assert off.max() <= n * step + room
        else:
            assert np.linalg.norm(off) <= math.sqrt(quantiser.padded) * n * step + 8 * room
    step = one.quantisers[-1].step
    weight = sum(weight for _, weight, _ in rows)
    assert found.weight == pytest.approx(weight, abs=n * step * 30 + 1e-5 * weight)
    assert found.loss is not None
    mean = sum(weight * loss for _, weight, loss in rows) / weight
    rest = n * step * 30 / weight
    assert found.loss == pytest.approx(mean, abs=(MOST_LOSS + abs(mean)) * rest + 1e-4)
    at_the_clip = sum(any(np.linalg.norm(v[p.name]) > 0.999 * p.clip for p in PARTS) for v, _, _ in rows)
    assert abs(found.clipped - at_the_clip) <= n * step + 0.5


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 12), bits=st.sampled_from([16, 24, 32]), seed=st.integers(0, 2**32))
def test_the_order_of_the_vehicles_and_the_groups_does_not_matter(n: int, bits: int, seed: int) -> None:
    one, rows = form(bits=bits), fleet(n, seed)
    encoded = [one.encode(*row, np.random.default_rng(k)) for k, row in enumerate(rows)]
    forward, back = np.zeros(one.numbers, np.uint32), np.zeros(one.numbers, np.uint32)
    for left, right in zip(encoded, reversed(encoded), strict=True):
        forward += left
        back += right
    shorten(forward, bits)
    shorten(back, bits)
    assert forward.tobytes() == back.tobytes()


def test_the_same_generator_rounds_alike_and_another_otherwise() -> None:
    one, [row] = form(bits=16), fleet(1, 5)
    a, b, c = (one.encode(*row, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert a.tobytes() == b.tobytes()
    assert a.tobytes() != c.tobytes()


@pytest.mark.parametrize("bits", [16, 24, 32])
@pytest.mark.parametrize("sign", [-1, 1])
def test_as_many_as_announced_at_the_bound_do_not_wrap(bits: int, sign: int) -> None:
    one = SumForm((Part("delta", 1, 2.0, True),), 500, 1.0, bits)
    vector = {"delta": np.array([sign * 2.0], np.float32)}
    total = one.encode(vector, 1.0, sign * MOST_LOSS, np.random.default_rng(0)) * np.uint32(500)
    shorten(total, bits)
    found = one.decode(total, 500)
    assert found.sums["delta"] == pytest.approx([sign * 1000.0], rel=1e-6)
    assert found.weight == pytest.approx(500.0, rel=1e-6)
    assert found.loss == pytest.approx(sign * MOST_LOSS, rel=1e-6)
    assert found.clipped == 500


def test_every_number_of_a_vehicle_lies_within_the_levels_that_are_announced() -> None:
    for bits in (16, 24, 32):
        one = form(bits=bits)
        assert len({quantiser.levels for quantiser in one.quantisers}) == 1
        for row in fleet(30, 7):
            numbers = one.encode(*row, np.random.default_rng(0)).astype(np.int64)
            numbers[numbers >= 1 << (bits - 1)] -= 1 << bits
            assert np.abs(numbers).max() <= one.levels


def test_a_weight_above_the_largest_counts_as_the_largest_and_is_told() -> None:
    one, vectors = form(), {p.name: np.full(p.size, 0.1 * p.clip, np.float32) for p in PARTS}
    found = one.decode(one.encode(vectors, 60.0, 1.0, np.random.default_rng(0)), 1)
    assert found.weight == pytest.approx(30.0)
    assert found.sums["delta"] == pytest.approx(np.full(6, 6.0), abs=1e-3)
    assert found.sums["control"] == pytest.approx(np.full(6, 0.05), abs=1e-6), "every vehicle alike"
    assert found.clipped == 1


def test_a_loss_beyond_what_is_represented_is_said_to_be_the_bound() -> None:
    one, vectors = form(), {p.name: np.zeros(p.size, np.float32) for p in PARTS}
    for loss, told in ((1e30, MOST_LOSS), (-1e30, -MOST_LOSS), (3.0, 3.0)):
        found = one.decode(one.encode(vectors, 1.0, loss, np.random.default_rng(0)), 1)
        assert found.loss == pytest.approx(told, abs=1e-3)


def test_rotated_channels_take_a_power_of_two_and_single_numbers_are_left_as_they_are() -> None:
    assert form().numbers == 6 + 6 + 1 + TAIL
    assert form(rotation=b"r" * 16).numbers == 8 + 8 + 1 + TAIL
    one, other = form(rotation=b"r" * 16), form(rotation=b"s" * 16)
    [row] = fleet(1, 1)
    a, b = (x.encode(*row, np.random.default_rng(0)) for x in (one, other))
    assert a[:16].tobytes() != b[:16].tobytes()
    assert one.quantisers[0].rotation != one.quantisers[1].rotation, "each channel by itself"


def test_the_task_hash_covers_everything_that_a_number_means() -> None:
    one = form(rotation=b"r" * 16)
    changed = [
        form(most=21, rotation=b"r" * 16),
        form(most_weight=31.0, rotation=b"r" * 16),
        form(bits=24, rotation=b"r" * 16),
        form(variance=16.0, rotation=b"r" * 16),
        form(rotation=b"s" * 16),
        form(),
        form(parts=PARTS[::-1], rotation=b"r" * 16),
        *(
            form(parts=(replace(PARTS[0], **change), *PARTS[1:]), rotation=b"r" * 16)
            for change in ({"name": "gamma"}, {"size": 7}, {"clip": 2.5}, {"weighted": False})
        ),
    ]
    hashes = [x.task_hash(b"wire") for x in (one, *changed)] + [one.task_hash(b"wirf")]
    assert len(set(hashes)) == len(hashes)
    assert form(rotation=b"r" * 16).task_hash(b"wire") == hashes[0]
    assert all(len(h) == 32 for h in hashes)


# ---- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_vector_that_is_no_number_is_refused(bad: float) -> None:
    [(vectors, weight, loss)] = fleet(1, 2)
    vectors["control"][3] = bad
    with pytest.raises(VehicleError, match="control has NaN or Inf"):
        form().encode(vectors, weight, loss, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("weight", "loss"),
    [(0.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)],
)
def test_a_weight_or_loss_that_cannot_be_counted_is_refused(weight: float, loss: float) -> None:
    [(vectors, _, _)] = fleet(1, 2)
    with pytest.raises(VehicleError, match="cannot be counted"):
        form().encode(vectors, weight, loss, np.random.default_rng(0))


def test_a_vector_above_its_clip_norm_is_refused_and_one_at_it_is_not() -> None:
    vectors = {p.name: np.zeros(p.size, np.float32) for p in PARTS}
    vectors["delta"][0] = 2.0
    form().encode(vectors, 1.0, 1.0, np.random.default_rng(0))
    vectors["delta"][0] = 2.001
    with pytest.raises(VehicleError, match="above its clip norm 2"):
        form().encode(vectors, 1.0, 1.0, np.random.default_rng(0))


def test_missing_unknown_and_misshapen_channels_are_refused() -> None:
    [(vectors, _, _)] = fleet(1, 2)
    short = {**vectors, "delta": vectors["delta"][:5]}
    wide = {**vectors, "delta": vectors["delta"].astype(np.float64)}
    for bad in ({}, {**vectors, "gamma": vectors["delta"]}, short, wide):
        with pytest.raises(VehicleError):
            form().encode(bad, 1.0, 1.0, np.random.default_rng(0))


def test_forms_that_represent_nothing_are_refused() -> None:
    for changes in (
        {"parts": ()},
        {"most_weight": 0.0},
        {"most_weight": math.inf},
        {"most_weight": math.nan},
        {"most": 40_000, "bits": 16},
        {"most": 0},
        {"bits": 20},
        {"parts": parts_of([("delta", 0, 1.0, True)])},
        {"parts": parts_of([("delta", 4, math.inf, True)])},
        {"parts": parts_of([("delta", 4, 0.0, True)])},
    ):
        with pytest.raises(ValueError, match=r".+"):
            form(**changes)


def sound(n: int = 4) -> tuple[SumForm, np.ndarray]:
    one = form(most=8)
    return one, added(one, fleet(n, 3))


def whole(one: SumForm, value: float, place: int = -1) -> np.uint32:
    """A number in units of a quantiser as it lies in the ring."""
    return np.uint32(round(value / one.quantisers[place].step) % 2**32)


@pytest.mark.parametrize("count", [0, -1, 9])
def test_a_sum_of_nobody_or_of_more_than_announced_is_refused(count: int) -> None:
    one, total = sound()
    with pytest.raises(RoundError, match="not of this form"):
        one.decode(total, count)
    with pytest.raises(RoundError, match="not of this form"):
        one.decode(total[:-1], 4)


@pytest.mark.parametrize("share", [-0.5, 0.0, 4.01, -1000.0])
def test_weights_that_nobody_can_have_void_the_round(share: float) -> None:
    one, total = sound()
    total[-TAIL] = whole(one, share)
    with pytest.raises(RoundError, match="the weights of 4 vehicles add up"):
        one.decode(total, 4)


def test_losses_beyond_the_weights_void_the_round() -> None:
    one, total = sound()
    total[-TAIL], total[-TAIL + 1] = whole(one, 2.0), whole(one, 2.1)
    with pytest.raises(RoundError, match="the weights"):
        one.decode(total, 4)


@pytest.mark.parametrize("part", range(3))
def test_a_channel_longer_than_all_norms_together_voids_the_round(part: int) -> None:
    """A vehicle that wraps around or adds a thousand clip norms is not seen, but its sum is not used."""
    one, total = sound()
    start = sum(q.padded for q in one.quantisers[:part])
    total[-TAIL], total[-TAIL + 1] = whole(one, 4.0), whole(one, 0.0)
    total[start : start + one.quantisers[part].padded] = 0
    total[start] = whole(one, 3.99 * PARTS[part].clip, part)
    one.decode(total, 4)
    total[start] = whole(one, 4.02 * PARTS[part].clip, part)
    with pytest.raises(RoundError, match=f"the sum of {PARTS[part].name} of 4 vehicles has norm"):
        one.decode(total, 4)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32), rotated=st.booleans(), variance=st.sampled_from([0.0, 16.0]))
def test_honest_sums_with_the_protocols_error_are_never_refused(
    seed: int, rotated: bool, variance: float
) -> None:
    """Even where everybody is at its clip norm and points the same way."""
    rng = np.random.default_rng(seed)
    one = form(most=8, bits=24, rotation=b"r" * 16 if rotated else None, variance=variance)
    direction = {p.name: rng.normal(size=p.size) for p in PARTS}
    vectors = {
        p.name: (direction[p.name] * p.clip / np.linalg.norm(direction[p.name])).astype(np.float32)
        for p in PARTS
    }
    total = np.zeros(one.numbers, np.uint32)
    for _ in range(8):
        total += one.encode(vectors, 30.0, MOST_LOSS, rng)
    error = np.round(rng.normal(0, math.sqrt(8 * variance), one.numbers)).astype(np.int64)
    total += (error % 2**32).astype(np.uint32)
    shorten(total, 24)
    found = one.decode(total, 8)
    spread = CHANCES * math.sqrt(8 * (variance + 0.25)) + 8
    assert found.weight / 30 == pytest.approx(8.0, abs=spread * one.quantisers[-1].step)
