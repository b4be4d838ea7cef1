"""Train a linear classifier of images.

Shapes: N images, F features (D or 2D), K classes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dinodeploy.arrays import FloatArray, IndexArray
from dinodeploy.embedder import Embedder
from dinodeploy.errors import MisuseError
from dinodeploy.heads import scores
from dinodeploy.heads.features import Advance, Features, engine_features
from dinodeploy.heads.fit import Rows, fit_head, one_hot
from dinodeploy.heads.labelled import Classified, read_classified, split_by_class
from dinodeploy.heads.trained import Log, Trained, TrainOptions, head_file, report_of


def train_classifier(
    embedder: Embedder, data: Path, options: TrainOptions, test: Path | None, log: Log, advance: Advance
) -> Trained:
    """See `train.train_head`."""
    images = read_classified(data)
    tests = read_classified(test, images.classes) if test is not None else None
    x, labels, found = _features(embedder, images, options, log, advance)
    classes, quarantined = len(images.classes), found.quarantined
    split = split_by_class(labels, images.classes, options.seed, test=tests is None)
    fitted = fit_head(
        _rows(x[split.train], labels[split.train], classes),
        _rows(x[split.validation], labels[split.validation], classes),
        options.balance,
        log,
    )
    test_x, test_labels = x[split.test], labels[split.test]
    if tests is not None:
        test_x, test_labels, more = _features(embedder, tests, options, log, advance)
        quarantined = (*quarantined, *more.quarantined)
    counts = scores.confusion(test_labels, fitted.linear.logits(test_x).argmax(axis=1), classes)
    summary = scores.summary(counts)
    report = report_of("classify", images.classes, split, len(test_labels), summary, fitted, found)
    config = {
        "embed_dim": embedder.manifest.model.embed_dim,
        "num_classes": classes,
        "pooling": options.pooling,
    }
    tensors = {"linear.weight": fitted.linear.weight.T, "linear.bias": fitted.linear.bias}
    return Trained(head_file("linear_classifier", config, tensors, embedder, report), report, quarantined)


def _features(
    embedder: Embedder, images: Classified, options: TrainOptions, log: Log, advance: Advance
) -> tuple[FloatArray, IndexArray, Features]:
    """(x [N,F], labels [N], features) of the readable images."""
    log(f"features of {len(images.ids)} images")
    found = engine_features(embedder, images.ids, maps=False, cache=options.cache, advance=advance)
    if not found.values:
        raise MisuseError(f"none of {len(images.ids)} images can be read: {found.quarantined[0][1]}")
    x = np.stack(found.values)
    width = embedder.manifest.model.embed_dim
    return x if options.pooling == "cls_mean" else x[:, :width], images.labels[found.rows], found


def _rows(x: FloatArray, labels: IndexArray, classes: int) -> Rows:
    return Rows(x, one_hot(labels, classes), np.ones(len(x), np.float32))
