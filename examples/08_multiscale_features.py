"""Multi-scale features for a detector: one bundle with four output maps, at strides 4, 8, 16 and 32.

    python examples/08_multiscale_features.py [DIRECTORY] [--arch vit_small] [--weights random|hub|FILE]

Feature pyramid networks, DETR variants and Mask2Former need maps of several strides; a ViT has one. The
exported head resizes the maps of four blocks inside the graph, at any input size.
"""

from __future__ import annotations

import argparse
from importlib import util
from pathlib import Path

import numpy as np

import dinodeploy

SIZES = ((256, 256), (480, 640))  # height, width


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", nargs="?", type=Path, default=Path("pyramid"))
    parser.add_argument("--arch", default="vit_small")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--blocks", default="3,5,7,11")
    options = parser.parse_args()
    bundle = dinodeploy.export(
        options.weights,
        options.directory,
        arch=options.arch if options.weights in ("random", "hub") else None,
        head=f"pyramid:{options.blocks}",
        overwrite=True,
        progress=True,
    )

    with dinodeploy.Embedder.open(bundle.root) as embedder:
        for size in SIZES:
            outputs = embedder.embed([photograph("coffee.png")], imgsz=size)
            print(f"input {size[0]}x{size[1]}")
            for name, level in outputs.items():
                if name.startswith("level_"):
                    print(f"  {name:9}{list(level.shape)}  mean size {np.abs(level).mean():.2f}")


def photograph(file: str) -> Path:
    """A photograph that scikit-image ships."""
    spec = util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise SystemExit("this example needs scikit-image's photographs: pip install scikit-image")
    return Path(spec.origin).parent / "data" / file


if __name__ == "__main__":
    main()
