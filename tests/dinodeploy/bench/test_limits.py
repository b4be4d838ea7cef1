"""The work of a model by hand, and the product that measures the peak."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from dinodeploy.bench.limits import convnext_flop, model_flop, product_model
from dinodeploy.bundle.bundle import GOLDEN_FILE, Bundle, open_bundle
from dinodeploy.parity.golden import load_golden
from dinov3_ref.checkpoints import random_checkpoint
from tests.support.tiny_models import export_passing, tiny_convnext


def work_of(bundle: Bundle, height: int, width: int) -> float:
    flop = model_flop(bundle.manifest, load_golden(bundle.root / GOLDEN_FILE), height, width)
    assert flop is not None
    return flop


def test_the_product_is_an_onnx_model() -> None:
    onnx.checker.check_model(onnx.load_from_string(product_model()), full_check=True)
    a, b = np.random.default_rng(0).standard_normal((2, 8, 8), dtype=np.float32)
    (c,) = onnxruntime.InferenceSession(product_model()).run(None, {"a": a, "b": b})
    np.testing.assert_allclose(c, a @ b, rtol=1e-5)


def test_the_work_of_a_tiny_model(tiny_bundle: Path) -> None:
    """Three blocks of width 128: q, k, v, out 4D² and an FFN of ratio 4 8D²; patches 768 x D."""
    L, D = 1 + 4 + 6 * 4, 128
    wanted = 2 * (3 * 12 * D**2 * L + 768 * D * (L - 5)) + 4 * 3 * L**2 * D
    found = work_of(open_bundle(tiny_bundle), 96, 64)
    # the file also has norms, biases and a graph: much in a model this small, a percent in ViT-S
    assert 1.0 < found / wanted < 1.12


@pytest.mark.parametrize(
    ("depths", "widths", "published"),
    [((3, 3, 9, 3), (96, 192, 384, 768), 4.5), ((3, 3, 27, 3), (192, 384, 768, 1536), 34.4)],
    ids=["tiny", "large"],
)
def test_the_work_of_a_convnext(depths: tuple[int, ...], widths: tuple[int, ...], published: float) -> None:
    """Billions of multiply-adds at 224², Liu et al. (arXiv:2201.03545), table 9."""
    found = convnext_flop(list(zip(widths, depths, strict=True)), 224 * 224)
    assert round(found / 2e9, 1) == published


def test_a_bundle_tells_a_convnexts_stages(tmp_path: Path) -> None:
    config = tiny_convnext()
    bundle = export_passing(random_checkpoint(config), tmp_path / "bundle")
    wanted = convnext_flop(list(zip(config.dims, config.depths, strict=True)), 64 * 96)
    assert work_of(bundle, 64, 96) == wanted
