"""Curves as a picture: where the line runs, and what has none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from dinov3_ref.train.logging.curve_picture import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, draw_curves

BLUE = (9, 105, 218)


def test_a_panel_a_curve_from_corner_to_corner(tmp_path: Path) -> None:
    metrics = [{"iteration": n, "total_loss": 5.0 - n, "lr": 0.1, "dino_loss": 1.0} for n in range(4)]
    evaluations = [{"iteration": 3, "knn_10_top1": 50.0, "knn_10_top5": 60.0}]
    draw_curves(metrics, evaluations, tmp_path / "curves.png")
    pixels = np.asarray(Image.open(tmp_path / "curves.png"))
    assert pixels.shape == (2 * HEIGHT, 2 * WIDTH, 3)  # three panels: two losses, one accuracy
    blue = (pixels == BLUE).all(-1)
    falling = blue[:HEIGHT, :WIDTH]
    assert falling[TOP, LEFT]
    assert falling[HEIGHT - BOTTOM, WIDTH - RIGHT]
    assert not falling[HEIGHT - BOTTOM - 10, LEFT : LEFT + 10].any()
    assert blue[HEIGHT:, :WIDTH].any()  # a single point is a dot
    assert not blue[HEIGHT:, WIDTH:].any()


def test_nothing_yet(tmp_path: Path) -> None:
    draw_curves([], [], tmp_path / "curves.png")
    assert not list(tmp_path.iterdir())
