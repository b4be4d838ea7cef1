"""Predictions in the pixels of the original image, and bundles that predict nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinodeploy import Embedder
from dinodeploy.errors import MisuseError
from dinodeploy.tasks.predict import Predicted, Unread, head_of, predict
from dinodeploy.tasks.prediction import PredictOptions
from tests.support.images.labelled_images import write_digits


def test_a_bundle_without_a_head_is_refused(tiny_bundle: Path) -> None:
    with (
        Embedder.open(tiny_bundle) as embedder,
        pytest.raises(MisuseError, match="has no head; train one: dinodeploy train-head --engine"),
    ):
        head_of(embedder)


@pytest.mark.slow
def test_every_image_gets_a_prediction_or_a_reason(four_maps_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from dinov3_ref.heads import LinearClassifier, LinearDepth, LinearSegmenter
    from exporters.heads import add_head

    digits = write_digits(tmp_path / "digits", each=1, kinds=2)
    wide = tmp_path / "wide.png"
    Image.new("RGB", (90, 60), "grey").save(wide)
    (tmp_path / "broken.png").write_bytes(b"x")
    ids = [str(wide), str(tmp_path / "broken.png"), *sorted(map(str, digits.rglob("*.png")))]
    heads = {
        "classify": LinearClassifier(128, 3),
        "segment": LinearSegmenter(128, 3),
        "depth": LinearDepth(128, 8, min_depth=1.0, max_depth=9.0),
    }
    for task, head in heads.items():
        add_head(four_maps_bundle, head, tmp_path / task)
        with Embedder.open(tmp_path / task) as embedder:
            found = list(predict(embedder, ids, embedder.preprocess, PredictOptions(top=2)))
        assert [item.id for item in found if isinstance(item, Unread)] == [ids[1]]
        first, *others = (item for item in found if isinstance(item, Predicted))
        assert [first.id, *(item.id for item in others)] == [ids[0], *ids[2:]]
        if task == "classify":
            assert first.prediction.map is None
            assert [len(item.prediction.facts["classes"]) for item in (first, *others)] == [2, 2, 2]
            assert {entry["class"] for entry in first.prediction.facts["classes"]} <= {"0", "1", "2"}
            continue
        assert first.prediction.map is not None
        assert first.prediction.map.shape == (60, 90)
        if task == "segment":
            assert sum(first.prediction.facts["shares"].values()) == pytest.approx(1)
            assert set(np.unique(first.prediction.map)) <= {0, 1, 2, 255}
        else:
            assert (
                1
                <= first.prediction.facts["metres"]["nearest"]
                <= first.prediction.facts["metres"]["farthest"]
                <= 9
            )
