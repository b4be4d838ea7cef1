"""One image as the engine sees it: patch features, and attention where it is available.

Images keep their aspect ratio (preset keep-aspect), so a map covers the whole image without distortion.
Shapes: h w patch grid, D embed_dim, n heads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from dinodeploy.arrays import FloatArray
from dinodeploy.embedder import Embedder
from dinodeploy.errors import MisuseError
from dinodeploy.images.preprocess import Preprocess

Attend = Callable[[FloatArray], FloatArray]  # pixels [1,3,H,W] -> attention of CLS to each patch [n,h,w]

DEFAULT_SIDE = 512  # pixels of the short side: four times the patches of the 256 that models are trained at
SHOWN_SIDE = 1024  # pixels of the long side of the copy that is kept


@dataclass(frozen=True)
class Look:
    """An image, shrunk for display, and its features."""

    id: str
    image: Image.Image
    patches: FloatArray  # [h,w,D]
    attention: FloatArray | None  # [n,h,w]

    @property
    def grid(self) -> tuple[int, int]:
        h, w = self.patches.shape[:2]
        return h, w


def steps_for(embedder: Embedder, side: int | None) -> Preprocess:
    """Preprocessing that keeps the aspect ratio, with a short side of `side` pixels. Raises MisuseError."""
    ours = embedder.preprocess
    short = side or round(DEFAULT_SIDE / ours.patch_size) * ours.patch_size
    return ours.with_preset("keep-aspect", (short, short))


def look_at(
    embedder: Embedder, image: Image.Image, id_: str, steps: Preprocess, attend: Attend | None = None
) -> Look:
    """Run the engine on one RGB image. `attend` computes attention where the engine has no such output."""
    pixels = steps(image)[None]
    outputs = embedder.run(pixels)
    if attend is not None:
        attention: FloatArray | None = attend(steps.normalised(pixels))
    else:
        attention = outputs["attention"][0] if "attention" in outputs else None
    return Look(id_, shrink(image, SHOWN_SIDE), outputs["patch"][0], attention)


def need_attention(embedder: Embedder, attend: Attend | None) -> None:
    """Raises MisuseError where neither the engine nor `attend` gives attention."""
    if attend is None and "attention" not in embedder.output_names:
        raise MisuseError(
            f"{embedder.bundle.named} has no attention output; export it with --attention, or give "
            "--checkpoint to compute attention with the reference model"
        )


def shrink(image: Image.Image, side: int) -> Image.Image:
    """The image with its long side at most `side` pixels; never enlarged."""
    longest = max(image.size)
    if longest <= side:
        return image
    width, height = (max(1, round(length * side / longest)) for length in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
