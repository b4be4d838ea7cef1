"""Train a linear classifier of pictures.

Shapes: N pictures, F features (D or 2D), K classes.
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
from dinodeploy.heads.labelled import Classified, read_classified
from dinodeploy.heads.split import split_by_class
from dinodeploy.heads.trained import Say, Trained, TrainOptions, head_file, how


def train_classifier(
    embedder: Embedder, data: Path, options: TrainOptions, test: Path | None, say: Say, advance: Advance
) -> Trained:
    """See `train.train_head`."""
    pictures = read_classified(data)
    tests = read_classified(test, pictures.classes) if test is not None else None
    x, labels, found = _pooled(embedder, pictures, options, say, advance)
    classes, quarantined = len(pictures.classes), found.quarantined
    split = split_by_class(labels, pictures.classes, options.seed, test=tests is None)
    fitted = fit_head(
        _rows(x[split.train], labels[split.train], classes),
        _rows(x[split.validation], labels[split.validation], classes),
        options.balance,
        say,
    )
    test_x, test_labels = x[split.test], labels[split.test]
    if tests is not None:
        test_x, test_labels, more = _pooled(embedder, tests, options, say, advance)
        quarantined = (*quarantined, *more.quarantined)
    counts = scores.confusion(test_labels, fitted.linear.logits(test_x).argmax(axis=1), classes)
    report = {
        "task": "classify",
        "classes": list(pictures.classes),
        "pictures": {
            "train": len(split.train),
            "validation": len(split.validation),
            "test": len(test_labels),
        },
        "accuracy": scores.accuracy(counts),
        "balanced_accuracy": scores.balanced_accuracy(counts),
        "chance": scores.chance(counts),
        "confusion": counts.tolist(),
        **how(fitted, found),
    }
    config = {
        "embed_dim": embedder.manifest.model.embed_dim,
        "num_classes": classes,
        "pooling": options.pooling,
    }
    tensors = {"linear.weight": fitted.linear.weight.T, "linear.bias": fitted.linear.bias}
    return Trained(
        head_file("linear_classifier", config, tensors, pictures.classes, embedder, report),
        report,
        quarantined,
    )


def _pooled(
    embedder: Embedder, pictures: Classified, options: TrainOptions, say: Say, advance: Advance
) -> tuple[FloatArray, IndexArray, Features]:
    """(x [N,F], labels [N], what was found) of the pictures that can be read."""
    say(f"features of {len(pictures.ids)} pictures")
    found = engine_features(embedder, pictures.ids, maps=False, cache=options.cache, advance=advance)
    if not found.values:
        raise MisuseError(f"none of {len(pictures.ids)} pictures can be read: {found.quarantined[0][1]}")
    x = np.stack(found.values)
    width = embedder.manifest.model.embed_dim
    return x if options.pooling == "cls_mean" else x[:, :width], pictures.labels[found.rows], found


def _rows(x: FloatArray, labels: IndexArray, classes: int) -> Rows:
    return Rows(x, one_hot(labels, classes), np.ones(len(x), np.float32))
