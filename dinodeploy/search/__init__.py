"""Search embeddings: an index beside the store, queries by image, id or vector, and near-duplicates.

    from dinodeploy.search import Index, build_index

    build_index("embeddings")                         # embeddings.index: a LanceDB table and a manifest
    update_index("embeddings")                        # after `embed --update`
    with Index.open("embeddings") as index:
        hits = index.search(vectors, k=10, filter="width > 640")   # [Q, D] -> a list of Hit per query

Similarity is always cosine similarity. `pip install 'dinodeploy[search]'`.
"""

from __future__ import annotations

from dinodeploy.search.build import build_index
from dinodeploy.search.duplicates import Duplicates, find_duplicates
from dinodeploy.search.index import Hit, Index
from dinodeploy.search.update import IndexUpdate, update_index

__all__ = [
    "Duplicates",
    "Hit",
    "Index",
    "IndexUpdate",
    "build_index",
    "find_duplicates",
    "update_index",
]
