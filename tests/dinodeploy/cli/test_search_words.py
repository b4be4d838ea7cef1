"""Words on the command line: search --text, classify and segment with a model that was trained on texts."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from dinodeploy import Embedder
from tests.support.processes.command_line import CommandLine
from tests.support.text.words import SHAPES, write_shapes

pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def made(words_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """shapes/, and their embeddings with an index."""
    pytest.importorskip("lance")
    from dinodeploy import embed
    from dinodeploy.search import build_index

    root = tmp_path_factory.mktemp("words")
    write_shapes(root / "shapes", SHAPES)
    embed(root / "shapes", engine=words_bundle, out=root / "store", outputs=("image_embedding",))
    build_index(root / "store", output="image_embedding", engine=words_bundle)
    return root


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def caption(name: str) -> str:
    shape, colour, texture, ground, size = SHAPES[name]
    return f"a {size} {colour} {shape} on a {texture} {ground} background"


def test_every_caption_finds_its_image(here: Path, run: CommandLine) -> None:
    texts = [word for name in SHAPES for word in ("--text", caption(name))]
    ran = run("search", "store", *texts, "-k", "1", "--json", "--html", "page.html")
    assert ran.code == 0, ran.err
    assert [(one["query"], Path(one["hits"][0]["id"]).name) for one in ran.json] == [
        (caption(name), name) for name in SHAPES
    ]
    page = (here / "page.html").read_text("utf-8")
    assert page.count("<section>") == len(SHAPES)
    assert f">{caption('a.png')}</h2>" in page
    assert page.count("data:image/jpeg") == len(SHAPES), "a text shows no image of its own"


def test_a_text_and_an_image_are_one_query(here: Path, words_bundle: Path, run: CommandLine) -> None:
    """The cosines are those of the weighted sum of both directions."""
    with Embedder.open(words_bundle) as embedder:
        stored = embedder.encode(
            [f"shapes/{name}" for name in SHAPES], output="image_embedding", normalize=True
        )
        text = embedder.encode_text(caption("d.png"), normalize=True)
    for weight in ("0", "0.6", "1"):
        query = ("--image", "shapes/b.png", "--text", caption("d.png"), "--text-weight", weight, "-k", "6")
        ran = run("search", "store", *query, "--json")
        assert ran.code == 0, ran.err
        (one,) = ran.json
        assert one["query"] == f"{caption('d.png')} and shapes/b.png"
        mixed = (1 - float(weight)) * stored[1] + float(weight) * text
        wanted = dict(zip(SHAPES, (stored @ (mixed / np.linalg.norm(mixed))).tolist(), strict=True))
        found = {Path(hit["id"]).name: hit["cosine"] for hit in one["hits"]}
        assert found == pytest.approx(wanted, abs=1e-4)
    by_id = run("search", "store", "--id", made_id(run, "b.png"), "--text", caption("d.png"), "-k", "6")
    assert by_id.code == 0, by_id.err
    assert "b.png" not in by_id.out.split(":", 1)[1], "an image that was asked for is no answer"


def made_id(run: CommandLine, name: str) -> str:
    ran = run("search", "store", "--text", caption(name), "-k", "1", "--json")
    found: str = ran.json[0]["hits"][0]["id"]
    return found


def test_stores_of_other_outputs_and_models_are_refused(
    here: Path, tiny_bundle: Path, run: CommandLine
) -> None:
    ran = run("search", "store", "--text", "a red circle", "--engine", tiny_bundle)
    assert ran.code == 2
    assert "did not make these embeddings (" in ran.error
    run("embed", "shapes", "--engine", tiny_bundle, "--out", "plain")
    run("index", "plain", "--engine", tiny_bundle)
    ran = run("search", "plain", "--text", "a red circle")
    assert ran.code == 2
    assert (
        "the index is of the output cls; a text is compared with image_embedding: dinodeploy embed"
        in ran.error
    )
    assert json.dumps(ran.out) == '""'
    ran = run("search", "store")
    assert re.search("no query; give --image FILE, --text 'a red bicycle', or --id", ran.error)
