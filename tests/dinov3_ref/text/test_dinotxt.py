"""`DINOTxt` against plain numpy in float64 (`tests/support/text/numpy_dinotxt.py`)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dinov3_ref.text import DINOTxt, LoadedDinoTxt
from tests.support.text import numpy_dinotxt as reference
from tests.support.text.tiny_text import VOCAB_SIZE, tiny_dinotxt

LIMIT = 1e-6  # measured 3e-15: float64 on both sides, RoPE's table is fp32
SIZES = ((224, 224, 1), (256, 384, 5), (64, 48, 2))


@pytest.fixture(scope="module")
def loaded() -> LoadedDinoTxt:
    return tiny_dinotxt(text_layerscale=True)


@pytest.fixture(scope="module")
def model(loaded: LoadedDinoTxt) -> DINOTxt:
    return loaded.build(torch.float64)


@pytest.mark.parametrize(("height", "width", "batch"), SIZES)
def test_images_and_patches(
    loaded: LoadedDinoTxt, model: DINOTxt, height: int, width: int, batch: int
) -> None:
    pixels = np.random.default_rng(0).standard_normal((batch, 3, height, width))
    vit, head = reference.as_float64(loaded.backbone.state), reference.as_float64(loaded.state)
    wanted = reference.encode_image(pixels, vit, head, heads=2)
    with torch.inference_mode():
        got = model.encode_image_with_patch_tokens(torch.from_numpy(pixels))
        assert torch.equal(model.encode_image(torch.from_numpy(pixels)), got[0])
    for output, expected in zip(got, wanted, strict=True):
        assert reference.relative(output.reshape(expected.shape), expected) < LIMIT


def test_texts(loaded: LoadedDinoTxt, model: DINOTxt) -> None:
    ids = torch.randint(0, VOCAB_SIZE - 1, (6, 77), generator=torch.Generator().manual_seed(0))
    for row, end in enumerate((76, 1, 5, 40, 30, 2)):
        ids[row, end] = VOCAB_SIZE - 1
    ids[4, 10] = VOCAB_SIZE - 1  # two ends: the first counts
    wanted = reference.encode_text(ids.numpy(), reference.as_float64(loaded.state))
    with torch.inference_mode():
        got = model.encode_text(ids)
        assert reference.relative(got, wanted) < LIMIT
        assert (
            reference.relative(model.encode_text(ids[2:3, :6]), wanted[2:3]) < LIMIT
        )  # what is behind is idle
        unit = model.encode_text(ids, normalize=True)
    assert torch.allclose(unit, got / got.norm(dim=-1, keepdim=True))


def test_logits_are_scaled_cosines(loaded: LoadedDinoTxt, model: DINOTxt) -> None:
    pixels = torch.randn(3, 3, 32, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([[VOCAB_SIZE - 2, 5, VOCAB_SIZE - 1], [VOCAB_SIZE - 2, VOCAB_SIZE - 1, 0]])
    with torch.inference_mode():
        images, texts, scale, patches, backbone_patches = model(pixels, ids)
        logits, transposed = model.get_logits(pixels, ids)
    assert float(scale) == pytest.approx(np.exp(loaded.log_scale))
    assert torch.allclose(logits, scale * images @ texts.T)
    assert torch.equal(transposed, logits.T)
    assert patches.shape == backbone_patches.shape == (3, 6, 128)
    assert torch.allclose(images.norm(dim=-1), torch.ones(3, dtype=torch.float64))


def test_initial_weights_are_finite_and_not_constant() -> None:
    model = tiny_dinotxt(1).build()  # of its own: it shares the tensors
    torch.manual_seed(0)
    model.init_weights()
    assert float(model.logit_scale.detach().exp()) == pytest.approx(1 / 0.07)
    embedding = model.text_model.backbone.token_embedding.weight.detach()
    assert float(embedding.std()) == pytest.approx(0.02, rel=0.05)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
    with torch.inference_mode():
        assert float(model.encode_text(torch.tensor([[1, 2], [3, 4]])).std(dim=0).mean()) > 0
