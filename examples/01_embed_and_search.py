"""Similar pictures in three commands: embed a folder, index it, search it with a picture.

    python examples/01_embed_and_search.py PHOTOS QUERY.jpg --engine BUNDLE [--out embeddings] [-k 5]

The same, by hand:

    dinodeploy embed PHOTOS --engine BUNDLE --out embeddings
    dinodeploy index embeddings --engine BUNDLE
    dinodeploy search embeddings --image QUERY.jpg -k 5 --html similar.html

and then once more from Python, with the vectors in hand: normalise, multiply, take the largest.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

from dinodeploy import Embedder, load_embeddings
from dinodeploy.search import Index

PARTIAL = 5  # exit code: some pictures could not be read, the others are embedded


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("query", type=Path)
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("embeddings"))
    parser.add_argument("-k", type=int, default=5)
    options = parser.parse_args()

    dinodeploy("embed", options.photos, "--engine", options.engine, "--out", options.out)
    dinodeploy("index", options.out, "--engine", options.engine, "--overwrite")
    page = options.out.with_name("similar.html")
    dinodeploy("search", options.out, "--image", options.query, "-k", options.k, "--html", page)

    with Embedder.open(options.engine) as embedder, Index.open(options.out) as index:
        query = embedder.embed([options.query])["cls"]  # [1, D]
        found = [hit.id for hit in index.search(query, options.k)[0]]

    ids, vectors = load_embeddings(options.out)
    rows = np.asarray(vectors)  # [N, D]
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    similarities = (query / np.linalg.norm(query)) @ rows.T  # [1, N]
    by_hand = [ids[row] for row in np.argsort(-similarities[0], kind="stable")[: options.k]]
    print("Most similar images:", by_hand)
    print("the index agrees" if by_hand == found else f"the index says: {found}")


def dinodeploy(*arguments: object) -> None:
    """Run one command as a user would."""
    line = [str(argument) for argument in arguments]
    print("$ dinodeploy", *line, flush=True)
    run = subprocess.run([sys.executable, "-m", "dinodeploy.cli.app", *line], check=False)
    if run.returncode not in (0, PARTIAL):
        sys.exit(run.returncode)


if __name__ == "__main__":
    main()
