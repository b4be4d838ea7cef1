"""Zero-shot classification: cosines of image and label embeddings, and the probabilities they give.

    class vector     every template's embedding to length 1, their mean, to length 1 again
    probabilities    softmax(logit_scale · cosine) over the labels

Source: docs/spec.md 5.8, 5.9; Radford et al. 2021 (arXiv:2103.00020), section 3.1.4.

Shapes: T texts, K labels, N images, E embedding size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dinodeploy.arrays import AnyArray
from dinodeploy.errors import MisuseError

Wide = NDArray[np.float64]


def unit_rows(rows: AnyArray, what: str = "embedding") -> Wide:
    """[..., E] -> float64, each row of length 1. Raises MisuseError for a row of zeros or not finite."""
    wide = np.asarray(rows, np.float64)
    lengths = np.sqrt((wide * wide).sum(axis=-1, keepdims=True))
    if not np.isfinite(lengths).all() or not lengths.all():
        raise MisuseError(f"an {what} is zero or not finite; check the bundle: dinodeploy check BUNDLE")
    return np.asarray(wide / lengths)


def class_vector(texts: AnyArray) -> Wide:
    """Embeddings [T,E] of one label in T templates -> its unit vector [E]."""
    return np.asarray(unit_rows(unit_rows(texts, "text embedding").mean(axis=0)))


def probabilities(images: AnyArray, classes: AnyArray, logit_scale: float) -> tuple[Wide, Wide]:
    """Images [N,E] and class vectors [K,E] -> (probabilities [N,K], cosines [N,K]), row by row.

    logit_scale: the factor of the cosines, not its logarithm.
    """
    cosines = unit_rows(images, "image embedding") @ unit_rows(classes, "text embedding").T
    return softmax(logit_scale * cosines), cosines


def softmax(logits: Wide) -> Wide:
    """Softmax over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))
