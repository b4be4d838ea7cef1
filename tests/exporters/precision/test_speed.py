"""The verdict on a recipe's speed."""

from __future__ import annotations

from exporters.precision.speed import WORTH, Speed, verdict


def test_ratio_by_hand() -> None:
    assert Speed(8, fp32=0.3, low_precision=0.1).ratio == 0.3 / 0.1


def test_the_best_batch_decides() -> None:
    slow, fast = Speed(1, fp32=0.1, low_precision=0.1), Speed(8, fp32=0.1 * WORTH, low_precision=0.1)
    assert verdict("int8", [slow]).endswith("not worth it on this machine: use --precision fp32")
    assert verdict("int8", [slow, fast]).endswith("(100 ms against 120): worth it")
