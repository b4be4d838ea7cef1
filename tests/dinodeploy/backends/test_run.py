"""What `Embedder.run` takes and gives, on CPUs and with GPU arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dinodeploy import Embedder, MisuseError


def test_only_outputs_that_are_asked_for(tiny_bundle: Path) -> None:
    """By a call, by `open`, and not for the judge, who sees all of them."""
    x = np.zeros((1, 3, 32, 48), np.float32)
    with Embedder.open(tiny_bundle, device="onnxruntime") as embedder:
        whole = embedder.run(x)
        got = embedder.run(x, outputs=("layer_1", "cls"))
        assert list(got) == ["layer_1", "cls"]
        for name in got:
            np.testing.assert_array_equal(got[name], whole[name])
        with pytest.raises(MisuseError, match=r"'logits' does not fit; .* has cls, storage, patch"):
            embedder.run(x, outputs=("logits",))
    with Embedder.open(tiny_bundle, device="onnxruntime", outputs=("patch", "cls")) as embedder:
        assert embedder.output_names == tuple(embedder.run(x)) == ("cls", "patch")
        assert list(embedder.embed([np.zeros((40, 60, 3), np.uint8)])) == ["cls", "patch"]
        assert list(embedder.run(x, outputs=("layer_1",))) == ["layer_1"]
        assert {"layer_1", "storage"} <= {one.output for one in embedder.check().measurements}
