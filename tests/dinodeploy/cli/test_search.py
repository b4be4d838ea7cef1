"""The commands `index`, `search` and `dedupe` on real photographs."""

from __future__ import annotations

import html
import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dinodeploy import load_embeddings
from dinodeploy.bundle.manifest import read_manifest, write_manifest
from tests.support.images.photographs import PHOTOGRAPHS, photograph
from tests.support.processes.command_line import CommandLine, assert_refused

pytest.importorskip("lance")

SMALL = (160, 120)
ODD = "it's [bold] \x1b[31m\n😀.jpg"


@dataclass(frozen=True)
class Embedded:
    """photos/ and their embeddings/ in `root`."""

    root: Path
    bundle: Path
    ids: list[str]


@pytest.fixture(scope="module")
def made(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Embedded:
    """Made once; each test gets a copy."""
    import subprocess
    import sys

    root = tmp_path_factory.mktemp("search")
    (root / "photos" / "sub").mkdir(parents=True)
    for name in PHOTOGRAPHS:
        photograph(name).resize(SMALL).save(root / "photos" / f"{name}.jpg")
    photograph("chelsea").resize((320, 240)).save(root / "photos" / "sub" / "chelsea larger.png")
    photograph("rocket").resize((90, 120)).save(root / "photos" / ODD)
    shutil.copy(root / "photos" / "coffee.jpg", root / "photos" / "sub" / "coffee again.jpg")
    command = ["embed", "photos", "--engine", str(tiny_bundle), "--imgsz", "64", "--outputs", "cls,pooled"]
    program = f"import sys; sys.argv[1:] = {command!r}\nfrom dinodeploy.cli.app import main\nmain()"
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True, capture_output=True)
    return Embedded(root, tiny_bundle, load_embeddings(root / "embeddings")[0])


@pytest.fixture
def here(made: Embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Embedded:
    shutil.copytree(made.root, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Embedded(tmp_path, made.bundle, made.ids)


def test_three_commands(here: Embedded, run: CommandLine) -> None:
    """embed, index, search. An image is nearest to itself, then to a resized copy."""
    ran = run("index", "embeddings")
    assert ran.code == 0, ran.err
    assert "embeddings.index: 13 rows of dimension 128 (cls), exact search" in ran.out
    assert "next: dinodeploy search embeddings --image QUERY.jpg --engine BUNDLE" in ran.out
    photograph("chelsea").save(here.root / "query.jpg")
    ran = run("search", "embeddings", "--image", "query.jpg", "--engine", here.bundle, "-k", 3)
    assert ran.code == 0, ran.err
    head, *lines = ran.out.splitlines()
    assert head == "nearest to query.jpg:"
    assert len(lines) == 3
    assert {line.split("  ")[-1] for line in lines[:2]} == {
        "photos/chelsea.jpg",
        "photos/sub/chelsea larger.png",
    }
    as_json = run(
        "search", "embeddings", "--image", "query.jpg", "--engine", here.bundle, "-k", 3, "--json"
    ).json
    assert [hit["rank"] for hit in as_json[0]["hits"]] == [1, 2, 3]
    assert as_json[0]["query"] == "query.jpg"
    assert {"id", "cosine", "width", "height", "metadata"} <= set(as_json[0]["hits"][0])


def test_the_engine_is_remembered_and_compared(here: Embedded, run: CommandLine) -> None:
    ran = run("index", "embeddings", "--engine", here.bundle, "--output", "pooled", "--json")
    assert (ran.json["output"], ran.json["dim"], ran.json["engine"]) == ("pooled", 256, str(here.bundle))
    (hits,) = (
        one["hits"] for one in run("search", "embeddings", "--image", here.ids[0], "-k", 1, "--json").json
    )
    assert (hits[0]["id"], hits[0]["cosine"]) == (here.ids[0], pytest.approx(1, abs=1e-6))
    shutil.rmtree(here.root / "embeddings.index")
    run("index", "embeddings", "--engine", here.bundle)
    manifest = here.root / "embeddings.index" / "index.json"
    text = manifest.read_text().replace(str(here.bundle), str(here.root / "gone"))
    manifest.write_text(text)
    ran = run("search", "embeddings", "--image", here.ids[0])
    assert ran.code == 2
    assert "no such bundle" in ran.error


def test_another_engine_is_refused_with_the_differences(here: Embedded, run: CommandLine) -> None:
    other = here.root / "other"
    shutil.copytree(here.bundle, other)
    manifest = read_manifest(other)
    write_manifest(replace(manifest, model=replace(manifest.model, sha256="0" * 64)), other)
    for command in (
        ("index", "embeddings", "--engine", other),
        ("search", "embeddings", "--image", here.ids[0], "--engine", other),
    ):
        before = sorted(here.root.rglob("*"))
        assert_refused(run(*command), "did not make these embeddings (weights_sha256: ", here.root, before)
        if command[0] == "index":
            assert run("index", "embeddings").code == 0
    ran = run("search", "embeddings", "--image", here.ids[0], "--engine", "nothing")
    assert "no such bundle" in ran.error


def test_by_id_no_engine_is_needed(here: Embedded, run: CommandLine) -> None:
    run("index", "embeddings")
    ran = run("search", "embeddings", "--id", f"photos/{ODD}", "--id", here.ids[0], "-k", 20, "--json")
    assert ran.code == 0, ran.err
    odd, first = ran.json
    assert len(odd["hits"]) == len(first["hits"]) == 12, "an image is not its own neighbour"
    assert f"photos/{ODD}" in [hit["id"] for hit in first["hits"]]
    plain = run("search", "embeddings", "--id", here.ids[0], "-k", 20).out
    assert r"photos/it's [bold] \x1b[31m\n😀.jpg" in plain
    assert "\x1b" not in plain
    assert len(plain.splitlines()) == 13, "one line per image"


def test_metadata_filters_and_page(here: Embedded, run: CommandLine) -> None:
    rows = [f"{id_},{'cat' if 'chelsea' in id_ else 'thing'}" for id_ in here.ids if "\n" not in id_]
    Path("labels.csv").write_text("id,label\n" + "\n".join(rows) + "\nnobody.jpg,x\n")
    ran = run("index", "embeddings", "--metadata", "labels.csv")
    assert "[metadata] 12 of 13 images have a row in labels.csv; 1 of its rows have no image" in ran.err
    query = ("search", "embeddings", "--id", "photos/coffee.jpg", "--json")
    hits = run(*query, "--filter", "label = 'cat' and width > 200").json[0]["hits"]
    assert [(hit["id"], hit["metadata"]) for hit in hits] == [
        ("photos/sub/chelsea larger.png", {"label": "cat"})
    ]
    hits = run(*query, "--text-filter", "CHELSEA").json[0]["hits"]
    assert sorted(hit["id"] for hit in hits) == ["photos/chelsea.jpg", "photos/sub/chelsea larger.png"]
    ran = run(*query[:-1], "--filter", "label = 'dog'", "--html", "sheet.html")
    assert ran.code == 0
    assert "nothing matches the filter" in ran.out
    assert "nothing was found, label = 'dog'" in html.unescape(Path("sheet.html").read_text())


def test_a_page_with_images(here: Embedded, run: CommandLine) -> None:
    run("index", "embeddings")
    Path("photos/rocket.jpg").unlink()
    ran = run("search", "embeddings", "--id", "photos/coffee.jpg", "-k", 12, "--html", "sheet.html")
    assert "sheet.html: the same with images" in ran.out
    page = Path("sheet.html").read_text(encoding="utf-8")
    assert page.count("<img ") == 12, "the one asked for, and all but itself and the one that is gone"
    assert page.count("the original is not here") == 1
    assert "<script" not in page
    assert "\x1b" not in page
    assert 'src="data:image/jpeg;base64,' in page
    assert "http" not in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no query; give --image FILE, --text 'a red bicycle', or --id"),
        (("--image", "photos/coffee.jpg"), "give the bundle that embedded OUT as --engine"),
        (("--id", "nobody.jpg"), "'nobody.jpg' is not in the index"),
        (("--id", "photos/coffee.jpg", "-k", "0"), "-k is 0; wanted at least 1"),
        (("--id", "photos/coffee.jpg", "--filter", "width >"), "--filter 'width >': got the end"),
        (("--id", "photos/coffee.jpg", "--filter", "1=1); drop table images"), "is not valid"),
        (("--id", "photos/coffee.jpg", "--text-filter", ""), "--text-filter is empty"),
        (("--id", "photos/coffee.jpg", "--html", "photos"), "is a folder; wanted a file"),
        (("--id", "photos/coffee.jpg", "--html", "no/x.html"), "there is no folder no"),
        (("--image", "labels.txt", "--engine", "BUNDLE"), "labels.txt"),
    ],
)
def test_invalid_searches(here: Embedded, run: CommandLine, arguments: tuple[str, ...], words: str) -> None:
    run("index", "embeddings")
    Path("labels.txt").write_text("no image")
    before = sorted(here.root.rglob("*"))
    given = [str(here.bundle) if argument == "BUNDLE" else argument for argument in arguments]
    ran = run("search", "embeddings", *given)
    assert ran.code == 2
    assert words in ran.err
    assert "Traceback" not in ran.err
    assert ran.out == ""
    assert sorted(here.root.rglob("*")) == before


def test_embedding_again_makes_the_index_stale(here: Embedded, run: CommandLine) -> None:
    run("index", "embeddings")
    ran = run("embed", "photos/coffee.jpg", "--engine", here.bundle, "--overwrite")
    assert ran.code == 0, ran.err
    ran = run("search", "embeddings", "--id", "photos/coffee.jpg")
    assert (ran.code, "has changed since it was indexed" in ran.error) == (2, True)
    assert run("index", "embeddings", "--overwrite").code == 0
    assert run("search", "embeddings", "--id", "photos/coffee.jpg").code == 0


def test_faiss_with_a_new_and_an_existing_index(here: Embedded, run: CommandLine) -> None:
    pytest.importorskip("faiss")
    ran = run("index", "embeddings", "--faiss", "a.faiss")
    assert ran.code == 0, ran.err
    assert "a.faiss: IndexFlatIP, 13 rows; ids in a.faiss.ids.json" in ran.out
    ran = run("index", "embeddings", "--faiss", "b.faiss", "--json")
    assert ran.json["faiss"]["rows"] == 13
    assert Path("a.faiss").read_bytes() == Path("b.faiss").read_bytes()
    assert json.loads(Path("b.faiss.ids.json").read_text()) == here.ids
    ran = run("index", "embeddings", "--faiss", "c.faiss", "--output", "pooled")
    assert "already exists; pass --overwrite" in ran.error
    assert not Path("c.faiss").exists()


def test_dedupe(here: Embedded, run: CommandLine) -> None:
    ran = run("dedupe", "embeddings", "--threshold", 0.98, "--json")
    groups = [[member["id"] for member in group] for group in ran.json["groups"]]
    assert ["photos/sub/chelsea larger.png", "photos/chelsea.jpg"] in groups
    assert ["photos/coffee.jpg", "photos/sub/coffee again.jpg"] in groups
    ran = run("dedupe", "embeddings", "--threshold", 0.98, "--write", "drop.json", "--html", "d.html")
    assert ran.code == 0, ran.err
    assert "photos/sub/coffee again.jpg  exact copy" in ran.out
    assert f"{len(groups)} groups at a cosine of 0.98 or more" in ran.out
    assert json.loads(Path("drop.json").read_text()) == [id_ for group in groups for id_ in group[1:]]
    assert run("dedupe", "embeddings", "--threshold", 1, "--write", "drop.txt").code == 0
    assert Path("drop.txt").read_text() == "photos/sub/coffee again.jpg\n"
    page = Path("d.html").read_text(encoding="utf-8")
    assert page.count('type="checkbox"') == sum(map(len, groups))
    assert page.count(" checked>") == len(groups), "one of each group is kept"
    listed = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert json.loads(listed[0]) == [id_ for group in groups for id_ in group], "ids as they are"
    assert "exact copy" in page


def test_invalid_lists_of_dedupe(here: Embedded, run: CommandLine) -> None:
    shutil.copy(f"photos/{ODD}", f"photos/{ODD} again.jpg")
    run("embed", "photos", "--engine", here.bundle, "--imgsz", "64", "--overwrite")
    for name, words in (
        ("drop.csv", "ends in .txt or .json"),
        ("no/drop.txt", "in an existing folder"),
        ("drop.txt", "wanted a file that ends in .json"),
    ):
        ran = run("dedupe", "embeddings", "--write", name)
        assert ran.code == 2
        assert words in ran.err
        assert not Path(name).exists()
    assert run("dedupe", "embeddings", "--write", "drop.json").code == 0
    assert any("\n" in id_ for id_ in json.loads(Path("drop.json").read_text()))
    assert run("dedupe", "embeddings", "--threshold", "0.00001").code == 0
    assert run("dedupe", "embeddings", "--threshold", "2").code == 2
    assert run("dedupe", "nowhere").code == 2
