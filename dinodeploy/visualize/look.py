"""One picture as the engine sees it: patch features, and attention where there is some.

Pictures keep their shape (preset keep-aspect), so that a map covers the whole picture, undistorted.
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

Attend = Callable[[FloatArray], FloatArray]  # pixels [1,3,H,W] -> what CLS gives each patch [n,h,w]

USUAL_SIDE = 512  # pixels of the short side: four times the patches of the usual 256
SHOWN_SIDE = 1024  # pixels of the long side of what is kept of a picture


@dataclass(frozen=True)
class Look:
    """A picture, shrunk for showing, and what the engine says of it."""

    id: str
    picture: Image.Image
    patches: FloatArray  # [h,w,D]
    attention: FloatArray | None  # [n,h,w]

    @property
    def grid(self) -> tuple[int, int]:
        h, w = self.patches.shape[:2]
        return h, w


def steps_for(embedder: Embedder, side: int | None) -> Preprocess:
    """Preprocessing that keeps a picture's shape, short side `side` pixels. Raises MisuseError."""
    ours = embedder.preprocess
    short = side or round(USUAL_SIDE / ours.patch_size) * ours.patch_size
    return Preprocess.from_preset("keep-aspect", (short, short), ours.mean, ours.std, ours.patch_size)


def look_at(
    embedder: Embedder, picture: Image.Image, id_: str, steps: Preprocess, attend: Attend | None = None
) -> Look:
    """Run the engine on one RGB picture. `attend` stands in where the engine has no attention output."""
    pixels = steps(picture)[None]
    outputs = embedder.run(pixels)
    if attend is not None:
        attention: FloatArray | None = attend(pixels)
    else:
        attention = outputs["attention"][0] if "attention" in outputs else None
    return Look(id_, shrink(picture, SHOWN_SIDE), outputs["patch"][0], attention)


def need_attention(embedder: Embedder, attend: Attend | None) -> None:
    """Raises MisuseError where nothing here knows attention."""
    if attend is None and "attention" not in embedder.output_names:
        raise MisuseError(
            f"{embedder.bundle.root} has no attention output; export it with --attention, or give "
            "--checkpoint, whose reference knows it"
        )


def shrink(picture: Image.Image, side: int) -> Image.Image:
    """The picture with its long side at most `side` pixels."""
    longest = max(picture.size)
    if longest <= side:
        return picture
    width, height = (max(1, round(length * side / longest)) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
