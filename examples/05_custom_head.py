"""A head of your own, exported with the backbone as one judged bundle.

    python examples/05_custom_head.py [DIRECTORY] [--arch vit_small] [--weights random|hub|FILE]

The head here says how much of a picture looks like each of three reference pictures: it compares every patch
with three directions, which are the reference pictures' mean patches, and puts out a map of cosines and their
largest. Any module can stand in its place: say what it reads (`inputs`) and what it gives (`outputs`).
"""

from __future__ import annotations

import argparse
import shutil
from importlib import util
from pathlib import Path

import torch
from torch import Tensor, nn

from dinodeploy import Embedder
from dinov3_ref.checkpoints import fetch, load_checkpoint, random_checkpoint
from dinov3_ref.heads import Head
from exporters.bundle.export import ExportOptions, export_checkpoint
from exporters.heads import add_head

PICTURES = {"cat": "chelsea.png", "coffee": "coffee.png", "rocket": "rocket.jpg"}


class Likeness(Head):
    """patch [B,h,w,D] -> likeness [B,K,h,w], cosines with K directions; likest [B,K], the largest of each."""

    inputs = ("patch",)

    def __init__(self, directions_KD: Tensor) -> None:
        super().__init__()
        count, self.embed_dim = directions_KD.shape
        self.outputs = {"likeness": ("batch", count, "rows", "columns"), "likest": ("batch", count)}
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
    shutil.rmtree(options.directory / "backbone", ignore_errors=True)
    backbone = export_backbone(options.arch, options.weights, options.directory / "backbone")

    pictures = [photograph(file) for file in PICTURES.values()]
    with Embedder.open(backbone) as embedder:
        patch = embedder.embed(pictures)["patch"]  # [3,h,w,D]
    head = Likeness(torch.from_numpy(patch.mean(axis=(1, 2))))

    bundle, receipt, _ = add_head(backbone, head, options.directory / "likeness", overwrite=True)
    print(f"{bundle.root}: judged, {'passed' if receipt.passed else 'failed'}")
    with Embedder.open(bundle.root) as embedder:  # no torch from here on
        likest = embedder.embed(pictures)["likest"]
    print("largest cosine of any patch with the mean patch of " + ", ".join(PICTURES))
    for name, row in zip(PICTURES, likest, strict=True):
        print(f"{name:8}" + "".join(f"{value:8.3f}" for value in row))


def export_backbone(arch: str, weights: str, out: Path) -> Path:
    """Export the backbone alone; returns its bundle."""
    if weights == "random":
        checkpoint = random_checkpoint(arch, 0)
    else:
        checkpoint = load_checkpoint(fetch(arch) if weights == "hub" else Path(weights))
    origin = weights if weights in ("random", "hub") else "file"
    return export_checkpoint(checkpoint, out, ExportOptions(), weights=origin)[0].root


def photograph(file: str) -> Path:
    """A photograph that scikit-image ships."""
    spec = util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise SystemExit("this example needs scikit-image's photographs: pip install scikit-image")
    return Path(spec.origin).parent / "data" / file


if __name__ == "__main__":
    main()
