"""Textures drawn by formula: seeded, distinct, in random colours."""

from __future__ import annotations

import numpy as np
import pytest

from dinov3_ref.data.toy.textures import SEEN, UNSEEN, draw_texture, paint, smooth_noise

ALL = SEEN | UNSEEN


@pytest.mark.parametrize("kind", ALL)
def test_textures_are_seeded_and_differ(kind: str) -> None:
    first, again, other = (draw_texture(ALL[kind], 48, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (first.dtype, first.shape) == (np.uint8, (48, 48, 3))
    assert (first == again).all()
    assert (first != other).mean() > 0.5
    assert first.std() > 10  # not a plain colour


def test_training_and_evaluation_kinds_are_disjoint() -> None:
    assert not set(SEEN) & set(UNSEEN)
    assert len(set(ALL.values())) == len(ALL)


def test_paint_by_hand() -> None:
    """A map of two values becomes two colours that differ by at least 0.35 (modulo 1) in every channel."""
    height = np.zeros((64, 64))
    height[:, 32:] = 5.0
    for seed in range(5):
        pixels = paint(height, np.random.default_rng(seed)).astype(float)
        left, right = pixels[:, :32].mean((0, 1)), pixels[:, 32:].mean((0, 1))
        apart = np.abs(left - right) / 255
        assert (apart > 0.33).all()
        assert (apart < 0.67).all()


def test_a_flat_map_is_one_colour() -> None:
    assert paint(np.ones((8, 8)), np.random.default_rng(0)).std((0, 1)).max() < 12


def test_smooth_noise_is_smooth() -> None:
    noise = smooth_noise(64, 4, np.random.default_rng(0))
    assert noise.shape == (64, 64)
    assert np.abs(np.diff(noise, axis=0)).max() < 0.15
