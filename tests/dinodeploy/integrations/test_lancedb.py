"""LanceDB tables that embed their own images, with the real LanceDB."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("lancedb")

import lancedb
from lancedb.embeddings import get_registry
from lancedb.pydantic import LanceModel, Vector

from dinodeploy import Embedder, ImageError, MisuseError
from dinodeploy.integrations.lancedb import NAME
from tests.support.images.photographs import photograph
from tests.support.tiny_models import ONNXRUNTIME

NAMES = ("chelsea", "coffee", "rocket")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photographs with spaces")
    for name in NAMES:
        photograph(name).resize((60, 40)).save(folder / f"{name}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def vectors(tiny_bundle: Path, photographs: list[Path]) -> Any:
    with Embedder.open(tiny_bundle, device=ONNXRUNTIME) as embedder:
        return embedder.encode(photographs, normalize=True, imgsz=32)


def make(bundle: Path | str, **options: Any) -> Any:
    options = {"device": ONNXRUNTIME, "threads": 1, "imgsz": 32, **options}
    return get_registry().get(NAME).create(bundle=str(bundle), **options)


def table_of(folder: Path, embed: Any, source: type = str) -> Any:
    class Photo(LanceModel):
        image: source = embed.SourceField()  # type: ignore[valid-type]
        vector: Vector(embed.ndims()) = embed.VectorField()  # type: ignore[valid-type]

    return lancedb.connect(folder).create_table("photos", schema=Photo)


def found(table: Any, query: Any) -> list[tuple[str, float]]:
    rows = table.search(query).limit(2).to_list()
    return [(Path(row["image"]).stem, round(row["_distance"], 5)) for row in rows]


def test_a_table_of_paths(tiny_bundle: Path, photographs: list[Path], vectors: Any, tmp_path: Path) -> None:
    table = table_of(tmp_path, make(tiny_bundle))
    table.add([{"image": str(path)} for path in photographs[:2]] + [{"image": photographs[2].as_uri()}])
    stored = table.to_arrow()["vector"].combine_chunks().flatten().to_numpy().reshape(3, -1)
    np.testing.assert_allclose(stored, vectors, atol=1e-6)  # 2e-7 measured: batches differ
    table = lancedb.connect(tmp_path).open_table("photos")  # from its metadata
    coffee = photographs[1]
    wanted = found(table, vectors[1])
    assert wanted[0] == ("coffee", 0)
    for query in (coffee, str(coffee), coffee.as_uri(), coffee.read_bytes(), Image.open(coffee)):
        assert found(table, query) == wanted


def test_a_column_of_bytes(tiny_bundle: Path, photographs: list[Path], vectors: Any, tmp_path: Path) -> None:
    table = table_of(tmp_path, make(tiny_bundle, output="pooled", normalize=False), bytes)
    table.add([{"image": path.read_bytes()} for path in photographs])
    stored = table.to_arrow()["vector"].combine_chunks().flatten().to_numpy().reshape(3, -1)
    dim = vectors.shape[1]
    assert stored.shape == (3, 2 * dim)
    lengths = np.linalg.norm(stored[:, :dim], axis=1, keepdims=True)
    np.testing.assert_allclose(stored[:, :dim] / lengths, vectors, atol=1e-6)
    assert table.search(Image.open(photographs[2])).limit(1).to_list()[0]["_distance"] == 0


def test_nulls_and_lists(tiny_bundle: Path, photographs: list[Path], vectors: Any) -> None:
    embed = make(tiny_bundle)
    made = embed.compute_source_embeddings([None, photographs[0], np.asarray(Image.open(photographs[1]))])
    assert made[0] is None
    np.testing.assert_allclose(np.stack(made[1:]), vectors[:2], atol=1e-6)
    assert len(embed.compute_source_embeddings(photographs[0])) == 1
    assert embed.compute_source_embeddings([]) == []


def test_the_table_refuses_another_bundle(tiny_bundle: Path, photographs: list[Path], tmp_path: Path) -> None:
    """The path is the same, or a variable; what is there is not."""
    registry = get_registry()
    registry.set_var("bundle", str(tiny_bundle))
    table = table_of(tmp_path, make("$var:bundle"))
    table.add([{"image": str(photographs[0])}])
    (stored,) = json.loads(table.schema.metadata[b"embedding_functions"])
    assert stored["model"]["bundle"] == "$var:bundle"
    made_by = stored["model"]["fingerprint"]
    assert made_by["preprocess"]["height"] == 32
    assert make(tiny_bundle, fingerprint=made_by).ndims() == 128
    other = make(tiny_bundle, fingerprint={**made_by, "engine_sha256": "0" * 64})
    for use in (other.ndims, lambda: other.compute_query_embeddings(photographs[0])):
        with pytest.raises(MisuseError, match=r"did not make these embeddings \(engine_sha256: 0000"):
            use()


@pytest.mark.slow
def test_words(words_bundle: Path, photographs: list[Path], tmp_path: Path) -> None:
    embed = make(words_bundle, imgsz=None)
    table = table_of(tmp_path, embed)
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    Image.new("RGB", (32, 32), "blue").save(tmp_path / "blue.png")
    table.add([{"image": str(tmp_path / "red.png")}, {"image": str(tmp_path / "blue.png")}])
    table = lancedb.connect(tmp_path).open_table("photos")
    assert found(table, "a red background")[0][0] == "red"
    assert found(table, "a blue background")[0][0] == "blue"
    assert found(table, tmp_path / "blue.png")[0] == ("blue", 0)
    with pytest.raises(MisuseError, match="a text is compared with the output image_embedding"):
        make(words_bundle, output="patch_embedding").compute_query_embeddings("a red background")


def test_an_unreadable_image_fails_at_once(tiny_bundle: Path, tmp_path: Path) -> None:
    """LanceDB would wait and try again seven times."""
    table = table_of(tmp_path, make(tiny_bundle))
    with pytest.raises(RuntimeError, match=r"image number 0: .*missing\.png"):  # as LanceDB tells it
        table.add([{"image": str(tmp_path / "missing.png")}])
    with pytest.raises(ImageError, match="a red bicycle"):
        table.search("a red bicycle")
    with pytest.raises(MisuseError, match="got an image of type int; wanted bytes, a path"):
        make(tiny_bundle).compute_source_embeddings([3])


def test_misuse(tiny_bundle: Path) -> None:
    with pytest.raises(MisuseError, match="output 'patch' is no vector; wanted cls, mean_patch, pooled or"):
        make(tiny_bundle, output="patch").ndims()
    with pytest.raises(MisuseError, match="no such bundle"):
        make("nowhere").ndims()


@pytest.mark.slow
def test_it_needs_no_torch(tiny_bundle: Path) -> None:
    program = """
import sys
sys.modules["torch"] = None
import dinodeploy.integrations.lancedb
from lancedb.embeddings import get_registry
embed = get_registry().get("dinodeploy").create(bundle=sys.argv[1], device="onnxruntime")
assert embed.ndims() == 128
"""
    subprocess.run([sys.executable, "-c", program, str(tiny_bundle)], check=True, timeout=120)
