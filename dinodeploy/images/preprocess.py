"""Preprocessing: an RGB image -> the model's input, as the reference implementations do it.

    preset       steps                                                      reference
    official     stretch to HxW (256), bilinear, on bytes                   torchvision v2, DINOv3's README
    hf           stretch to HxW (224), bilinear, on floats                  transformers' DINOv3 processor
    timm         short side to 256, bicubic; centre crop                    timm.data.create_transform
    eval         short side to 256/224 of 224, bicubic; centre crop         DINOv3's classification evals
    keep-aspect  short side to 256, both sides to the patch grid; bilinear  ours, for uncropped images
    pad          long side to HxW (640), bilinear; black to the right, below  transformers' EoMT processor

Source: docs/spec.md 6. Every resize is antialiased. Each is within one grey level of 255 of its reference
(tests/dinodeploy/images/test_preprocess.py).

Shapes: H, W height and width of the model's input in pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import numpy as np
from PIL import Image

from dinodeploy.arrays import AnyArray, ByteArray, FloatArray
from dinodeploy.errors import MisuseError

Triple = tuple[float, float, float]

MAX_PATCHES = 4096  # of a keep-aspect image; the cost of attention grows with the square

# A short-side resize may become much larger than its crop (a panorama of 20000 x 3 px would reach 1.7 million
# columns). Above this ratio of the two areas only the crop is computed.
MAX_OVERHANG = 16

MAX_HALFWAY = 100_000_000  # pixels of an image after its rows are resized

STRIP = 500_000  # pixels converted to float at a time: 12 MP at once would be bound by memory bandwidth


@dataclass(frozen=True)
class Steps:
    """The steps of one preset."""

    fit: Literal["squash", "short-side-crop", "keep-aspect", "pad"]
    interpolation: Literal["bilinear", "bicubic"]
    dtype: Literal["uint8", "float32"]  # in which the resize computes and rounds
    default_size: int
    resize_ratio: Fraction = Fraction(1)  # short side over crop


PRESETS: dict[str, Steps] = {
    "official": Steps("squash", "bilinear", "uint8", 256),
    "hf": Steps("squash", "bilinear", "float32", 224),
    "timm": Steps("short-side-crop", "bicubic", "uint8", 256),
    "eval": Steps("short-side-crop", "bicubic", "uint8", 224, Fraction(256, 224)),
    "keep-aspect": Steps("keep-aspect", "bilinear", "uint8", 256),
    "pad": Steps("pad", "bilinear", "uint8", 640),
}

# How much a JPEG must still shrink after its decoder has reduced it. From here on, 99.9 % of pixels are
# within one grey level if colours are stored at full resolution, and within three if at half, as is usual:
# saturated colours differ at any factor. Measured in tests/dinodeploy/images/test_preprocess.py.
REDUCED_LEFT = 6
SCALES = (8, 4, 2)  # of a JPEG decoder

NEAR = 0.01  # grey levels: a normalised number so far from one of the 256 was rounded, and not resized

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Preprocess:
    """A preset with its numbers; recorded in manifests. Raises MisuseError for invalid numbers.

    height, width: of the model's input in pixels; for "keep-aspect" both are the target of the short side.
    mean, std: of RGB in 0..1. max_patches: limit for a keep-aspect image; larger ones are shrunk to it.
    jpeg: "reduced" if a much larger JPEG may be decoded at a reduced scale (`jpeg_scale`), else "whole".
    dtype: of the engine's input. "float32": normalised pixels [B,3,H,W]; "uint8": bytes [B,H,W,3], which the
        graph normalises.
    """

    preset: str
    height: int
    width: int
    mean: Triple
    std: Triple
    patch_size: int = 16
    max_patches: int = MAX_PATCHES
    jpeg: Literal["whole", "reduced"] = "whole"
    dtype: Literal["float32", "uint8"] = "float32"

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise MisuseError(f"preprocessing {self.preset!r} is unknown; use one of {', '.join(PRESETS)}")
        if type(self.patch_size) is not int or self.patch_size < 1:
            raise MisuseError(f"patch size: got {self.patch_size!r}, wanted a positive number of pixels")
        if self.jpeg not in ("whole", "reduced"):
            raise MisuseError(f"jpeg: got {self.jpeg!r}, wanted whole or reduced")
        if self.dtype not in ("float32", "uint8"):
            raise MisuseError(f"input is {self.dtype!r}; wanted float32 or uint8")
        if self.dtype == "uint8" and self.steps.dtype != "uint8":
            presets = ", ".join(name for name, steps in PRESETS.items() if steps.dtype == "uint8")
            raise MisuseError(
                f"preprocessing {self.preset} resizes on floats, which uint8 input cannot hold; use {presets}"
            )
        if type(self.max_patches) is not int or self.max_patches < 1:
            raise MisuseError(f"max patches: got {self.max_patches!r}, wanted at least 1")
        _check_side("height", self.height, self.patch_size)
        _check_side("width", self.width, self.patch_size)
        if self.steps.fit == "keep-aspect":
            self._check_short_side()
        for name, triple in (("mean", self.mean), ("std", self.std)):
            if len(triple) != 3 or not all(math.isfinite(value) for value in triple):
                raise MisuseError(
                    f"{name}: got {triple}, wanted three finite numbers, for R, G and B in 0..1"
                )
        if min(self.std) <= 0:
            raise MisuseError(f"std: got {self.std}, wanted three positive numbers")

    @classmethod
    def from_preset(
        cls, name: str, size: tuple[int, int] | None, mean: Triple, std: Triple, patch_size: int = 16
    ) -> Preprocess:
        """The preset `name` at `size` (H, W), by default the size that its reference uses."""
        if size is None and name in PRESETS:
            size = (PRESETS[name].default_size,) * 2
        height, width = size or (patch_size, patch_size)  # an unknown name is refused when created
        return cls(name, height, width, mean, std, patch_size)

    def with_size(self, height: int, width: int) -> Preprocess:
        """The same steps for another input size in pixels."""
        return replace(self, height=height, width=width)

    def with_preset(self, name: str, size: tuple[int, int] | None) -> Preprocess:
        """Another preset with the same numbers and input, at `size` (H, W) or the size that it uses."""
        made = Preprocess.from_preset(name, size, self.mean, self.std, self.patch_size)
        return replace(made, dtype=self.dtype)

    def with_dtype(self, dtype: str) -> Preprocess:
        """The same steps for another type of input."""
        return replace(self, dtype=dtype)  # type: ignore[arg-type]  # checked when created

    @property
    def steps(self) -> Steps:
        return PRESETS[self.preset]

    def target_size(self, width: int, height: int) -> tuple[int, int]:
        """(H, W) of the input for an image of `width` x `height` pixels."""
        if self.steps.fit != "keep-aspect":
            return self.height, self.width
        return _nearest_grid(width, height, self.height, self.patch_size, self.max_patches)

    def shown(self, width: int, height: int) -> tuple[int, int]:
        """(H, W) of the part of the input, from its top left, that is image and not padding."""
        if self.steps.fit != "pad":
            return self.target_size(width, height)
        fitted = fit_inside(width, height, self.height, self.width)
        return min(fitted[0], self.height), min(fitted[1], self.width)

    def view(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The part of a `width` x `height` image that the input shows: left, top, right, bottom in pixels."""
        if self.steps.fit != "short-side-crop":
            return 0.0, 0.0, float(width), float(height)
        full_height, full_width = _cover_size(width, height, self.height, self.width, self.steps.resize_ratio)
        top, left = round((full_height - self.height) / 2), round((full_width - self.width) / 2)
        across, down = width / full_width, height / full_height
        return left * across, top * down, (left + self.width) * across, (top + self.height) * down

    def jpeg_scale(self, width: int, height: int) -> int:
        """The scale, 1, 2, 4 or 8, by which a JPEG of that size may be reduced while decoding."""
        if self.jpeg == "whole":
            return 1
        target_height, target_width = self.target_size(width, height)
        if self.steps.fit == "pad":
            target_height, target_width = self.shown(width, height)
        if self.steps.fit == "short-side-crop":
            side = max(target_height, target_width) * self.steps.resize_ratio
            shrinks = float(min(width, height) / side)
        else:
            shrinks = min(width / target_width, height / target_height)
        return next((scale for scale in SCALES if shrinks >= REDUCED_LEFT * scale), 1)

    @property
    def largest_input(self) -> tuple[tuple[int, ...], str]:
        """Shape and dtype of what `__call__` makes; for "keep-aspect" of as many pixels as it may have."""
        sides = (self.height, self.width)
        if self.steps.fit == "keep-aspect":
            sides = self.max_patches, self.patch_size * self.patch_size
        return ((*sides, 3), "uint8") if self.dtype == "uint8" else ((3, *sides), "float32")

    def blank(self, batch: int = 1) -> AnyArray:
        """An engine input of zeros: float32 [B,3,H,W], or uint8 [B,H,W,3]."""
        sides = (self.height, self.width)
        shape = (batch, *sides, 3) if self.dtype == "uint8" else (batch, 3, *sides)
        return np.zeros(shape, self.dtype)

    def for_engine(self, pixels: FloatArray) -> AnyArray:
        """Normalised pixels [B,3,H,W] as the engine takes them: as they are, or as bytes [B,H,W,3].

        Raises MisuseError for numbers that are not one of 256 grey levels, where the engine takes bytes.
        """
        if self.dtype == "float32":
            return pixels
        mean, std = (np.array(triple, np.float32) for triple in (self.mean, self.std))
        grey = (pixels.transpose(0, 2, 3, 1) * std + mean) * np.float32(255)
        levels = np.rint(grey)
        with np.errstate(invalid="ignore"):  # NaN is not near anything
            off = ~((np.abs(grey - levels) <= NEAR) & (levels >= 0) & (levels <= 255))
        if off.any():
            found = float(grey[tuple(np.argwhere(off)[0])])
            raise MisuseError(
                f"this bundle takes bytes, and a pixel is {found:.7g} of 0 to 255 before it was normalised; "
                "wanted whole numbers: give uint8 [B,H,W,3], or export without --input uint8"
            )
        return levels.astype(np.uint8)

    def normalised(self, pixels: AnyArray) -> FloatArray:
        """What `__call__` made, one image or a batch, as normalised float32 [...,3,H,W]."""
        if self.dtype == "float32":
            return pixels
        planes = np.moveaxis(pixels, -1, -3)
        out = np.empty(planes.shape, np.float32)
        for channel in range(3):
            self._normalise(planes[..., channel, :, :], channel, out[..., channel, :, :])
        return out

    def __call__(self, image: Image.Image, out: AnyArray | None = None) -> AnyArray:
        """RGB image of any size -> one engine input, C-contiguous; in `out` if it is given.

        float32 [3,H,W], normalised, or uint8 [H,W,3].
        """
        assert image.mode == "RGB", f"open_image makes images RGB, this one is {image.mode}"
        if self.dtype == "uint8":
            grey = self._resize_bytes(image)
            if out is None:
                return grey
            np.copyto(out, grey)
            return out
        planes = self._resize(image)
        pixels = np.empty((3, *planes[0].shape), np.float32) if out is None else out
        for channel, plane in enumerate(planes):
            self._normalise(plane, channel, pixels[channel])
        return pixels

    def _normalise(self, grey: AnyArray, channel: int, out: FloatArray) -> None:
        """Grey levels of one channel -> normalised, into `out`."""
        mean, std = self.mean[channel], self.std[channel]
        # (x / 255 - mean) / std as one scale and one shift, nine times as fast as written out
        np.multiply(grey, np.float32(1 / (255 * std)), out=out, dtype=np.float32)
        out -= np.float32(mean / std)

    def _resize(self, image: Image.Image) -> list[AnyArray]:
        """Three planes [H, W] in 0..255, of uint8 or float32 as the preset says."""
        if self.steps.dtype == "float32":
            height, width = self.target_size(*image.size)
            resample = _FILTERS[self.steps.interpolation]
            return [np.asarray(band) for band in _stretch_floats(image, height, width, resample)]
        pixels = self._resize_bytes(image)
        return [pixels[..., channel] for channel in range(3)]

    def _resize_bytes(self, image: Image.Image) -> ByteArray:
        """The resized image, [H, W, 3]."""
        height, width = self.target_size(*image.size)
        resample = _FILTERS[self.steps.interpolation]
        if self.steps.fit == "short-side-crop":
            image = _cover_and_crop(image, height, width, self.steps.resize_ratio, resample)
        elif self.steps.fit == "pad":
            resized = _stretch(image, *fit_inside(*image.size, height, width), resample)
            image = resized.crop((0, 0, width, height))  # black where the image ends
        else:
            image = _stretch(image, height, width, resample)
        return np.asarray(image)

    def _check_short_side(self) -> None:
        if self.height != self.width:
            raise MisuseError(
                f"keep-aspect: got {self.height}x{self.width}, wanted one number, the short side"
            )
        most = max(MAX_PATCHES, self.max_patches)  # with fewer, images are shrunk anyway
        largest = math.isqrt(most) * self.patch_size
        if self.height > largest:
            raise MisuseError(
                f"keep-aspect: got a short side of {self.height} px, wanted at most {largest} "
                f"({most} patches of {self.patch_size} px)"
            )


def _check_side(name: str, pixels: int, patch_size: int) -> None:
    if type(pixels) is not int:
        raise MisuseError(f"{name}: got {pixels!r}, wanted a whole number of pixels")
    if pixels < 1 or pixels % patch_size:
        lower = max(1, pixels // patch_size) * patch_size
        nearest = f"{lower}" if pixels < patch_size else f"{lower} or {lower + patch_size}"
        raise MisuseError(
            f"{name}: got {pixels} px, wanted a multiple of the patch size {patch_size}; use {nearest}"
        )


def _nearest_grid(width: int, height: int, short: int, patch_size: int, most: int) -> tuple[int, int]:
    """(H, W) on the patch grid: short side to `short`, aspect ratio kept, at most `most` patches."""
    scale = short / min(width, height) / patch_size  # patches a pixel
    rows = max(1, math.floor(height * scale + 0.5))
    columns = max(1, math.floor(width * scale + 0.5))
    if rows * columns > most:
        scale = math.sqrt(most / (width * height))
        rows = max(1, math.floor(height * scale))
        columns = max(1, math.floor(width * scale))
        # a side of one patch cannot shrink, so the other one does
        rows, columns = min(rows, most), min(columns, most)
    return rows * patch_size, columns * patch_size


def fit_inside(width: int, height: int, to_height: int, to_width: int) -> tuple[int, int]:
    """(H, W) of a `width` x `height` image resized to fit into `to_height` x `to_width`, aspect ratio kept.

    For a square, in the arithmetic of transformers' `get_size_with_aspect_ratio`, rounding included.
    """
    short, long = min(width, height), max(width, height)
    if to_height != to_width:
        scale = min(to_height / height, to_width / width)
        return max(1, min(round(height * scale), to_height)), max(1, min(round(width * scale), to_width))
    if short == long:
        return to_height, to_width
    exact = to_height * float(short) / float(long)
    side = round(exact)
    if short == side:
        return height, width
    other = exact * long / short
    fitted = (max(side, 1), int(other))
    return fitted if width > height else fitted[::-1]


def _cover_and_crop(
    image: Image.Image, height: int, width: int, ratio: Fraction, resample: Image.Resampling
) -> Image.Image:
    """Resize to cover height x width times `ratio`, then crop height x width from the centre.

    For a square this equals torchvision's Resize(int) and CenterCrop, including rounding: the long side is
    rounded down, the crop's offset is rounded with Python's `round`.
    """
    full_height, full_width = _cover_size(*image.size, height, width, ratio)
    top, left = round((full_height - height) / 2), round((full_width - width) / 2)
    if full_height * full_width <= MAX_OVERHANG * height * width:
        image = image.resize((full_width, full_height), resample)  # in Pillow's order, like the reference
        return image.crop((left, top, left + width, top + height))
    x0, x1, begin_x, end_x = _source_span(image.width, full_width, left, width)
    y0, y1, begin_y, end_y = _source_span(image.height, full_height, top, height)
    image = image.crop((x0, y0, x1, y1))
    image = image.resize((width, image.height), resample, box=(begin_x, 0, end_x, image.height))
    return image.resize((width, height), resample, box=(0, begin_y, width, end_y))


def _cover_size(width: int, height: int, to_height: int, to_width: int, ratio: Fraction) -> tuple[int, int]:
    """(H, W) of a `width` x `height` image resized to just cover the target times `ratio`."""
    cover_height, cover_width = int(to_height * ratio), int(to_width * ratio)
    if cover_height * width >= cover_width * height:
        return cover_height, cover_height * width // height
    return cover_width * height // width, cover_width


def _source_span(source: int, full: int, offset: int, length: int) -> tuple[int, int, float, float]:
    """The source of `length` pixels from `offset` on, when a side of `source` pixels is resized to `full`.

    Returns the source pixels [x0, x1) that the filter reads, and where the part begins and ends in them.
    """
    scale = source / full
    begin, end = offset * scale, (offset + length) * scale
    reach = 2 * max(1.0, scale) + 1  # a bicubic filter reads two pixels of the coarser grid on each side
    x0, x1 = max(0, math.floor(begin - reach)), min(source, math.ceil(end + reach))
    return x0, x1, begin - x0, end - x0


def _stretch(image: Image.Image, height: int, width: int, resample: Image.Resampling) -> Image.Image:
    """Resize to exactly height x width, rows first, as torch does.

    Pillow's default is to resize the cheaper side first, and rounding in between differs by up to four grey
    levels. Columns go first only if rows first would take gigabytes (an image a few pixels wide and millions
    high).
    """
    halfway = (width, image.height) if width * image.height <= MAX_HALFWAY else (image.width, height)
    return image.resize(halfway, resample).resize((width, height), resample)


def _stretch_floats(
    image: Image.Image, height: int, width: int, resample: Image.Resampling
) -> list[Image.Image]:
    """R, G and B as floats, resized as `_stretch` does; the source is converted to float in strips."""
    if width * image.height > MAX_HALFWAY:
        return [_stretch(band.convert("F"), height, width, resample) for band in image.split()]
    halfway = [Image.new("F", (width, image.height)) for _ in range(3)]
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        strip = image.crop((0, top, image.width, bottom))
        for band, out in zip(strip.split(), halfway, strict=True):
            out.paste(band.convert("F").resize((width, bottom - top), resample), (0, top))
    return [band.resize((width, height), resample) for band in halfway]
