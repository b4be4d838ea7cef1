"""Engine features: computed once, cached, and independent of the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dinodeploy import Embedder
from dinodeploy.errors import MisuseError
from dinodeploy.heads.features import engine_features
from dinodeploy.pipeline.pooling import pooled
from tests.support.images.labelled_images import write_digits


@pytest.fixture(scope="module")
def embedder(four_maps_bundle: Path):
    with Embedder.open(four_maps_bundle) as opened:
        yield opened


def test_features_are_computed_once(embedder: Embedder, tmp_path: Path) -> None:
    digits = write_digits(tmp_path / "digits", each=3, kinds=1)
    ids = [str(digits / "digit_0" / f"{i:03d}.png") for i in range(3)] + [str(tmp_path / "broken.png")]
    (tmp_path / "broken.png").write_bytes(b"x")
    first = engine_features(embedder, ids, maps=False, cache=tmp_path / "cache")
    assert not first.cached
    assert first.rows.tolist() == [0, 1, 2]
    assert first.quarantined[0][0].endswith("broken.png")
    second = engine_features(embedder, ids, maps=False, cache=tmp_path / "cache")
    assert second.cached
    assert second.quarantined == first.quarantined
    assert all((a == b).all() for a, b in zip(first.values, second.values, strict=True))
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert not engine_features(embedder, ids, maps=False, cache=tmp_path / "cache").cached
    (tmp_path / "broken.png").write_bytes(b"changed")
    assert not engine_features(embedder, ids, maps=False, cache=tmp_path / "cache").cached


def test_pooled_features_are_those_of_embed(embedder: Embedder, tmp_path: Path) -> None:
    digits = write_digits(tmp_path / "digits", each=2, kinds=2)
    ids = sorted(str(path) for path in digits.rglob("*.png"))
    found = engine_features(embedder, ids, maps=False, cache=None)
    assert (np.stack(found.values) == pooled(embedder.embed(ids))).all()


def test_patch_maps_that_exceed_memory_are_refused(embedder: Embedder) -> None:
    with pytest.raises(MisuseError, match=r"of 9000000 images take .* GiB; .*use at most \d+ images"):
        engine_features(embedder, ["a.jpg"] * 9_000_000, maps=True, cache=None)
