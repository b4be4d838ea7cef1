"""From images to search: train, export, embed and find neighbours. About a minute on one core.

    python examples/04_train.py [DIRECTORY] [--iterations 40]

The run is tiny and the model learns little; the whole recipe `toy_cpu` takes half an hour (docs/training.md).
Images are crops of photographs from scikit-image and scikit-learn.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import dinodeploy
from dinov3_ref.data.toy.sets import write_toy
from dinov3_ref.train.__main__ import main as train

EPOCH = 10  # iterations
SIDE = 32  # pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("directory", nargs="?", type=Path, default=Path("trained"))
    parser.add_argument("--iterations", type=int, default=40)
    options = parser.parse_args()
    root: Path = options.directory
    toy, run, bundle, embeddings = (root / name for name in ("toy", "run", "bundle", "embeddings"))

    if not toy.exists():
        write_toy(toy, images=200, side=64, seed=0)
    # the same call again resumes from the newest checkpoint; the same as python -m dinov3_ref.train
    code = train([
        "--config", "toy_cpu", f"train.dataset_path={toy / 'pool'}",
        f"train.output_dir={run}", f"train.OFFICIAL_EPOCH_LENGTH={EPOCH}", "train.num_workers=0",
        "train.batch_size_per_gpu=16", f"optim.epochs={max(2, options.iterations // EPOCH)}",
        "teacher.warmup_teacher_temp_epochs=1", "checkpointing.period=20",
    ])  # fmt: skip
    if code != 0:
        sys.exit(code)
    dinodeploy.export(run / "teacher", bundle, imgsz=SIDE, no_engine=True, overwrite=True, progress=True)
    images = toy / "textures" / "test"
    dinodeploy.embed(images, engine=bundle, out=embeddings, overwrite=True, progress=True)
    ids, vectors = dinodeploy.load_embeddings(embeddings)
    report(run, list(ids), np.asarray(vectors))


def report(run: Path, ids: list[str], vectors: NDArray[Any]) -> None:
    """How the loss went, and how often the nearest image is of the same class."""
    lines = (run / "training_metrics.json").read_text().splitlines()
    losses = [json.loads(line)["total_loss"] for line in lines]
    print(f"loss: {losses[0]:.3f} at first, {losses[-1]:.3f} at last")
    nearest = search(vectors)
    classes = [Path(id_).parent.name for id_ in ids]
    right = np.mean([classes[row] == classes[found] for row, found in enumerate(nearest)])
    print(f"nearest to {Path(ids[0]).parent.name}/{Path(ids[0]).name}: {ids[nearest[0]]}")
    print(f"the nearest image is of the same class: {right:.1%} of {len(ids)}")


def search(vectors: NDArray[Any]) -> NDArray[Any]:
    """Embeddings [N,D] -> the row most like each, itself excluded, by cosine: [N]."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -1.0)
    nearest: NDArray[Any] = similarity.argmax(axis=1)
    return nearest


if __name__ == "__main__":
    main()
