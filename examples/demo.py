"""The main job on real photographs: export, judge, embed, nearest neighbours.

    python examples/demo.py [DIRECTORY] [--weights hub|random|FILE] [--arch vit_small]

The photographs come with scikit-image and scikit-learn. The model is tiny and was trained in this repository
in half an hour (examples/models/toy_vit), so no network is needed; it recognises textures, not objects.
`--weights hub` uses Meta's ViT-S instead, or the tiny model if the hub cannot be reached.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from importlib import util
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import dinodeploy
from dinodeploy.parity.check import check_bundle

PHOTOGRAPHS = {
    "skimage": (
        "data/astronaut.png",
        "data/chelsea.png",
        "data/coffee.png",
        "data/hubble_deep_field.jpg",
        "data/motorcycle_left.png",
        "data/motorcycle_right.png",
        "data/retina.jpg",
        "data/rocket.jpg",
    ),
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
}
TOY = Path(os.path.relpath(Path(__file__).parent / "models" / "toy_vit"))
TOY_SIDE = 64  # pixels: it was trained on small images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("directory", nargs="?", type=Path, default=Path("demo"))
    parser.add_argument("--weights", default=str(TOY))
    parser.add_argument("--arch", default="vit_small", help="of hub and random weights (%(default)s)")
    options = parser.parse_args()
    photographs = options.directory / "photographs"
    copy_photographs(photographs)
    bundle, vectors = options.directory / "bundle", options.directory / "embeddings"

    exported = export(options.weights, options.arch, bundle)
    show("check", bundle)
    engine, receipt, verdict = check_bundle(bundle)
    if not verdict.passed:
        sys.exit(f"the demo stops here: {engine.path} is not the model on this machine")
    show("embed", photographs, "--engine", bundle, "--out", vectors, "--overwrite")
    dinodeploy.embed(photographs, engine=bundle, out=vectors, overwrite=True, progress=True)

    ids, embeddings = dinodeploy.load_embeddings(vectors)
    show_neighbours(ids, np.asarray(embeddings))
    model = exported.manifest.model
    print(
        f"{len(ids)} photographs embedded to {model.embed_dim} numbers each with {model.arch}, "
        f"weights: {model.source}"
    )
    print(
        f"receipt: passed on {receipt.runtime}; relative Frobenius error against the fp32 reference "
        f"{verdict.worst('relative_frobenius'):.1e}, smallest cosine {verdict.worst('cosine'):.7f}"
    )


def export(weights: str, arch: str, out: Path) -> dinodeploy.Bundle:
    """Export the weights, or the tiny model where the hub cannot be reached."""
    named = weights in ("hub", "random")
    side = TOY_SIDE if not named and Path(weights) == TOY else None
    model = ("--arch", arch, "--weights", weights) if named else ("--weights", weights)
    show("export", *model, *(("--imgsz", side) if side else ()), "--out", out, "--overwrite")
    try:
        return dinodeploy.export(
            weights, out, arch=arch if named else None, imgsz=side, overwrite=True, progress=True
        )
    except dinodeploy.UnavailableError as error:
        if weights != "hub":
            raise
        print(f"\nThe hub cannot be reached ({error}): continuing with the tiny model.\n")
        return export(str(TOY), arch, out)


def show(*arguments: object) -> None:
    """Print the command that does the same as the next call."""
    print("$ dinodeploy", *arguments, flush=True)


def copy_photographs(target: Path) -> None:
    """Copy them out of the installed packages."""
    target.mkdir(parents=True, exist_ok=True)
    for package, names in PHOTOGRAPHS.items():
        spec = util.find_spec(package)
        if spec is None or spec.origin is None:
            sys.exit(f"the demo's photographs come with {package}, which is not installed; run: make setup")
        for name in names:
            shutil.copy(Path(spec.origin).parent / name, target)


def show_neighbours(ids: list[str], embeddings: np.ndarray) -> None:
    """Each photograph and the most similar other one, by cosine."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -1.0)
    table = Table("photograph", "nearest neighbour", "cosine", title="Nearest neighbours")
    for row, id_ in enumerate(ids):
        nearest = int(similarity[row].argmax())
        table.add_row(Path(id_).name, Path(ids[nearest]).name, f"{similarity[row, nearest]:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
