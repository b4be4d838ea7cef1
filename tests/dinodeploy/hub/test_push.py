"""Upload to a hub: everything at first, then what changed; what is said, refused, left alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dinodeploy import Embedder, embed, load_embeddings
from dinodeploy.bundle.bundle import file_facts
from dinodeploy.bundle.manifest import read_manifest, write_manifest
from dinodeploy.errors import DinodeployError, HubError, MisuseError, OutputExistsError, TamperedError
from dinodeploy.hub.pull import pull
from dinodeploy.hub.push import push
from tests.support.hub.server import READER, Hub
from tests.support.images.photographs import photograph

# of the library, which hands bytes to its own HTTP client in an old way
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw:DeprecationWarning")

TOY = Path(__file__).parents[2] / "data" / "format1_bundle"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TOY, tmp_path / "bundle"))


def refusal(kind: type[DinodeployError], *arguments, **options) -> str:
    with pytest.raises(kind) as caught:
        push(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_there_and_back_is_the_same_bundle(hub: Hub, bundle: Path, tmp_path: Path) -> None:
    """Byte for byte, and so are the embeddings of a folder, from a copy and straight from the hub."""
    (tmp_path / "photos").mkdir()
    for name in ("chelsea", "coffee"):
        photograph(name).save(tmp_path / "photos" / f"{name}.png")
    said: list[str] = []
    pushed = push(bundle, "org/toy", log=said.append)
    assert (pushed.creates, pushed.private, pushed.removed) == (True, False, ())
    assert pushed.commit == hub.head("org/toy")
    assert set(hub.files("org/toy")) == {".gitattributes", "README.md", "LICENSE.txt", *contents(bundle)}
    assert any(line.startswith("upload     model.onnx  339,724 bytes") for line in said)
    assert any(line.startswith("licence    DINOv3 weights") for line in said)
    pulled = pull("org/toy", tmp_path / "copy")
    assert pulled.source == f"hf://org/toy@{pushed.commit}"
    copied = contents(tmp_path / "copy")
    assert copied.pop("LICENSE.txt") == hub.files("org/toy")["LICENSE.txt"]
    assert copied == contents(bundle)
    stores = {}
    for name, engine in (("a", bundle), ("b", tmp_path / "copy"), ("c", "hf://org/toy")):
        report = embed([tmp_path / "photos"], engine=engine, out=tmp_path / name, device="onnxruntime")
        stores[name] = report, json.loads((tmp_path / name / "embeddings.json").read_text())
    for name in "bc":
        assert stores[name][1] == stores["a"][1], "fingerprint and hash of every file"
        assert (load_embeddings(tmp_path / name)[1] == load_embeddings(tmp_path / "a")[1]).all()  # type: ignore[union-attr,attr-defined]
    assert stores["c"][0].engine == f"hf://org/toy/model.cpu.cls.onnx@{pushed.commit}"


def test_a_job_whose_branch_moved_is_noticed(hub: Hub, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    photograph("coffee").save(tmp_path / "photos" / "coffee.png")
    job = {"engine": "hf://org/toy", "out": tmp_path / "out", "device": "onnxruntime"}
    push(bundle, "org/toy")
    embed([tmp_path / "photos"], **job)  # type: ignore[arg-type]
    weights = bytearray((bundle / "model.onnx").read_bytes())
    weights[len(weights) // 2] ^= 1
    (bundle / "model.onnx").write_bytes(weights)
    manifest = read_manifest(bundle)
    files = {**manifest.files, "model.onnx": file_facts(bundle / "model.onnx")}
    write_manifest(replace(manifest, files=files), bundle)
    push(bundle, "org/toy")
    with pytest.raises(OutputExistsError, match="holds other embeddings"):
        embed([tmp_path / "photos"], allow_unverified=True, **job)  # type: ignore[arg-type]


def test_only_what_changed_is_uploaded(hub: Hub, bundle: Path) -> None:
    push(bundle, "org/toy")
    first = hub.head("org/toy")
    hub.asked.clear()
    again = push(bundle, "org/toy")
    assert (again.uploaded, again.commit) == ({}, first)
    assert hub.head("org/toy") == first, "no empty commit"
    receipts = json.loads((bundle / "parity.json").read_text())
    receipts["receipts"] = receipts["receipts"][:1]
    (bundle / "parity.json").write_text(json.dumps(receipts))
    hub.asked.clear()
    third = push(bundle, "org/toy", message="judged again")
    assert set(third.uploaded) == {"parity.json", "README.md"}
    assert [method for method, _, _ in hub.asked].count("UPLOAD") == 0, "no large file"
    assert hub.repositories["org/toy"].messages[-1] == "judged again"


def test_what_an_older_bundle_left_is_removed_and_nothing_else(hub: Hub, bundle: Path) -> None:
    push(bundle, "org/toy")
    hub.files("org/toy")["notes.md"] = b"by hand"
    hub.files("org/toy")["model.sig"] = b"of the older bundle"
    manifest = read_manifest(bundle)
    gone = "model.cls.onnx"
    engines = {name: facts for name, facts in manifest.engines.items() if name != gone}
    files = {name: facts for name, facts in manifest.files.items() if name != gone}
    write_manifest(replace(manifest, engines=engines, files=files), bundle)
    said: list[str] = []
    pushed = push(bundle, "org/toy", log=said.append)
    assert pushed.removed == (gone, "model.sig")
    assert f"remove     {gone}" in said
    assert gone not in hub.files("org/toy")
    assert hub.files("org/toy")["notes.md"] == b"by hand"


def test_a_folder_and_a_branch(hub: Hub, bundle: Path) -> None:
    push(bundle, "org/many/fp32")
    push(bundle, "org/many/fp16", revision="trial")
    assert "fp32/manifest.json" in hub.files("org/many")
    assert "fp16/manifest.json" not in hub.files("org/many")
    assert {"fp32/model.onnx", "fp16/model.onnx"} <= set(hub.files("org/many", "trial"))
    card = hub.files("org/many", "trial")["README.md"].decode()
    assert "--engine hf://org/many/fp32 " in card
    assert "--engine hf://org/many/fp16@trial " in card
    for text in ("hf://org/many/fp32", "hf://org/many/fp16@trial"):
        with Embedder.open(text, device="onnxruntime") as embedder:
            assert embedder.bundle.hub is not None


def test_private_and_gated(hub: Hub, bundle: Path) -> None:
    pushed = push(bundle, "org/toy", private=True, gated=True)
    assert pushed.private
    assert hub.repositories["org/toy"].private
    assert hub.repositories["org/toy"].gated == "auto"
    push(bundle, "org/open")
    message = refusal(MisuseError, bundle, "org/open", private=True)
    assert "org/open exists and is public" in message


def test_a_dry_run_changes_nothing(hub: Hub, bundle: Path) -> None:
    pushed = push(bundle, "org/toy", dry_run=True)
    assert pushed.creates
    assert pushed.commit is None
    assert "model.onnx" in pushed.uploaded
    assert hub.repositories == {}


@pytest.mark.parametrize("name", ["model.onnx", "golden.safetensors"])
def test_a_bundle_that_does_not_verify_is_refused(hub: Hub, bundle: Path, name: str) -> None:
    content = (bundle / name).read_bytes()
    (bundle / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert name in refusal(TamperedError, bundle, "org/toy")
    assert hub.asked == []


def test_without_the_right_to_write(hub: Hub, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", READER)
    message = refusal(HubError, bundle, "org/toy")
    assert "this token may not do that (403)" in message
    assert "rights to create a model" in message
    monkeypatch.delenv("HF_TOKEN")
    assert "needs a token with write access: hf auth login, or set HF_TOKEN" in refusal(
        HubError, bundle, "org/toy"
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refusal(HubError, bundle, "org/toy")


def test_a_commit_and_somebody_elses_commit(hub: Hub, bundle: Path) -> None:
    push(bundle, "org/toy")
    commit = hub.head("org/toy")
    assert "cannot be pushed to" in refusal(MisuseError, bundle, "org/toy", revision=commit)
    (bundle / "parity.json").unlink()

    def meanwhile(text: str) -> None:
        hub.repositories["org/toy"].commit("main", {**hub.files("org/toy"), "x": b""})

    message = refusal(HubError, bundle, "org/toy", log=meanwhile)
    assert "(412)" in message
    assert "A commit has happened since" in message


def test_from_one_repository_to_another(hub: Hub, bundle: Path) -> None:
    push(bundle, "org/toy")
    push("hf://org/toy", "other/toy")
    ours, theirs = hub.files("org/toy"), hub.files("other/toy")
    assert {name: content for name, content in ours.items() if name != "README.md"} == {
        name: content for name, content in theirs.items() if name != "README.md"
    }


def test_the_vectors_are_those_of_the_folder(hub: Hub, bundle: Path) -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    push(bundle, "org/toy")
    with Embedder.open("hf://org/toy", device="onnxruntime") as there, Embedder.open(bundle) as here:
        assert (there.encode(image) == here.encode(image)).all()
