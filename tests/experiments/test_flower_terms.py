"""The terms of a masked round in one form only, the task's hash, and arrays that can be summed."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from carpool.experiments import flower_terms as ft
from carpool.privacy.errors import VehicleError

above = st.floats(1e-30, 1e30)
terms = st.builds(
    ft.Terms,
    round=st.integers(0, 1 << 40),
    arrays=st.just(True),
    clip=above,
    weight=st.just("num-examples"),
    most_weight=above,
    metrics=st.dictionaries(st.text('aü"\0', max_size=5), above, max_size=4),
    bits=st.sampled_from((16, 24, 32)),
    rotate=st.booleans(),
)
PLAIN = ft.Terms(3, True, 2.0, "num-examples", 50.0, {"loss": 10.0}, 32, False)


@settings(max_examples=30)
@given(terms)
def test_terms_come_back_from_their_bytes(one: ft.Terms) -> None:
    assert ft.decode_terms(one.encode()) == one


def told(**changes: Any) -> bytes:
    held = json.loads(PLAIN.encode()) | changes
    held = {name: value for name, value in held.items() if value is not None}
    return json.dumps(held, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"[" * 9000,
        PLAIN.encode() + b" ",
        PLAIN.encode()[:-1] + b',"rotate":false}',
        told(clip=None),
        told(more=1),
        told(clip=2),
        told(clip=0.0),
        told(clip=-1.0),
        told(clip=float("nan")),
        told(clip=float("inf")),
        told(clip=True),
        told(metrics={"loss": 10}),
        told(metrics={"loss": -1.0}),
        told(metrics={"num-examples": 1.0}),
        told(metrics={str(i): 1.0 for i in range(65)}),
        told(arrays=False, metrics={}),
        told(round=-1),
        told(round=True),
        told(weight="x" * 40_000),
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(VehicleError, match="the terms of the masked round are malformed"):
        ft.decode_terms(data)


def test_the_form_has_a_channel_for_the_model_and_one_a_metric() -> None:
    form = PLAIN.form(7, 100)
    assert [(part.name, part.size, part.clip, part.weighted) for part in form.parts] == [
        ("arrays", 7, 2.0, True),
        ("metric loss", 1, 10.0, True),
    ]
    assert form.numbers == 7 + 1 + 3
    assert form.rotation is None
    turned = ft.Terms(**{**vars(PLAIN), "rotate": True}).form(7, 100)
    later = ft.Terms(**{**vars(PLAIN), "rotate": True, "round": 4}).form(7, 100)
    assert turned.rotation != later.rotation
    with pytest.raises(ValueError, match="does not fit"):
        ft.Terms(**{**vars(PLAIN), "bits": 16}).form(7, 1 << 16)


def content(**changes: Any) -> RecordDict:
    records = {
        "arrays": record(w=np.ones((2, 3), np.float32), b=np.zeros(2, np.float32)),
        "config": ConfigRecord({"lr": 0.1, "steps": 1, "names": ["a", "b"]}),
        "metrics": MetricRecord({"x": 1.0}),
    }
    return RecordDict({**records, **changes})


def record(**arrays: Any) -> ArrayRecord:
    return ArrayRecord({name: Array(one) for name, one in arrays.items()})


@pytest.mark.parametrize(
    "other",
    [
        content(arrays=record(w=np.ones((3, 2), np.float32), b=np.zeros(2, np.float32))),
        content(arrays=record(w=np.ones((2, 3)), b=np.zeros(2, np.float32))),
        content(arrays=record(b=np.zeros(2, np.float32), w=np.ones((2, 3), np.float32))),
        content(arrays=record(w=np.ones((2, 3), np.float32), b=np.full(2, 1e-7, np.float32))),
        content(config=ConfigRecord({"lr": 0.1, "steps": 1.0, "names": ["a", "b"]})),
        content(config=ConfigRecord({"lr": 0.1, "steps": True, "names": ["a", "b"]})),
        content(config=ConfigRecord({"lr": 0.1, "steps": 1, "names": ["ab"]})),
        content(config=ConfigRecord({"lr": 0.1, "steps": 1})),
        content(metrics=ConfigRecord({"x": 1.0})),
        content(more=MetricRecord({"x": 1.0})),
    ],
)
def test_the_task_hash_covers_every_record_and_type(other: RecordDict) -> None:
    assert ft.task_bytes(content(), "train", PLAIN) != ft.task_bytes(other, "train", PLAIN)


def test_the_task_hash_is_the_same_for_the_same() -> None:
    ours = ft.task_bytes(content(), "train", PLAIN)
    turned = RecordDict(dict(reversed(list(content().items()))))
    turned["config"] = ConfigRecord({"names": ["a", "b"], "steps": 1, "lr": 0.1})
    assert ft.task_bytes(turned, "train", PLAIN) == ours
    assert ft.task_bytes(content(), "evaluate", PLAIN) != ours
    assert ft.task_bytes(content(), "train", ft.Terms(**{**vars(PLAIN), "clip": 2.5})) != ours


def npy(header: dict[str, Any], data: bytes) -> Array:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)  # type: ignore[arg-type]
    return Array("float32", (2,), "numpy.ndarray", file.getvalue() + data)


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (
            npy({"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)}, bytes(8)),
            "are no float32 of shape",
        ),
        (npy({"descr": "<f4", "fortran_order": False, "shape": (2,)}, bytes(9)), "are no float32 of shape"),
        (npy({"descr": "|O", "fortran_order": False, "shape": (1,)}, bytes(8)), "are no object"),
        (Array("float32", (2,), "numpy.ndarray", b"\x93NUMPY\x01"), "cannot be read"),
        (Array("float32", (2,), "numpy.ndarray", b"\x93NUMPY\x09\x00" + bytes(90)), "format is unknown"),
        (Array("float32", (2,), "torch", bytes(8)), "it is a torch"),
        (Array(np.zeros(2, np.complex64)), "complex64, and only float arrays"),
        (Array(np.zeros(2, bool)), "is bool, and only float arrays"),
        (Array(np.zeros(2, np.longdouble)), "only float arrays"),
        (Array(np.zeros(0, np.float32)), "no number in them"),
    ],
)
def test_bytes_that_are_no_float_array_are_refused(array: Array, why: str) -> None:
    with pytest.raises(VehicleError, match=why):
        ft.opened(ArrayRecord({"a": array}))


def test_arrays_are_read_as_they_are() -> None:
    wanted = {
        "f": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
        "s": np.asarray(2, np.float16),
    }
    found = ft.opened(record(**wanted))
    for name, one in wanted.items():
        np.testing.assert_array_equal(found[name], one)
        assert found[name].dtype == one.dtype


@settings(max_examples=50)
@given(st.integers(0, 1 << 32), st.floats(0.01, 100.0))
def test_the_difference_keeps_its_bound_and_its_direction(seed: int, clip: float) -> None:
    rng = np.random.default_rng(seed)
    sent = {"a": rng.standard_normal((3, 2)), "b": rng.standard_normal(5).astype(np.float32)}
    trained = {name: one + rng.standard_normal(one.shape) for name, one in reversed(sent.items())}
    found = ft.difference(sent, trained, clip)
    plain = np.concatenate([(trained[name] - sent[name]).reshape(-1) for name in ("a", "b")])
    assert found.dtype == np.float32
    assert np.linalg.norm(found.astype(float)) <= clip * (1 + 1e-6)
    scale = min(1.0, clip / np.linalg.norm(plain))
    np.testing.assert_allclose(found, plain * scale, rtol=1e-4, atol=1e-6)


def test_the_arrays_move_by_the_mean() -> None:
    sent = {"a": np.ones((2, 2), np.float16), "b": np.zeros((), np.float64)}
    found = ft.moved(sent, np.array([1, 2, 3, 4, 0.5], np.float32))
    np.testing.assert_array_equal(found["a"].numpy(), [[2, 3], [4, 5]])
    assert found["a"].numpy().dtype == np.float16
    assert found["b"].numpy() == 0.5
    assert found["b"].numpy().shape == ()


@pytest.mark.parametrize("value", [float("inf"), float("nan"), [1.0]])
def test_a_metric_is_one_finite_number(value: Any) -> None:
    assert ft.number(MetricRecord({"x": 3}), "x") == 3.0
    with pytest.raises(VehicleError, match="the metric 'x' is"):
        ft.number(MetricRecord({"x": value}), "x")
    with pytest.raises(VehicleError, match="the metric 'y' is missing"):
        ft.number(MetricRecord({"x": value}), "y")
