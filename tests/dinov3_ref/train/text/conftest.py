from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tokenizers")


@pytest.fixture(scope="session")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set of captioned images."""
    from dinov3_ref.data.toy.captions import write_captions

    root = tmp_path_factory.mktemp("captions") / "set"
    write_captions(root, images=800, test=100, side=32)
    return root
