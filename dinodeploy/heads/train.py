"""Train a linear head on engine features: classes of images, or of every patch.

The engine sees every image once (`features.py`); fitting runs on the CPU in seconds to minutes. The same
images, engine and seed give the same head.
"""

from __future__ import annotations

from pathlib import Path

from dinodeploy.embedder import Embedder
from dinodeploy.errors import MisuseError
from dinodeploy.heads.classify import train_classifier
from dinodeploy.heads.features import Advance
from dinodeploy.heads.segment import train_segmenter
from dinodeploy.heads.softmax import require_scipy
from dinodeploy.heads.trained import Log, Trained, TrainOptions


def train_head(
    embedder: Embedder,
    data: Path,
    options: TrainOptions,
    *,
    test: Path | None = None,
    log: Log = lambda _: None,
    advance: Advance = lambda done, failed: None,
) -> Trained:
    """Train on the images in `data` and score the head on a held-out part, or on the images in `test`.

    Raises MisuseError for folders that do not have the layout of `labelled.py` or hold too few images,
    UnavailableError where scipy is missing.
    """
    require_scipy()
    if options.task == "classify":
        return train_classifier(embedder, data, options, test, log, advance)
    if test is not None:
        raise MisuseError("--test is for --task classify; a segmenter holds out images of --data")
    return train_segmenter(embedder, data, options, log, advance)
