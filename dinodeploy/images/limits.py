"""What an image may cost before it is refused: one settings object for everything that decodes."""

from __future__ import annotations

from dataclasses import dataclass

from dinodeploy.errors import ImageTooLargeError, MisuseError

MAX_PIXELS = 89_478_485  # Pillow's limit against decompression bombs: 256 MiB in RGB
MAX_REDUCED = 4 * MAX_PIXELS  # of a JPEG that is decoded at a reduced scale: 357 megapixels
MAX_SCANS = 500  # libjpeg-turbo's own limit when it is fuzzed: fuzz/decompress.cc in its repository
BYTES_PER_PIXEL = (
    10  # that decoding takes at most: 6 for the coefficients of a progressive JPEG, 4 for the result
)


@dataclass(frozen=True)
class ImageLimits:
    """Limits of `open_image`. Raises MisuseError for a number below 1.

    max_pixels: width x height of an image, None for no limit. max_reduced: the same of a JPEG; above
    MAX_PIXELS it is decoded at a reduced scale. max_scans: of a progressive JPEG, whose every scan costs as
    much as an image. formats: names from `kinds.FORMATS` that may be read, None for all. python_decoders:
    whether formats may be read that Pillow decodes in Python (text PPM, run-length BMP): slow, and they hold
    the interpreter.
    """

    max_pixels: int | None = MAX_PIXELS
    max_reduced: int | None = MAX_REDUCED
    max_scans: int = MAX_SCANS
    formats: tuple[str, ...] | None = None
    python_decoders: bool = True

    def __post_init__(self) -> None:
        for name in ("max_pixels", "max_reduced", "max_scans"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise MisuseError(f"{name.replace('_', ' ')} is {value!r}; wanted a whole number, at least 1")

    @classmethod
    def of(cls, max_pixels: int | None) -> ImageLimits:
        """The limits for one number, as `--max-pixels` gives it; None for the defaults."""
        return cls() if max_pixels is None else cls(max_pixels, max_pixels)

    @property
    def memory(self) -> int | None:
        """Bytes that decoding one image may take."""
        return None if self.max_pixels is None else BYTES_PER_PIXEL * max(self.max_pixels, MAX_PIXELS)


DEFAULT_LIMITS = ImageLimits()


def check_pixels(size: tuple[int, int], most: int | None) -> None:
    """Raises ImageTooLargeError for a width and height of more than `most` pixels; None: no limit."""
    if most is not None and size[0] * size[1] > most:
        raise ImageTooLargeError(
            f"got {size[0]}x{size[1]} pixels, wanted at most {most}; shrink it first or raise --max-pixels"
        )


def one_thread_per_image() -> None:
    """For a process that decodes: libavif takes every core otherwise, and each thread takes address space."""
    try:
        from PIL import AvifImagePlugin
    except ImportError:
        return
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
