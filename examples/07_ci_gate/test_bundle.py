"""A test for a project that ships a bundle. Copy to tests/; BUNDLE is the path of the bundle.

BUNDLE=bundle pytest test_bundle.py
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from dinodeploy import Embedder
from dinodeploy.testing import assert_parity

BUNDLE = Path(os.environ.get("BUNDLE", "bundle"))


@pytest.fixture(scope="module", autouse=True)
def judged() -> None:
    """The other tests are meaningful only if the engine is the model on this machine."""
    assert_parity(BUNDLE)


def test_an_embedding_does_not_depend_on_its_batch() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 240, 320, 3), dtype=np.uint8)
    with Embedder.open(BUNDLE) as embedder:
        together = embedder.encode(images)
        alone = np.stack([embedder.encode(image) for image in images])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4 * np.abs(alone).max())
