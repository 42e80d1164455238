from __future__ import annotations

import numpy as np
import pytest

from carpool.client.camera.montage import caption, montage, words
from carpool.client.camera.samples import Pool, Schema, Target
from carpool.privacy.errors import DataError

TARGETS = (
    Target("sign", "class", classes=("none", "stop")),
    Target("obstacle", "flags", width=2),
    Target("offset", "value", unit="m", scale=0.4),
)


def make_pool() -> Pool:
    frames = np.zeros((3, 2, 4, 6, 3), np.uint8)
    frames[1, 0] = (200, 10, 20)
    return Pool(
        schema=Schema(("front", "rear"), 4, 6, TARGETS),
        frames=frames,
        targets={
            "sign": np.array([0, 1, 0]),
            "obstacle": np.array([[0, 0], [1, 0], [1, 1]], np.uint8),
            "offset": np.array([0.0, -0.25, 1.0], np.float32),
        },
        group=np.zeros(3, np.int64),
        order=np.arange(3),
        vehicle=np.array([4, 4, 4]),
        domain={4: "city, EU"},
    )


def test_caption_names_vehicle_domain_and_targets() -> None:
    text = caption(make_pool(), 1)
    assert text == "vehicle 4 (city, EU) · sign stop · obstacle front · offset -0.25 m"


def test_flags_without_any() -> None:
    assert words(TARGETS[1], np.array([0, 0], np.uint8), ("front", "rear")) == "obstacle nowhere"


def test_each_view_is_pasted_enlarged_in_its_column() -> None:
    sheet = np.asarray(montage(make_pool(), np.array([1, 0]), scale=5, captions=["a", "b"]))
    red = (sheet == (200, 10, 20)).all(axis=-1)
    assert red.sum() == 4 * 6 * 25
    rows, columns = np.nonzero(red)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (20, 30)
    black = (sheet == 0).all(axis=-1)
    assert black.sum() == 3 * 4 * 6 * 25


def test_width_follows_views_and_height_the_rows() -> None:
    pool = make_pool()
    one = montage(pool, np.array([0]), scale=10, captions=["x"])
    two = montage(pool, [0, 1], scale=10, captions=["x", "y"])
    assert one.width == two.width
    assert two.height - one.height >= 40


def test_long_captions_are_folded_not_cut() -> None:
    pool = make_pool()
    short, long = (montage(pool, [0], scale=20, captions=[text]) for text in ("a", "many words " * 30))
    assert long.width == short.width
    assert long.height > short.height + 50


@pytest.mark.parametrize("rows", [[], [3], [-1]])
def test_rows_that_do_not_exist_are_refused(rows: list[int]) -> None:
    with pytest.raises(DataError, match="0 to 2"):
        montage(make_pool(), rows)


def test_captions_must_fit_the_rows() -> None:
    with pytest.raises(DataError, match="caption a row"):
        montage(make_pool(), [0, 1], captions=["only one"])
