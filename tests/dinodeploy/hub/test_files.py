"""A bundle on the hub as an engine: what is downloaded, what is kept, what is refused, offline."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from dinodeploy import Embedder, HubError
from dinodeploy.bundle.bundle import file_facts, locate, open_bundle, pinned
from dinodeploy.bundle.manifest import parse_manifest, read_manifest, write_manifest
from dinodeploy.errors import BundleError, DinodeployError, MisuseError, TamperedError
from tests.support.hub.server import Hub

TOY = Path(__file__).parents[2] / "data" / "format1_bundle"
NOWHERE = "http://127.0.0.1:9"  # nothing listens there
IMAGE = np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3)
GPU_FILES = {"model.cls.onnx", "model.cpu.cls.onnx"}


@pytest.fixture
def held(hub: Hub, tmp_path: Path) -> Hub:
    """A hub with the toy bundle at org/toy, and nothing in any cache."""
    hub.hold("org/toy", TOY)
    return hub


def vector(engine: str | Path, **options) -> np.ndarray:
    with Embedder.open(engine, device="onnxruntime", **options) as embedder:
        return embedder.embed([IMAGE])["cls"]


@cache
def local_vector() -> np.ndarray:
    """Of the toy bundle in a folder; a copy, since a new runtime writes its receipt beside the graphs."""
    with TemporaryDirectory() as folder:
        return vector(shutil.copytree(TOY, Path(folder) / "bundle"))


def refusal(kind: type[DinodeployError], action: Callable[[], object]) -> str:
    with pytest.raises(kind) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes are given once in a process."""
    from dinodeploy.files import notes

    notes.note_once.cache_clear()


def rewritten(folder: Path, **changes) -> None:
    """The manifest with changes, its digest right again."""
    write_manifest(replace(read_manifest(folder), **changes), folder)


# ---- what is downloaded ------------------------------------------------------------------------


def test_only_what_runs_is_downloaded_once(held: Hub) -> None:
    assert (vector("hf://org/toy") == local_vector()).all()
    needed = {"model.cpu.onnx", "model.onnx", "golden.safetensors"}  # model.onnx: weights of format 1
    assert set(held.downloaded()) == {"manifest.json", "parity.json", *needed}
    held.asked.clear()
    assert (vector("hf://org/toy") == local_vector()).all()
    assert held.downloaded() == []
    assert {method for method, _, _ in held.asked} == {"HEAD"}


def test_files_come_when_they_are_first_needed(held: Hub) -> None:
    with Embedder.open("hf://org/toy", device="onnxruntime") as embedder:
        assert "model.cpu.cls.onnx" not in held.downloaded()
        embedder.encode(IMAGE)
        assert "model.cpu.cls.onnx" in held.downloaded()
        assert "model.cls.onnx" not in held.downloaded()


def test_a_plan_for_another_machine_is_not_downloaded(hub: Hub, tmp_path: Path) -> None:
    from dinodeploy.bundle.manifest import BuildFacts, EngineFacts, ProfileFacts

    folder = Path(shutil.copytree(TOY, tmp_path / "bundle"))
    (folder / "model.plan").write_bytes(b"a plan")
    manifest = read_manifest(folder)
    shape = (1, 48, 64)
    sha256 = manifest.engine_sha256("model.onnx")
    build = BuildFacts(
        "tensorrt 10.3.0", "model.onnx", sha256, (ProfileFacts(shape, shape, shape),), ("8.9",), None,
        False, "none", False, False, False, None,
    )  # fmt: skip
    plan = EngineFacts("tensorrt", ("model.plan",), build)
    facts = file_facts(folder / "model.plan")
    rewritten(
        folder,
        engines={**manifest.engines, "model.plan": plan},
        files={**manifest.files, "model.plan": facts},
    )
    hub.hold("org/toy", folder)
    assert (vector("hf://org/toy") == local_vector()).all()
    with Embedder.open("hf://org/toy") as embedder:  # auto, which prefers plans
        assert embedder.engine.file == "model.cpu.onnx"
    assert "model.plan" not in hub.downloaded()
    assert open_bundle("hf://org/toy").present() == ("model.onnx", "model.cpu.onnx", "golden.safetensors")


def test_the_judge_receipts_and_links_are_outside_the_hubs_cache(held: Hub, tmp_path: Path) -> None:
    with Embedder.open("hf://org/toy", device="onnxruntime") as embedder:
        root = embedder.bundle.root
        embedder.check()
    assert root == tmp_path / "xdg" / "dinodeploy" / "hub" / "org--toy" / embedder.manifest.digest
    blobs = tmp_path / "cache" / "models--org--toy" / "blobs"
    for name in ("model.onnx", "golden.safetensors"):
        assert not (root / name).is_symlink(), "runtimes and checks want files"
        assert any(blob.samefile(root / name) for blob in blobs.iterdir()), "not a second copy"
    kept = json.loads((root / "parity.json").read_text())["receipts"]
    assert any(one["judged_sha256"] for one in kept)
    assert held.files("org/toy")["parity.json"] == (TOY / "parity.json").read_bytes()


def test_files_are_copied_where_they_cannot_be_linked(held: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_disk(*args: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", other_disk)
    assert (vector("hf://org/toy") == local_vector()).all()


def test_a_folder_of_a_repository_and_an_engine_file(hub: Hub, tmp_path: Path) -> None:
    shutil.copytree(TOY, tmp_path / "repository" / "sub" / "fp32")
    commit = hub.hold("org/many", tmp_path / "repository")
    for text in ("hf://org/many/sub/fp32", "hf://org/many@main/sub/fp32", f"hf://org/many/sub/fp32@{commit}"):
        bundle, file = locate(text)
        assert (bundle.named, file) == (f"hf://org/many/sub/fp32@{commit}", None)
    bundle, file = locate(Path("hf://org/many/sub/fp32/model.onnx"))
    assert (bundle.named, file) == (f"hf://org/many/sub/fp32@{commit}", "model.onnx")
    assert bundle.choose(file).named == f"hf://org/many/sub/fp32/model.onnx@{commit}"
    assert bundle.name == "fp32"
    assert (vector("hf://org/many/sub/fp32") == local_vector()).all()
    message = refusal(BundleError, lambda: locate("hf://org/many/sub/fp32/model.plan"))
    assert f"hf://org/many/sub/fp32@{commit} has no engine 'model.plan'" in message


# ---- revisions ---------------------------------------------------------------------------------


def moved(hub: Hub, tmp_path: Path) -> str:
    """The branch gets another commit: the same bundle at another input size."""
    folder = Path(shutil.copytree(TOY, tmp_path / "moved"))
    manifest = read_manifest(folder)
    rewritten(folder, preference=tuple(reversed(manifest.order)))
    return hub.hold("org/toy", folder)


def test_a_branch_is_resolved_once_to_its_commit(held: Hub, tmp_path: Path) -> None:
    first = held.head("org/toy")
    with Embedder.open("hf://org/toy", device="onnxruntime") as embedder:
        second = moved(held, tmp_path)
        assert embedder.bundle.named == f"hf://org/toy@{first}"
        assert first in embedder.choice
        embedder.encode(IMAGE)  # fetches another file: of the same commit
        again = pickle.loads(pickle.dumps(embedder))
        assert again.bundle.named == f"hf://org/toy@{first}", "a worker opens what this process opened"
        again.close()
    assert open_bundle("hf://org/toy").named == f"hf://org/toy@{second}"
    assert pinned("hf://org/toy/model.onnx") == f"hf://org/toy/model.onnx@{second}"
    assert pinned(TOY) == TOY


def test_a_pinned_commit_needs_no_request_the_second_time(held: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = f"hf://org/toy@{held.head('org/toy')}"
    vector(engine)
    held.asked.clear()
    vector(engine)
    assert held.asked == []
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    vector(engine)


# ---- without a network -------------------------------------------------------------------------


def test_offline_from_the_cache(held: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = refusal(HubError, lambda: vector("hf://org/toy"))
    assert "HF_HUB_OFFLINE is set" in message
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    wanted = vector("hf://org/toy")
    held.asked.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert (vector("hf://org/toy") == wanted).all()
    assert (vector("hf://org/toy/model.cpu.onnx") == wanted).all()
    message = refusal(HubError, lambda: open_bundle("hf://org/toy").verify())
    assert "model.cls.onnx" in message
    assert "is not in the cache, and HF_HUB_OFFLINE is set" in message
    assert held.asked == []


def test_offline_from_what_the_librarys_own_command_downloaded(
    held: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`hf download org/toy` on a machine with a network, then a container without one."""
    import huggingface_hub

    huggingface_hub.snapshot_download("org/toy", endpoint=held.endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert (vector("hf://org/toy") == local_vector()).all()
    open_bundle("hf://org/toy").verify()


def test_a_lost_network_uses_the_cache_and_says_so(
    held: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    forget(monkeypatch)
    wanted = vector("hf://org/toy")
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    assert (vector("hf://org/toy") == wanted).all()
    assert "hf://org/toy is taken from the cache" in caplog.text
    message = refusal(HubError, lambda: vector("hf://org/other"))
    assert "cannot be reached" in message
    assert refusal(HubError, lambda: open_bundle("hf://org/toy").verify())


# ---- what is refused ---------------------------------------------------------------------------


def test_a_repository_that_is_no_bundle(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    hub.hold("org/other", tmp_path / "other")
    message = refusal(BundleError, lambda: locate("hf://org/other"))
    assert "hf://org/other is no bundle: the repository has no manifest.json at main" in message
    assert "bundle push" in message
    assert "has no a/b/manifest.json" in refusal(BundleError, lambda: locate("hf://org/other/a/b"))


def test_a_file_that_the_repository_lacks(held: Hub) -> None:
    del held.files("org/toy")["model.onnx"]
    message = refusal(BundleError, lambda: vector("hf://org/toy"))
    assert "has no model.onnx, which its manifest lists; push it again" in message


def test_a_download_with_a_flipped_byte_is_tried_again_and_refused(
    held: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(monkeypatch)
    held.corrupted.add("model.onnx")
    message = refusal(TamperedError, lambda: vector("hf://org/toy"))
    assert "model.onnx" in message
    assert "what the hub sends is not what the manifest lists" in message
    assert held.downloaded().count("model.onnx") == 2
    held.corrupted.clear()
    assert (vector("hf://org/toy") == local_vector()).all(), "the damaged file does not stay in the cache"


def test_a_download_that_is_cut_off(held: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library tries several times
    held.truncated.add("golden.safetensors")
    message = refusal(HubError, lambda: vector("hf://org/toy"))
    assert "golden.safetensors" in message
    held.truncated.clear()
    assert (vector("hf://org/toy") == local_vector()).all()


def test_a_file_damaged_on_this_disk_is_fetched_again(held: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch)
    vector("hf://org/toy")
    path = open_bundle("hf://org/toy").root / "model.onnx"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"?")  # the hub's cache has the same file
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "is damaged on this disk" in refusal(TamperedError, lambda: vector("hf://org/toy"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert (vector("hf://org/toy") == local_vector()).all()
    assert path.read_bytes() == content


def test_a_file_that_is_not_the_manifests_is_not_even_downloaded(hub: Hub, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(TOY, tmp_path / "bundle"))
    (folder / "golden.safetensors").write_bytes(b"x" * (TOY / "golden.safetensors").stat().st_size)
    hub.hold("org/toy", folder)
    message = refusal(TamperedError, lambda: vector("hf://org/toy"))
    assert "golden.safetensors" in message
    assert "is not the file that was exported" in message
    assert "golden.safetensors" not in hub.downloaded()


@pytest.mark.parametrize("name", ["../../evil", "/etc/passwd", "a/b", "..", "c:evil", ".hidden"])
def test_a_manifest_with_paths_is_refused_before_anything_else(hub: Hub, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(TOY, tmp_path / "bundle"))
    data = json.loads((folder / "manifest.json").read_text())
    data["files"][name] = data["files"]["model.onnx"]
    (folder / "manifest.json").write_text(json.dumps(data))
    hub.hold("org/toy", folder)
    message = refusal(BundleError, lambda: locate("hf://org/toy"))
    assert "wanted a plain file name in the bundle" in message or "file" in message
    assert hub.downloaded() == ["manifest.json"]


def test_a_changed_manifest_and_a_huge_one(hub: Hub, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(TOY, tmp_path / "bundle"))
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"fp32"', '"fp16"'))
    hub.hold("org/toy", folder)
    assert "was changed after export" in refusal(TamperedError, lambda: locate("hf://org/toy"))
    (folder / "manifest.json").write_bytes(b" " * (1 << 24) + text.encode())
    hub.hold("org/toy", folder)
    hub.asked.clear()
    assert "wanted at most" in refusal(BundleError, lambda: locate("hf://org/toy"))
    assert hub.downloaded() == []


def test_a_graph_that_reads_other_files_is_refused_as_in_a_folder(hub: Hub, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    folder = Path(shutil.copytree(TOY, tmp_path / "bundle"))
    graph = onnx.load(folder / "model.cpu.onnx", load_external_data=False)
    for tensor in graph.graph.initializer:
        for one in tensor.external_data:
            one.value = "../../../../etc/passwd" if one.key == "location" else one.value
    (folder / "model.cpu.onnx").write_bytes(graph.SerializeToString())
    manifest = read_manifest(folder)
    rewritten(folder, files={**manifest.files, "model.cpu.onnx": file_facts(folder / "model.cpu.onnx")})
    hub.hold("org/toy", folder)
    assert "a tensor is in" in refusal(BundleError, lambda: vector("hf://org/toy"))


def test_nothing_is_written_into_a_bundle_on_the_hub(held: Hub) -> None:
    bundle = open_bundle("hf://org/toy")
    message = refusal(MisuseError, lambda: bundle.require_local("build"))
    assert f"dinodeploy bundle pull org/toy@{held.head('org/toy')} DIR" in message


def test_a_signature_is_over_everything(hub: Hub, tmp_path: Path) -> None:
    pytest.importorskip("model_signing")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    from dinodeploy.bundle.signing import sign

    folder = Path(shutil.copytree(TOY, tmp_path / "bundle"))
    secret = ec.generate_private_key(ec.SECP256R1())
    form = serialization.PrivateFormat.PKCS8
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (tmp_path / "key.pem").write_bytes(secret.private_bytes(pem, form, plain))
    public = secret.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pub").write_bytes(public)
    sign(folder, tmp_path / "key.pem")
    (folder / "README.md").write_text("a card")
    hub.hold("org/toy", folder)
    options = {"require_signature": tmp_path / "key.pub"}
    assert (vector("hf://org/toy", **options) == local_vector()).all()
    bundle = open_bundle("hf://org/toy", **options)
    assert bundle.named == f"hf://org/toy@{hub.head('org/toy')}"
    assert "README.md" not in {path.name for path in bundle.root.iterdir()}
    unsigned = tmp_path / "unsigned"
    shutil.copytree(TOY, unsigned)
    hub.hold("org/unsigned", unsigned)
    assert "is not signed" in refusal(TamperedError, lambda: vector("hf://org/unsigned", **options))


def test_a_signature_that_a_later_commit_lacks_does_not_stay(hub: Hub, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(TOY, tmp_path / "bundle"))
    (folder / "model.sig").write_bytes(b"{}")
    hub.hold("org/toy", folder)
    first = open_bundle("hf://org/toy")
    first.verify()
    assert (first.root / "model.sig").is_file()
    (folder / "model.sig").unlink()
    hub.hold("org/toy", folder)
    second = open_bundle("hf://org/toy")
    second.verify()
    assert second.root == first.root
    assert not (second.root / "model.sig").exists()


def test_the_manifest_of_the_repository_is_kept_byte_for_byte(hub: Hub, tmp_path: Path) -> None:
    """Its digest does not change with its spaces; a signature does."""
    folder = Path(shutil.copytree(TOY, tmp_path / "bundle"))
    hub.hold("org/toy", folder)
    assert (
        open_bundle("hf://org/toy").root.joinpath("manifest.json").read_bytes()
        == (TOY / "manifest.json").read_bytes()
    )
    spaced = json.dumps(json.loads((TOY / "manifest.json").read_text())).encode()
    (folder / "manifest.json").write_bytes(spaced)
    hub.hold("org/toy", folder)
    bundle = open_bundle("hf://org/toy")
    assert bundle.root.joinpath("manifest.json").read_bytes() == spaced
    assert parse_manifest(spaced, "").digest == read_manifest(TOY).digest
