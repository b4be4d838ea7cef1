"""Every preset against the transform it stands for, on real photographs, in grey levels of 255."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import skimage.data
import sklearn.datasets
from PIL import Image

from dinodeploy.errors import MisuseError
from dinodeploy.images import preprocess
from dinodeploy.images.open import open_image, open_reduced
from dinodeploy.images.preprocess import MAX_PATCHES, PRESETS, REDUCED_LEFT, Preprocess
from tests.support.images.photographs import IMAGENET_MEAN, IMAGENET_STD

Pixels = np.ndarray[Any, Any]
SAT_MEAN, SAT_STD = (0.430, 0.411, 0.296), (0.213, 0.156, 0.143)  # docs/spec.md 6


class Tolerance(NamedTuple):
    """In grey levels; `mean` and `p999` are of the worst photograph at the worst size."""

    maximum: float
    mean: float
    p999: float


# What may be, and beside it what was measured (Pillow 13.0, torchvision 0.28, torch 2.13, timm 1.0.31,
# transformers 5.23) on the nine photographs below, up- and downscaling, off-square included.
# The rest of a grey level is float32 rounding in the normalisation.
TOLERANCES = {
    #                     allowed                    measured: max, mean, p99.9
    "official": Tolerance(1.01, 0.02, 1.01),  #      1.0000,  0.0123,  1.0000
    "hf": Tolerance(0.02, 5e-4, 0.01),  #            0.0083,  1.2e-4,  0.0034
    "timm": Tolerance(1e-4, 2e-5, 1e-4),  #          2.7e-5,  6.1e-6,  2.7e-5  (the same bytes)
    "eval": Tolerance(1e-4, 2e-5, 1e-4),  #          2.7e-5,  6.1e-6,  2.7e-5  (the same bytes)
    "pad": Tolerance(1.01, 0.02, 1.01),  #           1.0000,  0.0018,  1.0000
    # A crop computed alone, as for panoramas past 16:1, here forced on ordinary photographs.
    "overhang": Tolerance(2.01, 0.003, 1.01),  #     2.0000,  0.0011,  1.0000
}

SIZES = [(256, 384), (512, 320), (64, 96), (1024, 768), (224, 224), (256, 256)]
SQUARES = [256, 224, 64, 448, 1024]


@cache
def photographs() -> dict[str, Image.Image]:
    data = skimage.data
    arrays = {
        "astronaut": data.astronaut(),
        "chelsea": data.chelsea(),
        "coffee": data.coffee(),
        "rocket": data.rocket(),
        "hubble_deep_field": data.hubble_deep_field(),
        "motorcycle_left": data.stereo_motorcycle()[0],
        "china": sklearn.datasets.load_sample_image("china.jpg"),
        "flower": sklearn.datasets.load_sample_image("flower.jpg"),
    }
    photos = {name: Image.fromarray(array) for name, array in arrays.items()}
    photos["rocket on its side"] = photos["rocket"].transpose(Image.Transpose.ROTATE_90)
    return photos


@pytest.fixture(scope="module")
def references() -> dict[str, Callable[[int, int], Callable[[Image.Image], Pixels]]]:
    """(H, W) -> image -> [3, H, W], each made by the library that the preset is named after."""
    from dinov3_ref.torchvision_shim import import_torchvision

    import_torchvision()
    import timm.data
    import torch
    from torchvision import transforms as v1
    from torchvision.transforms import v2
    from transformers import EomtImageProcessor
    from transformers.models.dinov3_vit.image_processing_dinov3_vit import DINOv3ViTImageProcessor

    def official(height: int, width: int) -> Any:
        return v2.Compose(
            [
                v2.ToImage(),
                v2.Resize((height, width), antialias=True),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )

    def hf(height: int, width: int) -> Any:
        processor = DINOv3ViTImageProcessor(size={"height": height, "width": width})
        return lambda image: processor(image, return_tensors="pt")["pixel_values"][0]

    def timm_transform(height: int, width: int) -> Any:
        return timm.data.create_transform(
            (3, height, width), interpolation="bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD, crop_pct=1.0
        )

    def evaluation(height: int, width: int) -> Any:
        resize = v1.Resize(int(height * 256 / 224), v1.InterpolationMode.BICUBIC)
        crop = v1.CenterCrop(height)
        return v1.Compose([resize, crop, v1.ToTensor(), v1.Normalize(IMAGENET_MEAN, IMAGENET_STD)])

    def pad(height: int, width: int) -> Any:
        edges = {"shortest_edge": height, "longest_edge": width}
        processor = EomtImageProcessor(size=edges, do_pad=True)
        return lambda image: processor(image, return_tensors="pt")["pixel_values"][0]

    return {"official": official, "hf": hf, "timm": timm_transform, "eval": evaluation, "pad": pad}


def difference(got: Pixels, wanted: Any) -> Pixels:
    """Grey levels between two normalised images."""
    assert got.shape == tuple(wanted.shape)
    return np.abs(got - np.asarray(wanted)) * np.array(IMAGENET_STD)[:, None, None] * 255


def worst(differences: list[Pixels]) -> Tolerance:
    return Tolerance(
        max(float(levels.max()) for levels in differences),
        max(float(levels.mean()) for levels in differences),
        max(float(np.quantile(levels, 0.999)) for levels in differences),
    )


def assert_within(name: str, differences: list[Pixels]) -> None:
    measured = worst(differences)
    print(f"{name}: measured {measured}")  # shown by pytest -s, to renew the table
    assert all(got <= allowed for got, allowed in zip(measured, TOLERANCES[name], strict=True)), measured


def of(name: str, height: int, width: int) -> Preprocess:
    return Preprocess.from_preset(name, (height, width), IMAGENET_MEAN, IMAGENET_STD)


@pytest.mark.parametrize("name", ["official", "hf"])
def test_stretching_presets_equal_their_reference(name: str, references: Any) -> None:
    differences = []
    for height, width in SIZES:
        reference, ours = references[name](height, width), of(name, height, width)
        differences += [difference(ours(photo), reference(photo)) for photo in photographs().values()]
    assert_within(name, differences)


@pytest.mark.parametrize("name", ["timm", "eval", "pad"])
def test_square_presets_equal_their_reference(name: str, references: Any) -> None:
    differences = []
    for size in SQUARES:
        reference, ours = references[name](size, size), of(name, size, size)
        differences += [difference(ours(photo), reference(photo)) for photo in photographs().values()]
    assert_within(name, differences)


@pytest.mark.parametrize("name", ["timm", "eval"])
def test_crop_computed_alone_equals_the_crop_of_the_whole(
    name: str, references: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preprocess, "MAX_OVERHANG", 0)
    differences = []
    for size in SQUARES:
        reference, ours = references[name](size, size), of(name, size, size)
        differences += [difference(ours(photo), reference(photo)) for photo in photographs().values()]
    assert_within("overhang", differences)


@pytest.mark.parametrize(("height", "width", "full"), [(224, 320, (256, 383)), (320, 224, (365, 547))])
def test_off_square_crop_covers_and_cuts_the_middle(
    height: int, width: int, full: tuple[int, int], references: Any
) -> None:
    from torchvision.transforms import v2

    photo = photographs()["rocket"]  # 427 x 640; 256/224 of each target is (256, 365) and (365, 256)
    resized = photo.resize(full[::-1], Image.Resampling.BICUBIC)
    wanted = references["official"](height, width).transforms[2:]
    cropped = v2.functional.center_crop(v2.functional.to_image(resized), [height, width])
    for step in wanted:
        cropped = step(cropped)
    assert difference(of("eval", height, width)(photo), cropped).max() < 1e-4


def test_keep_aspect_stretches_to_its_target(references: Any) -> None:
    ours = of("keep-aspect", 256, 256)
    for photo in photographs().values():
        reference = references["official"](*ours.target_size(*photo.size))
        assert difference(ours(photo), reference(photo)).max() <= TOLERANCES["official"].maximum


@pytest.mark.parametrize(
    ("size", "target"),
    [
        ((640, 427), (256, 384)),
        ((427, 640), (384, 256)),
        ((256, 256), (256, 256)),
        ((1, 1), (256, 256)),
        ((20000, 3), (16, 65536)),
        ((3, 20000), (65536, 16)),
        ((3000, 1000), (256, 768)),
        ((20000, 1000), (224, 4576)),
    ],
)
def test_keep_aspect_target(size: tuple[int, int], target: tuple[int, int]) -> None:
    height, width = of("keep-aspect", 256, 256).target_size(*size)
    assert (height, width) == target


def test_keep_aspect_never_exceeds_its_patches_nor_leaves_the_grid() -> None:
    rng = np.random.default_rng(0)
    for _ in range(2000):
        width, height = (int(side) for side in np.exp(rng.uniform(0, math.log(60000), 2)))
        short = int(rng.integers(1, 65)) * 16
        H, W = of("keep-aspect", short, short).target_size(width, height)
        assert min(H, W) >= 16
        assert (H % 16, W % 16) == (0, 0)
        assert H * W <= MAX_PATCHES * 256


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("size", [(20000, 3), (3, 20000), (1, 1), (1, 2_000_000)])
def test_extreme_images_are_fine(name: str, size: tuple[int, int]) -> None:
    ours = Preprocess.from_preset(name, None, IMAGENET_MEAN, IMAGENET_STD)
    pixels = ours(Image.new("RGB", size, (255, 0, 128)))
    assert pixels.shape == (3, *ours.target_size(*size))
    rows, columns = ours.shown(*size)
    wanted = np.zeros(pixels.shape)
    wanted[:, :rows, :columns] = np.array([1, 0, 128 / 255])[:, None, None]
    wanted = (wanted - np.array(IMAGENET_MEAN)[:, None, None]) / np.array(IMAGENET_STD)[:, None, None]
    np.testing.assert_allclose(pixels, wanted, atol=1e-5)


@pytest.mark.parametrize("name", PRESETS)
def test_result_is_what_an_engine_takes(name: str) -> None:
    pixels = Preprocess.from_preset(name, None, SAT_MEAN, SAT_STD)(photographs()["coffee"])
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    lowest = (0 - np.array(SAT_MEAN)) / SAT_STD
    highest = (1 - np.array(SAT_MEAN)) / SAT_STD
    assert (pixels >= lowest[:, None, None] - 1e-5).all()
    assert (pixels <= highest[:, None, None] + 1e-5).all()


def test_halfway_limit_does_not_change_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    photo, ours = photographs()["china"], of("official", 256, 384)
    usual = ours(photo)
    monkeypatch.setattr(preprocess, "MAX_HALFWAY", 0)
    assert difference(ours(photo), usual).max() < 3  # rounding between the passes, in the other order


@pytest.mark.parametrize("pixels", [1, 10_000, 100_000])
def test_strips_do_not_change_the_image(pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    photo, ours = photographs()["rocket"], of("hf", 256, 384)
    whole = ours(photo)
    monkeypatch.setattr(preprocess, "STRIP", pixels)
    np.testing.assert_array_equal(ours(photo), whole)


# 4:4:4 and 4:2:0; measured 1.0 (hf 1.10) and 2.5
@pytest.mark.parametrize(("subsampling", "limit"), [(0, 1.2), (2, 3.01)])
@pytest.mark.parametrize(
    ("preset", "size", "scale"),
    [("official", (32, 48), 2), ("timm", (32, 32), 2), ("keep-aspect", (32, 32), 2), ("hf", (16, 16), 4)],
)
def test_how_far_a_reduced_jpeg_is_from_the_whole_one(
    preset: str, size: tuple[int, int], scale: int, subsampling: int, limit: float
) -> None:
    """99.9 % of the pixels of sharp photographs that are just large enough."""
    # grey levels
    step = Preprocess.from_preset(preset, size, (0.0,) * 3, (1 / 255,) * 3)  # type: ignore[arg-type]
    height, width = (side * scale * REDUCED_LEFT for side in size)
    errors = []
    for name, photo in photographs().items():
        if name in ("retina", "hubble_deep_field") or photo.height < height:
            continue  # smooth ones flatter
        file = io.BytesIO()
        photo.crop((0, 0, width, height)).save(file, "JPEG", quality=90, subsampling=subsampling)
        reduced, own = open_reduced(file.getvalue(), replace(step, jpeg="reduced").jpeg_scale)
        assert own == (width, height)
        assert reduced.size == (width // scale, height // scale)
        errors.append(np.abs(step(open_image(file.getvalue())) - step(reduced)).ravel())
    assert len(errors) >= 5
    assert 0 < np.percentile(np.concatenate(errors), 99.9) <= limit


@pytest.mark.parametrize(
    ("preset", "size", "picture", "scale"),
    [
        ("official", (224, 224), (4032, 3024), 2),
        ("official", (224, 224), (2688, 2688), 2),
        ("official", (224, 224), (2687, 2688), 1),
        ("official", (224, 112), (1344, 2688), 2),
        ("official", (224, 112), (2688, 1344), 1),
        ("eval", (224, 224), (3072, 9999), 2),
        ("eval", (224, 224), (3071, 9999), 1),
        ("keep-aspect", (256, 256), (9000, 6200), 4),
        ("hf", (16, 16), (4096, 4096), 8),
    ],
)
def test_when_a_jpeg_may_be_reduced(
    preset: str, size: tuple[int, int], picture: tuple[int, int], scale: int
) -> None:
    step = of(preset, *size)
    assert replace(step, jpeg="reduced").jpeg_scale(*picture) == scale
    assert step.jpeg_scale(*picture) == 1


def test_default_sizes_are_the_references() -> None:
    statistics = IMAGENET_MEAN, IMAGENET_STD
    sizes = {name: Preprocess.from_preset(name, None, *statistics).height for name in PRESETS}
    fitted = {"keep-aspect": 256, "pad": 640}
    assert sizes == {"official": 256, "hf": 224, "timm": 256, "eval": 224, **fitted}
    assert of("hf", 224, 224).with_size(512, 320) == of("hf", 512, 320)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": "imagenet"}, "preprocessing 'imagenet' is unknown; use one of official, hf, timm"),
        ({"height": 250}, "height: got 250 px, wanted a multiple of the patch size 16; use 240 or 256"),
        ({"width": 5}, "width: got 5 px, wanted a multiple of the patch size 16; use 16"),
        ({"width": -32}, "width: got -32 px, wanted a multiple of the patch size 16; use 16"),
        ({"height": 256.0}, "height: got 256.0, wanted a whole number"),
        ({"height": True}, "height: got True, wanted a whole number"),
        ({"patch_size": 0}, "patch size: got 0, wanted a positive"),
        ({"mean": (0.5, 0.5)}, "mean: got (0.5, 0.5), wanted three finite numbers"),
        ({"mean": (0.5, 0.5, math.nan)}, "wanted three finite numbers"),
        ({"jpeg": "halved"}, "jpeg: got 'halved', wanted whole or reduced"),
        ({"std": (0.5, 0.5, 0)}, "std: got (0.5, 0.5, 0), wanted three positive"),
        ({"preset": "keep-aspect", "height": 512}, "keep-aspect: got 512x256, wanted one number"),
        (
            {"preset": "keep-aspect", "height": 1040, "width": 1040},
            "short side of 1040 px, wanted at most 1024",
        ),
    ],
)
def test_senseless_numbers_are_refused_at_birth(change: dict[str, Any], message: str) -> None:
    good = {"preset": "official", "height": 256, "width": 256, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    with pytest.raises(MisuseError) as caught:
        Preprocess(**(good | change))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_preset_by_name_is_refused() -> None:
    with pytest.raises(MisuseError, match="'nope' is unknown"):
        Preprocess.from_preset("nope", None, IMAGENET_MEAN, IMAGENET_STD)
