"""What the exporter keeps for the judge: the model's own residual stream, and the presets' own pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dinodeploy.images.preprocess import Preprocess
from dinodeploy.parity.golden import GoldenCase
from dinov3_ref.checkpoints import build_model, random_checkpoint
from dinov3_ref.models import DinoVisionTransformer, get_architecture
from dinov3_ref.torchvision_shim import import_torchvision
from exporters.bundle.golden import (
    CASES,
    TRACED_PATCHES,
    load_photo,
    make_golden,
    reference_pixels,
    token_places,
)
from exporters.trace.trace import TokenOutputs
from tests.support.images.photographs import IMAGENET_MEAN, IMAGENET_STD
from tests.support.tiny_models import tiny_config

LARGEST_TRACE = 3 * 2**20  # bytes, of a ViT-L


@pytest.fixture(scope="module")
def model() -> DinoVisionTransformer:
    return build_model(random_checkpoint(tiny_config("swiglu")))


@pytest.fixture(scope="module")
def cases(model: DinoVisionTransformer) -> list[GoldenCase]:
    preprocess = Preprocess.from_preset("official", (64, 96), IMAGENET_MEAN, IMAGENET_STD)
    return make_golden(TokenOutputs(model), preprocess)


def test_one_case_has_a_trace(cases: list[GoldenCase]) -> None:
    assert [case.name for case in cases if case.traces] == ["wide"]


def test_the_trace_is_what_goes_through_the_blocks(
    cases: list[GoldenCase], model: DinoVisionTransformer
) -> None:
    (case,) = (case for case in cases if case.traces)
    (trace,) = case.traces
    seen: list[np.ndarray] = []

    def keep(block: torch.nn.Module, arguments: tuple[Any, ...], output: list[torch.Tensor]) -> None:
        if not seen:
            seen.append(arguments[0][0].numpy())
        seen.append(output[0].numpy())

    handles = [block.register_forward_hook(keep) for block in model.blocks]
    with torch.no_grad():
        model(torch.from_numpy(case.pixels))  # all photographs of the batch, of which the first is traced
    for handle in handles:
        handle.remove()
    assert trace.stream.shape == (4, 1, len(trace.tokens), 128)
    for ours, whole in zip(trace.stream, seen, strict=True):
        np.testing.assert_allclose(ours, whole[:1, trace.tokens], rtol=1e-5, atol=1e-5)


def test_keep_aspect_has_one_trace_too(model: DinoVisionTransformer) -> None:
    """There every photograph is a case of its own."""
    preprocess = Preprocess.from_preset("keep-aspect", (64, 64), IMAGENET_MEAN, IMAGENET_STD)
    cases = make_golden(TokenOutputs(model), preprocess)
    assert len(cases) > 3
    assert [case.name for case in cases if case.traces] == ["wide_rocket"]


@pytest.mark.parametrize(("h", "w"), [(7, 12), (16, 9), (16, 16), (4, 4), (2, 3), (1, 1)])
def test_places_are_spread_over_the_grid(h: int, w: int) -> None:
    places = token_places(5, h, w).tolist()
    assert places[:5] == list(range(5))
    patches = np.array(places[5:]) - 5
    assert len(set(places)) == len(places)
    assert len(patches) == min(TRACED_PATCHES, h * w)
    assert patches.max() < h * w
    rows, columns = set(patches // w), set(patches % w)
    assert len(rows) >= 0.6 * min(h, len(patches))
    assert len(columns) >= 0.6 * min(w, len(patches))


def test_the_trace_of_a_large_model_stays_small() -> None:
    config = get_architecture("vit_large")
    tokens = len(token_places(1 + config.n_storage_tokens, 7, 12))
    assert (config.depth + 1) * tokens * config.embed_dim * 4 < LARGEST_TRACE


PHOTOS = sorted({photo for _, photos, _ in CASES for photo in photos})
ROUNDING = 1e-6  # of normalised values: the same bytes, scaled by differently grouped float32 products


@pytest.mark.parametrize("size", [(256, 256), (192, 320), (320, 176)])
def test_official_is_torchvisions_v2(size: tuple[int, int]) -> None:
    import_torchvision()
    import torch
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize(size, antialias=True),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD),
        ]
    )
    for photo in PHOTOS:
        image = load_photo(photo)
        got = reference_pixels(image, Preprocess.from_preset("official", size, IMAGENET_MEAN, IMAGENET_STD))
        np.testing.assert_allclose(got, transform(image).numpy(), atol=ROUNDING)


@pytest.mark.parametrize("size", [224, 336])
def test_eval_is_torchvisions_short_side_and_centre_crop(size: int) -> None:
    import_torchvision()
    import torch
    from PIL import Image
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.Resize(int(256 * size / 224), interpolation=v2.InterpolationMode.BICUBIC),
            v2.CenterCrop(size),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD),
        ]
    )
    for photo in PHOTOS:
        image = load_photo(photo)
        got = reference_pixels(
            image, Preprocess.from_preset("eval", (size, size), IMAGENET_MEAN, IMAGENET_STD)
        )
        np.testing.assert_allclose(got, transform(Image.fromarray(image)).numpy(), atol=ROUNDING)


def test_hf_is_transformers_own_processor() -> None:
    import_torchvision()
    from transformers import DINOv3ViTImageProcessor

    processor = DINOv3ViTImageProcessor(size={"height": 224, "width": 224})
    for photo in PHOTOS:
        image = load_photo(photo)
        wanted = processor(images=image, return_tensors="np")["pixel_values"][0]
        got = reference_pixels(image, Preprocess.from_preset("hf", None, IMAGENET_MEAN, IMAGENET_STD))
        np.testing.assert_allclose(got, wanted, atol=1e-5)
