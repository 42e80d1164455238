"""Augmentation: the seed fixes the pictures, labels stay right, a picture is never mirrored."""

from __future__ import annotations

import numpy as np
import pytest

from carpool.client.augment import augment, shifted


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def frames(n: int = 6, views: int = 2, height: int = 16, width: int = 24) -> np.ndarray:
    return rng(9).integers(0, 256, (n, views, height, width, 3), dtype=np.uint8)


def test_none_is_the_very_same_array_and_draws_nothing():
    pictures, generator = frames(), rng()
    assert augment(pictures, "none", generator) is pictures
    assert generator.random() == rng().random()


@pytest.mark.parametrize("kind", ["light", "sign"])
def test_the_seed_fixes_the_pictures_and_the_input_is_not_changed(kind):
    pictures = frames()
    a, b, c = (augment(pictures, kind, rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
    np.testing.assert_array_equal(pictures, frames())
    assert a.dtype == np.uint8
    assert a.shape == pictures.shape


def test_light_is_one_monotone_curve_a_sample_the_same_for_every_view_and_colour():
    pictures = frames()
    out = augment(pictures, "light", rng()).astype(int)
    for before, after in zip(pictures, out, strict=True):
        curve = {}
        for value, new in zip(before.reshape(-1), after.reshape(-1), strict=True):
            assert curve.setdefault(value, new) == new
        values = [curve[v] for v in sorted(curve)]
        assert values == sorted(values)
    assert len({tuple(sample.reshape(-1)) for sample in out}) == len(out)


def test_light_stays_within_its_bounds_and_never_wraps_around():
    grey = np.full((500, 1, 2, 2, 3), 127, np.uint8)
    out = augment(grey, "light", rng())[:, 0, 0, 0, 0].astype(int)
    assert 127 - 27 <= out.min() < 110
    assert 145 < out.max() <= 127 + 27
    ends = np.zeros((500, 1, 2, 2, 3), np.uint8)
    ends[:, :, 0] = 255
    out = augment(ends, "light", rng()).astype(int)
    assert out[:, :, 1].max() < 100
    assert out[:, :, 0].min() > 155


def test_a_shift_moves_every_view_of_a_sample_alike_by_at_most_a_sixteenth_and_repeats_the_border():
    height, width = 32, 48
    ramp = np.zeros((300, 2, height, width, 3), np.uint8)
    ramp[..., 0] = np.arange(height)[:, None]
    ramp[..., 1] = np.arange(width)[None, :]
    out = shifted(ramp, rng()).astype(int)
    seen = set()
    for sample in out:
        assert (sample[0] == sample[1]).all()
        dy, dx = sample[0, 16, 24, 0] - 16, sample[0, 16, 24, 1] - 24
        assert (sample[0, :, :, 0] == np.clip(np.arange(height) + dy, 0, height - 1)[:, None]).all()
        assert (sample[0, :, :, 1] == np.clip(np.arange(width) + dx, 0, width - 1)[None, :]).all()
        seen.add((dy, dx))
    assert {dy for dy, _ in seen} == set(range(-2, 3))
    assert {dx for _, dx in seen} == set(range(-3, 4))


def test_a_tiny_picture_is_shifted_by_at_most_one_pixel():
    pictures = frames(50, 1, 4, 4)
    assert shifted(pictures, rng()).shape == pictures.shape


def test_sign_shifts_and_light_does_not():
    """A shift would change a lane offset, so only "sign" may move a picture."""
    step = np.zeros((80, 1, 32, 32, 3), np.uint8)
    step[:, :, :, 16:] = 200

    def edges(pictures):
        return {int(np.abs(np.diff(p[0, 8, :, 0].astype(int))).argmax()) for p in pictures}

    assert edges(augment(step, "light", rng())) == {15}
    assert edges(augment(step, "sign", rng())) == {13, 14, 15, 16, 17}
