"""Bundles on disk: found, held against their manifest, refused when anything is not as exported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dinodeploy import Embedder
from dinodeploy.backends.select import candidates
from dinodeploy.bundle import manifest as manifests
from dinodeploy.bundle.bundle import open_bundle
from dinodeploy.bundle.manifest import FILE_NAME, Manifest, read_manifest, write_manifest
from dinodeploy.errors import BundleError, DinodeployError, MisuseError, TamperedError, UnavailableError
from dinodeploy.files import schema
from dinodeploy.parity.check import check_bundle


def edit_manifest(bundle: Path, change: Callable[[dict], None], *, reseal: bool = False) -> None:
    path = bundle / FILE_NAME
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    if reseal:
        write_manifest(schema.read(Manifest, path, "manifest"), bundle)


def flip_byte(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_a_bundle_is_found_by_directory_and_by_engine(tiny_bundle: Path) -> None:
    assert open_bundle(tiny_bundle).choose().file == "model.cpu.onnx"
    assert open_bundle(tiny_bundle / "model.onnx").root == tiny_bundle
    open_bundle(str(tiny_bundle)).verify()


def test_the_manifest_says_what_a_runtime_needs(tiny_bundle: Path) -> None:
    manifest = read_manifest(tiny_bundle)
    assert manifest.model.weights == "random"
    assert manifest.preprocess.preset == "official"
    assert [output.name for output in manifest.outputs] == ["cls", "storage", "patch", "layer_1"]
    assert manifest.outputs[0].shape == ("batch", 128)
    graphs = {"model.onnx", "model.cls.onnx", "model.cpu.onnx", "model.cpu.cls.onnx"}
    assert set(manifest.files) == {*graphs, "model.onnx.data", "golden.safetensors"}
    assert next(iter(manifest.engines)) == "model.cpu.onnx", "the one for CPUs is preferred there"
    assert set(manifest.engines) == graphs
    assert manifest.engines["model.cls.onnx"].same_numbers_as == "model.onnx"
    assert manifest.outputs_of("model.cpu.cls.onnx") == ("cls",)
    assert "DINOv3 License" in manifest.licence


@pytest.mark.parametrize("name", ["model.cpu.onnx", "model.onnx.data", "golden.safetensors"])
@pytest.mark.parametrize("where", [0, -1, 5000])
def test_one_flipped_bit_is_enough(own_bundle: Path, name: str, where: int) -> None:
    flip_byte(own_bundle / name, where)
    with pytest.raises(TamperedError, match="is not the file that was exported"):
        Embedder.open(own_bundle)
    with pytest.raises(TamperedError):
        Embedder.open(own_bundle, allow_unverified=True)
    with pytest.raises(TamperedError):
        check_bundle(own_bundle)


def test_a_truncated_file_is_refused_by_its_size(own_bundle: Path) -> None:
    model = own_bundle / "model.onnx.data"
    model.write_bytes(model.read_bytes()[:-10])
    with pytest.raises(TamperedError, match=r"has [\d,]+ bytes, the manifest says"):
        Embedder.open(own_bundle)


@pytest.mark.parametrize("name", ["model.cpu.onnx", "model.onnx.data", "golden.safetensors"])
def test_a_missing_file_is_refused(own_bundle: Path, name: str) -> None:
    (own_bundle / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        Embedder.open(own_bundle)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["preprocess"].update(mean=[0.5, 0.5, 0.5]),
        lambda data: data["preprocess"].update(preset="hf"),
        lambda data: data["model"].update(weights="file"),
        lambda data: data["graph"].update(recipe="fp16"),
        lambda data: data.update(licence="none"),
        lambda data: data.update(digest="0" * 64),
    ],
)
def test_an_edited_manifest_is_refused(own_bundle: Path, change: Callable[[dict], None]) -> None:
    edit_manifest(own_bundle, change)
    with pytest.raises(TamperedError, match="changed after export"):
        Embedder.open(own_bundle, allow_unverified=True)


def test_a_manifest_edited_and_sealed_again_contradicts_the_graph(own_bundle: Path) -> None:
    """A recomputed digest still contradicts the facts inside the hashed ONNX file."""
    edit_manifest(own_bundle, lambda data: data["preprocess"].update(mean=[0.5, 0.5, 0.5]), reseal=True)
    with pytest.raises(TamperedError, match="other facts than"):
        Embedder.open(own_bundle, allow_unverified=True)


@pytest.mark.parametrize("name", ["../evil.onnx", "/etc/passwd", "a/b", "..", "", ".hidden", "a" * 201])
def test_no_file_outside_the_bundle_can_be_named(own_bundle: Path, name: str) -> None:
    edit_manifest(own_bundle, lambda data: data["files"].update({name: {"sha256": "0", "bytes": 1}}))
    with pytest.raises(BundleError, match="plain file name"):
        read_manifest(own_bundle)


@pytest.mark.parametrize(
    "name", ["MODEL.onnx", "model.onnx.", "Model.ONNX.Data..", "parity.json", "Model.sig", "MANIFEST.json."]
)
def test_no_two_files_are_one_on_another_system(own_bundle: Path, name: str) -> None:
    edit_manifest(own_bundle, lambda data: data["files"].update({name: {"sha256": "0", "bytes": 1}}))
    with pytest.raises(BundleError, match="on some systems another file's name"):
        read_manifest(own_bundle)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not valid JSON"),
        ("[]", "wanted"),
        ("{}", "missing"),
        ('{"format": 1, "format": 2}', "given twice"),
        ("\x00\xff", "not valid JSON"),
    ],
)
def test_a_malformed_manifest_is_one_line(own_bundle: Path, content: str, message: str) -> None:
    (own_bundle / FILE_NAME).write_text(content, encoding="latin-1")
    with pytest.raises(BundleError, match=message) as caught:
        open_bundle(own_bundle)
    assert "\n" not in str(caught.value)


def test_a_format_of_the_future_is_refused(own_bundle: Path) -> None:
    edit_manifest(own_bundle, lambda data: data.update(format=3))
    with pytest.raises(BundleError, match="of format 3; this version reads formats 1 and 2"):
        open_bundle(own_bundle)


def test_an_engine_must_list_its_files(own_bundle: Path) -> None:
    edit_manifest(
        own_bundle, lambda data: data["engines"]["model.onnx"].update(files=["model.onnx", "x.data"])
    )
    with pytest.raises(BundleError, match=r"needs 'x\.data'"):
        open_bundle(own_bundle)


def test_a_backend_of_another_version_is_named(own_bundle: Path) -> None:
    def edit(data: dict[str, Any]) -> None:
        for facts in data["engines"].values():
            facts.update(backend="abacus")

    edit_manifest(own_bundle, edit, reseal=True)
    with pytest.raises(UnavailableError, match="needs the backend 'abacus'"):
        Embedder.open(own_bundle)


def test_what_is_no_bundle(tmp_path: Path, own_bundle: Path) -> None:
    with pytest.raises(MisuseError, match="no such bundle"):
        open_bundle(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BundleError, match="is in no bundle"):
        open_bundle(tmp_path / "folder")
    shutil.copy(own_bundle / "model.onnx", own_bundle / "other.onnx")
    with pytest.raises(
        BundleError, match=r"no engine 'other\.onnx'; its engines: model\.cpu\.onnx, model\.onnx"
    ):
        open_bundle(own_bundle / "other.onnx")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"not a graph at all", "is not an ONNX file"), (b"\x08\x0a", "cannot load it")],
    ids=["text", "no graph"],
)
def test_a_foreign_graph_under_a_matching_hash_is_refused(
    own_bundle: Path, content: bytes, message: str
) -> None:
    """Garbage whose hash someone put into a resealed manifest: a clean error."""
    (own_bundle / "model.cpu.onnx").write_bytes(content)
    from dinodeploy.bundle.bundle import file_facts

    facts = schema.dump(file_facts(own_bundle / "model.cpu.onnx"))
    edit_manifest(own_bundle, lambda data: data["files"].update({"model.cpu.onnx": facts}), reseal=True)
    with pytest.raises(BundleError, match=message):
        Embedder.open(own_bundle)


def test_sealing_is_reproducible(tiny_bundle: Path, tmp_path: Path) -> None:
    manifest = read_manifest(tiny_bundle)
    assert manifest.sealed() == manifest
    write_manifest(manifest, tmp_path)
    assert (tmp_path / FILE_NAME).read_bytes() == (tiny_bundle / FILE_NAME).read_bytes()
    assert manifests.canonical({"b": 1, "a": [1.5, None]}) == '{"a":[1.5,null],"b":1}'


def test_all_of_these_errors_end_in_2() -> None:
    assert {error.exit_code for error in (BundleError, TamperedError, MisuseError)} == {2}
    assert issubclass(TamperedError, DinodeployError)


def test_a_manifest_of_an_earlier_version_keeps_its_digest(tmp_path: Path) -> None:
    """Written on 2026-11-30. A new field must be left out where it has its default (`_stored`)."""
    shutil.copy(Path("tests/data/format2_manifest.json"), tmp_path / "manifest.json")
    assert read_manifest(tmp_path).format == 2


# ---- the order of engines ------------------------------------------------------------------------------


def test_the_order_of_engines_is_explicit_and_not_that_of_the_json(own_bundle: Path) -> None:
    manifest = read_manifest(own_bundle)
    assert manifest.preference == manifest.order
    assert manifest.order[:2] == ("model.cpu.onnx", "model.onnx")
    path = own_bundle / FILE_NAME
    data = json.loads(path.read_text())
    data["engines"] = dict(reversed(data["engines"].items()))
    path.write_text(json.dumps(data))
    assert open_bundle(own_bundle).manifest.order == manifest.order
    assert open_bundle(own_bundle).choose().file == "model.cpu.onnx"
    assert [one.file for one in candidates(open_bundle(own_bundle), "onnxruntime")] == list(
        manifest.order[:2]
    )


def test_another_preference_is_followed(own_bundle: Path) -> None:
    edit_manifest(own_bundle, lambda data: data.update(preference=["model.onnx"]), reseal=True)
    bundle = open_bundle(own_bundle)
    assert bundle.manifest.order == ("model.onnx", "model.cls.onnx", "model.cpu.cls.onnx", "model.cpu.onnx")
    assert bundle.choose().file == "model.onnx"
    with Embedder.open(own_bundle, device="onnxruntime") as embedder:
        assert embedder.engine.file == "model.onnx"
    with pytest.raises(BundleError, match="names an engine twice"):
        edit_manifest(own_bundle, lambda data: data.update(preference=["model.onnx"] * 2), reseal=True)


def test_without_a_preference_there_is_a_rule(own_bundle: Path) -> None:
    """Bundles of older versions, one with a head included, whose JSON has model.onnx first."""
    edit_manifest(own_bundle, lambda data: data.pop("preference"), reseal=True)
    assert "preference" not in json.loads((own_bundle / FILE_NAME).read_text())
    manifest = read_manifest(own_bundle)
    assert manifest.order == ("model.cpu.onnx", "model.onnx", "model.cls.onnx", "model.cpu.cls.onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["files"].pop("golden.safetensors"), r"does not list golden\.safetensors"),
        (lambda data: data["files"].pop("model.onnx.data"), "needs 'model.onnx.data'"),
        (lambda data: data["engines"].update({f"{i}": data["engines"]["model.onnx"] for i in range(300)}),
         "wanted at most 256"),
        (lambda data: data["engines"]["model.cpu.onnx"].update(files=["model.cpu.onnx"]), "belongs to it"),
    ],
)  # fmt: skip
def test_manifests_that_leave_something_out(
    own_bundle: Path, change: Callable[[dict], None], message: str
) -> None:
    data = json.loads((own_bundle / FILE_NAME).read_text())
    change(data)

    def open_changed() -> None:
        write_manifest(schema.parse(Manifest, data, FILE_NAME), own_bundle)
        Embedder.open(own_bundle, device="onnxruntime")

    with pytest.raises(BundleError, match=message):
        open_changed()


def test_every_field_added_later_is_left_out_of_old_digests() -> None:
    """A new field with a default must not change the digest of a bundle that was made without it."""
    path = Path(__file__).parents[2] / "data" / "format1_bundle" / FILE_NAME
    read_manifest(path.parent).check_digest()
