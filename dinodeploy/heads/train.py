"""Train a linear head on what an engine puts out: classes of pictures, or of every patch.

The engine sees every picture once (`features.py`); fitting is numpy's and takes seconds to minutes. The same
pictures, engine and seed give the same head.
"""

from __future__ import annotations

from pathlib import Path

from dinodeploy.embedder import Embedder
from dinodeploy.errors import MisuseError
from dinodeploy.heads.classify import train_classifier
from dinodeploy.heads.features import Advance
from dinodeploy.heads.segment import train_segmenter
from dinodeploy.heads.softmax import require_scipy
from dinodeploy.heads.trained import Say, Trained, TrainOptions


def train_head(
    embedder: Embedder,
    data: Path,
    options: TrainOptions,
    *,
    test: Path | None = None,
    say: Say = lambda _: None,
    advance: Advance = lambda done, failed: None,
) -> Trained:
    """Train on the pictures in `data`; judged on a part of them that is held out, or on those in `test`.

    Raises MisuseError for folders that are not laid out as `labelled.py` says, or hold too little,
    UnavailableError where scipy is missing.
    """
    require_scipy()
    if options.task == "classify":
        return train_classifier(embedder, data, options, test, say, advance)
    if test is not None:
        raise MisuseError("--test is for --task classify; a segmenter holds pictures of --data out")
    return train_segmenter(embedder, data, options, say, advance)
