"""Find similar images: embed a folder, index it, search it with an image.

    python examples/01_embed_and_search.py PHOTOS QUERY.jpg --engine BUNDLE [--out embeddings] [-k 5]

The same on the command line:

    dinodeploy embed PHOTOS --engine BUNDLE --out embeddings
    dinodeploy index embeddings --engine BUNDLE
    dinodeploy search embeddings --image QUERY.jpg -k 5 --html similar.html

At the end numpy checks the result: normalise, multiply, take the largest.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import dinodeploy
from dinodeploy.search import Index, build_index
from dinodeploy.search.sheets import Asked, search_sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("query", type=Path)
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("embeddings"))
    parser.add_argument("-k", type=int, default=5)
    options = parser.parse_args()

    report = dinodeploy.embed(options.photos, engine=options.engine, out=options.out, progress=True)
    print(f"{report.out}: {report.embedded} images embedded, {report.quarantined} quarantined")
    build_index(options.out, engine=options.engine, overwrite=True)

    with dinodeploy.Embedder.open(options.engine, outputs=("cls",)) as embedder:
        query = embedder.encode(options.query, normalize=True)  # [D]
    with Index.open(options.out) as index:
        (hits,) = index.search(query[np.newaxis], options.k)
    page = options.out.with_name("similar.html")
    asked = [Asked(str(options.query), str(options.query), hits)]
    page.write_text(search_sheet(options.out.name, "", asked), encoding="utf-8")
    for hit in hits:
        print(f"{hit.rank:>4}  {hit.cosine:.4f}  {hit.id}")
    print(f"{page}: the same with images")

    ids, vectors = dinodeploy.load_embeddings(options.out)
    rows = np.asarray(vectors)  # [N, D]
    similarities = rows @ query / np.linalg.norm(rows, axis=1)  # [N]
    with_numpy = [ids[row] for row in np.argsort(-similarities, kind="stable")[: options.k]]
    print("Most similar images:", with_numpy)
    found = [hit.id for hit in hits]
    print("the index agrees" if with_numpy == found else f"the index found: {found}")


if __name__ == "__main__":
    main()
