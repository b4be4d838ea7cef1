"""What tests of whole runs share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.image_files import write_folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photographs to train on."""
    return write_folder(tmp_path_factory.mktemp("photos"))
