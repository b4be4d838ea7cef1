"""What tests of tables share: the pixels of every row."""

from __future__ import annotations

import numpy as np
import pytest

from dinodeploy.images.open import open_image
from tests.dinodeploy.sources.reading import Pixels


@pytest.fixture(scope="session")
def wanted() -> list[Pixels]:
    """Pixels of every row of `image_tables.table`."""
    from tests.support.images.image_tables import IMAGES  # skips where there is no pyarrow

    return [np.asarray(open_image(data)) for data in IMAGES]
