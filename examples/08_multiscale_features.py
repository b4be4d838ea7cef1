"""Multi-scale features for a detector: one bundle that puts out four maps at strides 4, 8, 16 and 32.

    python examples/08_multiscale_features.py [DIRECTORY] [--arch vit_small] [--weights random|hub|FILE]

Feature pyramid networks, DETR variants and Mask2Former want maps of several strides; a ViT has one. The
exported head resizes the maps of four blocks inside the graph, at any input size.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib import util
from pathlib import Path

import numpy as np

from dinodeploy import Embedder

SIZES = ((256, 256), (480, 640))  # height, width


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", nargs="?", type=Path, default=Path("pyramid"))
    parser.add_argument("--arch", default="vit_small")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--blocks", default="3,5,7,11")
    options = parser.parse_args()
    source = ["--weights", options.weights]
    if options.weights in ("random", "hub"):
        source += ["--arch", options.arch]
    command = ["export", *source, "--head", f"pyramid:{options.blocks}", "--out", str(options.directory)]
    print("$ dinodeploy " + " ".join(command))
    subprocess.run([sys.executable, "-m", "dinodeploy.cli.app", *command, "--overwrite"], check=True)

    with Embedder.open(options.directory) as embedder:
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
