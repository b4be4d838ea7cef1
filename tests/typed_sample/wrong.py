"""What a type checker has to find in somebody else's program; each line says which error it is."""

from __future__ import annotations

from dinodeploy import Embedder
from dinodeploy.batcher import Batcher
from dinodeploy.search import Index

with Embedder.open("bundle", device=0) as embedder:  # arg-type
    embedder.embed("cat.jpg", imgsz="224")  # arg-type
    embedder.embedd(["cat.jpg"])  # attr-defined
    with Batcher(embedder, max_batch="8") as batcher:  # arg-type
        vector: str = batcher.submit("cat.jpg").result()["cls"]  # assignment
with Index.open("embeddings") as index:
    index.search([0.0], nearest=3)  # call-arg
