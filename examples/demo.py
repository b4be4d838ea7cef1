"""The main job on real photographs, as a user would do it: export, judge, embed, nearest neighbours.

    python examples/demo.py [DIRECTORY] [--weights hub|random|FILE] [--arch vit_small]

Photographs are those that scikit-image and scikit-learn ship. The model is a tiny one that this repository
trained in half an hour (examples/models/toy_vit), so no network is needed; it knows textures, not things.
`--weights hub` takes Meta's ViT-S instead; where the hub cannot be reached, the tiny one is taken after all.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from dinodeploy import load_embeddings

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
TOY_SIDE = 64  # pixels: it has seen small pictures only
CANNOT = 4  # exit code: this machine can't (here: no network, no permission)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", nargs="?", type=Path, default=Path("demo"))
    parser.add_argument("--weights", default=str(TOY))
    parser.add_argument("--arch", default="vit_small", help="of hub and random weights (%(default)s)")
    options = parser.parse_args()
    photographs = options.directory / "photographs"
    copy_photographs(photographs)
    bundle, vectors = options.directory / "bundle", options.directory / "embeddings"

    code, exported = dinodeploy("export", *model(options.weights, options.arch), "--out", bundle)
    if code == CANNOT and options.weights == "hub":
        print("\nThe hub cannot be reached: going on with the tiny model.\n")
        code, exported = dinodeploy("export", *model(str(TOY), options.arch), "--out", bundle)
    stop_unless(code == 0)
    code, receipt = dinodeploy("check", bundle)
    stop_unless(code == 0 and receipt["passed"])
    code, _ = dinodeploy("embed", photographs, "--engine", bundle, "--out", vectors)
    stop_unless(code == 0)

    ids, embeddings = load_embeddings(vectors)
    show_neighbours(ids, np.asarray(embeddings))
    worst = exported["worst"]
    print(
        f"{len(ids)} photographs embedded to {embeddings.shape[1]} numbers each with {exported['arch']}, "
        f"weights: {exported['source']}"
    )
    print(
        f"receipt: passed on {receipt['runtime']}; relative Frobenius error against the fp32 reference "
        f"{worst['relative_frobenius']:.1e}, smallest cosine {worst['cosine']:.7f}"
    )


def model(weights: str, arch: str) -> list[str]:
    """The options of `dinodeploy export` that name a model."""
    if weights in ("hub", "random"):
        return ["--arch", arch, "--weights", weights]
    return ["--weights", weights, *(("--imgsz", str(TOY_SIDE)) if Path(weights) == TOY else ())]


def copy_photographs(target: Path) -> None:
    """Into a folder of their own, out of the installed packages."""
    target.mkdir(parents=True, exist_ok=True)
    for package, names in PHOTOGRAPHS.items():
        spec = util.find_spec(package)
        if spec is None or spec.origin is None:
            sys.exit(f"the demo's photographs come with {package}, which is not installed; run: make setup")
        for name in names:
            shutil.copy(Path(spec.origin).parent / name, target)


def dinodeploy(command: str, *arguments: object) -> tuple[int, dict[str, Any]]:
    """Run one command as a user would; its exit code and its JSON."""
    line = [str(argument) for argument in (command, *arguments)]
    line += ["--overwrite"] if command in ("export", "embed") else []
    print("$ dinodeploy", *line, flush=True)
    program = [sys.executable, "-m", "dinodeploy.cli.app"]
    run = subprocess.run([*program, *line, "--json"], stdout=subprocess.PIPE, text=True, check=False)
    return run.returncode, json.loads(run.stdout) if run.stdout else {}


def stop_unless(good: bool) -> None:
    if not good:
        sys.exit("the demo stops here: see the message above")


def show_neighbours(ids: list[str], embeddings: np.ndarray) -> None:
    """Each photograph and the one most like it, by cosine."""
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
