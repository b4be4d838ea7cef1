"""A shard is in memory whole, so large rows make it short."""

from __future__ import annotations

from dataclasses import replace

from dinodeploy.bundle.manifest import OutputFacts
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.pipeline.shard_size import MAX_BYTES, default_shard_size
from tests.support.fake_engine import HALF

OUTPUTS = [
    OutputFacts("cls", ("batch", 384)),
    OutputFacts("storage", ("batch", 4, 384)),
    OutputFacts("patch", ("batch", "rows", "columns", 384)),
]
STEPS = Preprocess("official", 256, 256, HALF, HALF)


def test_small_rows_make_full_shards() -> None:
    for names in (["cls"], ["cls", "mean_patch"], ["cls", "storage", "pooled"]):
        assert default_shard_size(OUTPUTS, names, STEPS) == 10_000


def test_patch_maps_make_short_ones() -> None:
    row = 4 * 256 * 384
    assert default_shard_size(OUTPUTS, ["patch"], STEPS) == MAX_BYTES // row == 341
    assert default_shard_size(OUTPUTS, ["patch"], replace(STEPS, height=512)) == 170
    keep = Preprocess("keep-aspect", 256, 256, HALF, HALF)
    assert default_shard_size(OUTPUTS, ["patch"], keep) == 170
    assert default_shard_size(OUTPUTS, ["patch"], replace(keep, max_patches=256)) == 341
    assert default_shard_size(OUTPUTS, ["patch"], replace(STEPS, height=16 * 1024, width=16 * 1024)) == 1
