"""The map of the image with the largest error: the patches that are off are found."""

from __future__ import annotations

import numpy as np
import pytest

from dinodeploy.parity.judge import Measurement, Verdict
from dinodeploy.parity.reports import Report
from dinodeploy.parity.reports.evidence import worst_patches


def test_the_map_shows_where_patches_are_off(passing: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two patches of the second photograph of one case are moved; they are found."""
    from dinodeploy.backends.onnxruntime import OnnxRuntimeBackend

    original = OnnxRuntimeBackend.run

    def spoilt(self: OnnxRuntimeBackend, pixels: np.ndarray) -> dict[str, np.ndarray]:
        outputs = original(self, pixels)
        if pixels.shape[2:] == (256, 144):
            outputs["patch"][1, 3, 2] *= -1
            outputs["patch"][1, 9, 7] = np.nan
        return outputs

    monkeypatch.setattr(OnnxRuntimeBackend, "run", spoilt)
    tall = Measurement("tall", "patch", "relative_frobenius", 0.5, 1e-5, False)
    wide = Measurement("wide", "patch", "relative_frobenius", 0.1, 1e-5, False)
    found = worst_patches(passing.engine, Verdict("fp32", (wide, tall)))
    assert found is not None
    assert (found.case, found.errors.shape, found.image.shape) == ("tall", (16, 9), (256, 144, 3))
    assert found.errors[3, 2] == pytest.approx(2.0)
    assert np.isnan(found.errors[9, 7])
    assert np.sort(found.errors[np.isfinite(found.errors)])[-2] < 1e-5


def test_the_photograph_is_what_the_model_was_shown(passing: Report) -> None:
    from dinodeploy.parity.golden import load_golden

    found = worst_patches(passing.engine, passing.verdict)
    assert found is not None
    case = next(c for c in load_golden(passing.bundle.root / "golden.safetensors") if c.name == found.case)
    means = [image.reshape(-1, 3).mean(axis=0) for image in case.images]
    shown = found.image.reshape(-1, 3).mean(axis=0)
    assert min(np.abs(mean - shown).max() for mean in means) < 2, "grey levels"
