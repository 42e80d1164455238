"""Augmentation of camera frames, seeded by the vehicle: the same seed gives the same pictures."""

from __future__ import annotations

from typing import Literal

import numpy as np

from carpool.client.camera.samples import Frames

Augmentation = Literal["none", "light", "sign"]


def augment(frames: Frames, kind: Augmentation, rng: np.random.Generator) -> Frames:
    """New frames uint8 [b, views, h, w, 3], or `frames` itself for "none".

    "light": brightness and contrast (a value or flag target stays right). "sign": light, and a shift of up to
    a sixteenth of the picture (for classes only: a shift would change a lane offset). Never a mirror
    image: that would turn keep-right into keep-left.
    """
    if kind == "none":
        return frames
    gain = rng.uniform(0.7, 1.3, (len(frames), 1, 1, 1, 1)).astype(np.float32)
    shift = rng.uniform(-25, 25, (len(frames), 1, 1, 1, 1)).astype(np.float32)
    if kind == "sign":
        frames = shifted(frames, rng)
    return np.clip((frames - np.float32(127.5)) * gain + (shift + np.float32(127.5)), 0, 255).astype(np.uint8)


def shifted(frames: Frames, rng: np.random.Generator) -> Frames:
    """Each sample moved by up to a sixteenth of its size in both directions, the border repeated."""
    height, width = frames.shape[2:4]
    reach_y, reach_x = max(1, height // 16), max(1, width // 16)
    dy = rng.integers(-reach_y, reach_y + 1, (len(frames), 1))
    dx = rng.integers(-reach_x, reach_x + 1, (len(frames), 1))
    rows = np.clip(np.arange(height) + dy, 0, height - 1)
    columns = np.clip(np.arange(width) + dx, 0, width - 1)
    samples = np.arange(len(frames))[:, None, None]
    return np.moveaxis(np.moveaxis(frames, 1, 3)[samples, rows[:, :, None], columns[:, None, :]], 3, 1)
