"""Words over HTTP: search by text, zero-shot classes, and one line for every reason why not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dinodeploy import Embedder, MisuseError
from dinodeploy.serve.settings import Settings
from dinodeploy.serve.words import Words
from tests.support.images.image_files import encoded
from tests.support.processes.live_service import Live, live
from tests.support.text.words import SHAPES, write_shapes

pytest.importorskip("lance")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    write_shapes(folder / "shapes", SHAPES)
    (folder / "labels.txt").write_text("circle\nstar\ncross\ncircle\n")
    return folder


@pytest.fixture(scope="module")
def service(words_bundle: Path, folder: Path) -> Iterator[Live]:
    from dinodeploy import embed
    from dinodeploy.search import build_index

    embed(folder / "shapes", engine=words_bundle, out=folder / "store", outputs=("image_embedding",))
    build_index(folder / "store", output="image_embedding")
    with live(words_bundle, index=folder / "store", labels=folder / "labels.txt", templates="none") as client:
        yield client


def test_words_find_images(service: Live) -> None:
    for name, (shape, colour, texture, ground, size) in SHAPES.items():
        text = f"a {size} {colour} {shape} on a {texture} {ground} background"
        found = service.get("/search", params={"text": text, "k": 2})
        assert found.status_code == 200, found.text
        assert Path(found.json()["results"][0]["id"]).name == name
    model = service.get("/model").json()
    assert (model["texts"], model["labels"], model["index_output"]) == (True, 3, "image_embedding")
    one = service.get("/search", params={"text": "a star", "filter": "id like '%a.png'"}).json()["results"]
    assert [Path(hit["id"]).name for hit in one] == ["a.png"]


def test_probabilities_are_those_of_the_embeddings(service: Live, words_bundle: Path, folder: Path) -> None:
    names = ["a red circle", "a yellow star"]
    files = [("files", (name, (folder / "shapes" / name).read_bytes())) for name in ("a.png", "b.png")]
    found = service.post("/classify", files=files, params={"label": names, "template": "{}", "top": 2})
    assert found.status_code == 200, found.text
    images = found.json()["images"]
    assert [image["classes"][0]["class"] for image in images] == names
    with Embedder.open(words_bundle) as embedder:
        texts = embedder.encode_text(names, normalize=True).astype(np.float64)
        seen = embedder.encode(
            [folder / "shapes" / name for name in ("a.png", "b.png")],
            output="image_embedding",
            normalize=True,
        )
        scale = embedder.manifest.text.logit_scale  # type: ignore[union-attr]
    wanted = np.exp(scale * seen @ texts.T)
    wanted /= wanted.sum(axis=1, keepdims=True)
    for row, image in zip(wanted, images, strict=True):
        got = {one["class"]: one["probability"] for one in image["classes"]}
        assert got == pytest.approx(dict(zip(names, row.tolist(), strict=True)), abs=1e-4)
    own = service.post("/classify", files=files[:1], params={"top": 9}).json()["images"][0]["classes"]
    assert {one["class"] for one in own} == {"circle", "star", "cross"}


@pytest.mark.parametrize(
    ("params", "status", "message"),
    [
        ({"label": ["x"] * 65}, 413, "65 labels; wanted at most 64"),
        ({"label": ["cat"], "template": "a photo"}, 422, "wanted {} once in the template"),
        ({"label": [" "]}, 422, "label 1 is empty"),
        ({"label": ["x" * 1001]}, 422, "at most 1000 characters"),
    ],
)
def test_labels_that_cannot_be_used(
    service: Live, params: dict[str, object], status: int, message: str
) -> None:
    files = [("files", ("a.jpg", encoded("coffee")))]
    answer = service.post("/classify", files=files, params=params)  # type: ignore[arg-type]
    assert (answer.status_code, message in answer.json()["error"]) == (status, True), answer.text


def test_a_service_without_texts_says_so(tiny_bundle: Path, folder: Path) -> None:
    from dinodeploy import embed
    from dinodeploy.search import build_index

    embed(folder / "shapes", engine=tiny_bundle, out=folder / "plain")
    build_index(folder / "plain")
    with live(tiny_bundle, index=folder / "plain") as client:
        answers = [
            client.get("/search", params={"text": "a cat"}),
            client.post(
                "/classify", files=[("files", ("a.jpg", encoded("coffee")))], params={"label": "cat"}
            ),
        ]
        assert client.get("/model").json()["texts"] is False
        bundle = client.service.embedder.bundle
        with pytest.raises(MisuseError, match=r"--labels: .* has no text graph"):
            Words.open(bundle, Settings(tiny_bundle, labels=folder / "labels.txt"))
    assert [answer.status_code for answer in answers] == [404, 404]
    assert all("no text graph; serve the bundle of a dino.txt model" in answer.text for answer in answers)
