"""Zero-shot probabilities against torch in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dinodeploy.errors import MisuseError
from dinodeploy.text.classify import class_vector, probabilities

RNG = np.random.default_rng(0)


def test_class_vectors_and_probabilities_are_those_of_the_published_code() -> None:
    texts = RNG.normal(2, 1, (7, 80, 32)).astype(np.float32) * RNG.uniform(0.1, 50, (7, 80, 1))
    images = RNG.normal(2, 1, (5, 32)).astype(np.float32)
    classes = np.stack([class_vector(of_one) for of_one in texts])
    wanted = F.normalize(F.normalize(torch.from_numpy(texts).double(), dim=-1).mean(dim=1), dim=-1)
    np.testing.assert_allclose(classes, wanted.numpy(), rtol=1e-12)
    shares, cosines = probabilities(images, classes, 37.5)
    wanted_cosines = F.normalize(torch.from_numpy(images).double(), dim=-1) @ wanted.T
    np.testing.assert_allclose(cosines, wanted_cosines.numpy(), rtol=1e-12)
    np.testing.assert_allclose(shares, (37.5 * wanted_cosines).softmax(dim=-1).numpy(), rtol=1e-10)


def test_the_largest_scale_does_not_overflow() -> None:
    shares, _ = probabilities(np.eye(3, 8), np.concatenate([np.eye(3, 8), -np.eye(3, 8)]), 1e4)
    assert np.isfinite(shares).all()
    np.testing.assert_allclose(shares[:, :3], np.eye(3))


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_an_embedding_without_a_direction_is_refused(value: float) -> None:
    with pytest.raises(MisuseError, match="an image embedding is zero or not finite; check the bundle"):
        probabilities(np.full((1, 4), value), np.eye(2, 4), 1.0)
