"""A head of your own, exported with the backbone as one judged bundle.

    python examples/05_custom_head.py [DIRECTORY] [--arch vit_small] [--weights random|hub|FILE]

This head measures how much of an image looks like each of three reference images: it compares every patch
    with
three directions, the mean patches of the reference images, and outputs a map of cosines and the largest
cosine. Any module can take its place: declare what it reads (`inputs`) and what it gives (`outputs`).
"""

from __future__ import annotations

import argparse
from importlib import util
from pathlib import Path

import torch
from torch import Tensor, nn

import dinodeploy
from dinov3_ref.heads import Head
from exporters.heads import add_head

IMAGES = {"cat": "chelsea.png", "coffee": "coffee.png", "rocket": "rocket.jpg"}


class Similarity(Head):
    """patch [B,h,w,D] -> similarity [B,K,h,w], cosines with K directions; best [B,K], the largest of each."""

    inputs = ("patch",)

    def __init__(self, directions_KD: Tensor) -> None:
        super().__init__()
        count, self.embed_dim = directions_KD.shape
        self.outputs = {"similarity": ("batch", count, "rows", "columns"), "best": ("batch", count)}
        self.directions = nn.Parameter(nn.functional.normalize(directions_KD, dim=-1))

    def forward(self, patch: Tensor) -> tuple[Tensor, Tensor]:
        cosines = nn.functional.normalize(patch, dim=-1) @ self.directions.T
        return cosines.permute(0, 3, 1, 2), cosines.amax(dim=(1, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", nargs="?", type=Path, default=Path("custom_head"))
    parser.add_argument("--arch", default="vit_small")
    parser.add_argument("--weights", default="random")
    options = parser.parse_args()
    backbone = dinodeploy.export(
        options.weights,
        options.directory / "backbone",
        arch=options.arch if options.weights in ("random", "hub") else None,
        overwrite=True,
        progress=True,
    )

    images = [photograph(file) for file in IMAGES.values()]
    with dinodeploy.Embedder.open(backbone.root) as embedder:
        mean_patch = embedder.encode(images, output="mean_patch")  # [3,D]
    head = Similarity(torch.from_numpy(mean_patch))

    bundle, _ = add_head(backbone.root, head, options.directory / "similarity", overwrite=True)
    assert bundle.receipt is not None
    print(f"{bundle.root}: judged, {'passed' if bundle.receipt.passed else 'failed'}")
    with dinodeploy.Embedder.open(bundle.root) as embedder:  # needs no torch
        best = embedder.encode(images, output="best")
    print("largest cosine of any patch with the mean patch of " + ", ".join(IMAGES))
    for name, row in zip(IMAGES, best, strict=True):
        print(f"{name:8}" + "".join(f"{value:8.3f}" for value in row))


def photograph(file: str) -> Path:
    """A photograph that scikit-image ships."""
    spec = util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise SystemExit("this example needs scikit-image's photographs: pip install scikit-image")
    return Path(spec.origin).parent / "data" / file


if __name__ == "__main__":
    main()
