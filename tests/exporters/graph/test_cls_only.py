"""The graph for CLS alone: the same numbers from fewer operations, over the same weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from dinodeploy import Embedder, JudgementError, MisuseError, TamperedError
from dinodeploy.bundle.bundle import file_facts, open_bundle
from dinodeploy.bundle.manifest import read_manifest, write_manifest
from dinodeploy.parity.receipts import find_receipt
from dinov3_ref.checkpoints import build_model, random_checkpoint
from dinov3_ref.layers import Mlp
from dinov3_ref.models import DinoVisionTransformer
from exporters.dialects import DIALECTS
from exporters.graph.cls_only import can_cut, cut_to_cls
from exporters.graph.files import share_weights, write_onnx
from exporters.graph.graph import to_graph
from exporters.trace.fold import FOLDS, make_meta_copy
from exporters.trace.trace import TokenOutputs, trace
from tests.support.images.photographs import pixels
from tests.support.tiny_models import export_tiny, tiny_config

LIMIT = 1e-6  # relative, of CLS against the whole graph's; measured 1.6e-7


def error(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def assert_same_cls(root: Path, device: str = "onnxruntime") -> None:
    """Off-square, batches of one and three, the smallest size there is."""
    with (
        Embedder.open(root, device=device) as whole,
        Embedder.open(root, device=device, outputs=["cls"]) as cut,
    ):
        assert cut.engine.file.endswith(".cls.onnx")
        for names, height, width in (
            (["china"], 96, 160),
            (["coffee", "flower", "rocket"], 48, 32),
            (["china"], 16, 16),
        ):
            x = pixels(names, height, width).numpy()
            outputs = cut.run(x)
            assert list(outputs) == ["cls"]
            assert error(outputs["cls"], whole.run(x)["cls"]) <= LIMIT


@pytest.mark.parametrize("device", ["onnxruntime", "openvino"])
def test_the_same_cls(device: str, tiny_bundle: Path) -> None:
    if device == "openvino":
        pytest.importorskip("openvino")
    assert_same_cls(tiny_bundle, device)


@pytest.mark.slow
def test_the_same_cls_in_16_bits(tmp_path: Path) -> None:
    root = export_tiny(tmp_path / "b", "swiglu", recipe="bf16").root
    assert_same_cls(root)
    assert {"model.cls.onnx", "model.cpu.cls.onnx"} <= open_bundle(root).manifest.files.keys()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "folds"),
    [
        ({"n_storage_tokens": 0}, FOLDS),
        ({"norm_layer": "rmsnorm", "untie_cls_and_patch_norms": True}, FOLDS),
        ({"layerscale_init": None, "qkv_bias": False, "mask_k_bias": False}, FOLDS),
        ({"ffn_layer": "swiglu", "ffn_ratio": 6.0}, ()),
    ],
    ids=["no storage", "rmsnorm", "no layerscale, no bias", "no folds"],
)
def test_variants(changes: dict, folds: tuple[str, ...], tmp_path: Path) -> None:
    graph, meta_copy = graph_of(build_model(random_checkpoint(tiny_config(**changes, depth=2))), folds)
    assert can_cut(meta_copy)
    cut = cut_to_cls(graph, 1)
    write_onnx(graph, tmp_path / "model.onnx")
    share_weights(cut, tmp_path / "model.onnx", tmp_path / "cut.onnx")
    x = {"pixels": pixels(["china", "coffee"], 48, 112).numpy()}
    got, wanted = (
        onnxruntime.InferenceSession(tmp_path / f"{name}.onnx").run(["cls"], x) for name in ("cut", "model")
    )
    assert error(got[0], wanted[0]) <= LIMIT


def graph_of(
    model: DinoVisionTransformer, folds: tuple[str, ...] = FOLDS
) -> tuple[ir.Model, DinoVisionTransformer]:
    meta_copy, weights = make_meta_copy(model, folds)
    module = TokenOutputs(meta_copy)
    return to_graph(trace(module), module, weights, DIALECTS["portable"]), meta_copy


def test_one_row_through_the_last_block(own_bundle: Path) -> None:
    """As it runs: k and v see every token, all else of the last block sees CLS."""
    model = onnx.load(own_bundle / "model.cpu.cls.onnx", load_external_data=False)
    layers = ("attn.q", "attn.k", "attn.v", "attn.proj", "mlp.fc1", "mlp.fc2")
    model.graph.output.extend(onnx.ValueInfoProto(name=f"blocks.2.{layer}/MatMul:0") for layer in layers)
    onnx.save(model, own_bundle / "shown.onnx")
    session = onnxruntime.InferenceSession(own_bundle / "shown.onnx")
    _, *values = session.run(None, {"pixels": pixels(["china"], 64, 96).numpy()})
    tokens = 1 + 4 + 4 * 6
    assert [value.shape[1] for value in values] == [1, tokens, tokens, 1, 1, 1]


def test_weights_are_stored_once(tiny_bundle: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in tiny_bundle.iterdir()}
    assert sizes["model.cls.onnx"] < 100_000 < sizes["model.onnx.data"]
    graph = onnx.load(tiny_bundle / "model.cls.onnx", load_external_data=False).graph
    outside = [weight for weight in graph.initializer if weight.external_data]
    assert len(outside) > 20
    assert {entry.value for w in outside for entry in w.external_data if entry.key == "location"} == {
        "model.onnx.data"
    }


def test_a_users_own_layer_is_left_whole(tmp_path: Path) -> None:
    class Mixing(Mlp):
        pass

    model = build_model(random_checkpoint(tiny_config(depth=2)))
    model.blocks[-1].mlp.__class__ = Mixing
    assert not can_cut(make_meta_copy(model)[0])
    model.blocks[-1].mlp.__class__ = Mlp
    model.blocks[0].mlp.__class__ = Mixing
    assert can_cut(make_meta_copy(model)[0]), "what comes before is not touched"


# ---- in a bundle -----------------------------------------------------------------------------------


def test_export_judges_it(tiny_bundle: Path) -> None:
    engine = open_bundle(tiny_bundle).choose("model.cpu.cls.onnx")
    with Embedder.open(tiny_bundle, outputs=("cls",)) as embedder:
        assert embedder.engine.file == engine.file == "model.cpu.cls.onnx"
        receipt = find_receipt(engine, embedder.backend.runtime, embedder.backend.device)
    assert receipt is not None, "made by export, not now"
    assert {m.output for m in receipt.measurements} == {"pixels", "cls"}
    whole = open_bundle(tiny_bundle).manifest
    assert whole.fingerprint("model.cpu.cls.onnx", whole.preprocess) == whole.fingerprint(
        "model.cpu.onnx", whole.preprocess
    )


def test_who_asks_for_more_gets_the_whole(tiny_bundle: Path) -> None:
    for outputs in (None, ("cls", "patch"), ("layer_1",)):
        with Embedder.open(tiny_bundle, outputs=outputs) as embedder:
            assert embedder.engine.file == "model.cpu.onnx"
    with Embedder.open(tiny_bundle / "model.onnx", outputs=("cls",)) as embedder:
        assert embedder.engine.file == "model.onnx", "a named engine is the only one considered"
    with Embedder.open(tiny_bundle / "model.cls.onnx") as embedder:
        assert embedder.output_names == ("cls",)
        assert list(embedder.embed([])) == ["cls"]


def test_outputs_that_are_not_there(tiny_bundle: Path) -> None:
    with pytest.raises(
        MisuseError, match=r"outputs 'cls,logits': 'logits' does not fit; .* has cls, storage"
    ):
        Embedder.open(tiny_bundle, outputs=("cls", "logits"))
    with pytest.raises(MisuseError, match=r"'patch' does not fit; .*model\.cls\.onnx has cls$"):
        Embedder.open(tiny_bundle / "model.cls.onnx", outputs=("patch",))


def test_a_bundle_without_it_still_serves_cls(own_bundle: Path) -> None:
    """As older versions wrote them, the second with one graph for all."""
    old = read_manifest(own_bundle)
    for left_out, engine in (("cls", "model.cpu.onnx"), ("cpu", "model.onnx")):
        old = replace(
            old,
            files={name: facts for name, facts in old.files.items() if f".{left_out}." not in name},
            engines={name: facts for name, facts in old.engines.items() if f".{left_out}." not in name},
        )
        write_manifest(old, own_bundle)
        with Embedder.open(own_bundle, outputs=("cls",)) as embedder:
            assert embedder.engine.file == engine


def test_its_weights_are_hashed_before_it_is_loaded(own_bundle: Path) -> None:
    content = bytearray((own_bundle / "model.onnx.data").read_bytes())
    content[len(content) // 2] ^= 1
    (own_bundle / "model.onnx.data").write_bytes(content)
    with pytest.raises(TamperedError, match=r"model\.onnx\.data is not the file"):
        Embedder.open(own_bundle, outputs=("cls",))


def test_a_wrong_cls_only_graph_is_rejected(own_bundle: Path) -> None:
    """Another row than CLS, with a hash that fits: only the judge can tell."""
    path = own_bundle / "model.cpu.cls.onnx"
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2]), "two"))
    for node in model.graph.node:
        if node.name.rpartition("/")[2].startswith("first_row"):
            node.input[1:3] = ["const.row_1", "two"]
    onnx.save(model, path)
    manifest = read_manifest(own_bundle)
    write_manifest(replace(manifest, files={**manifest.files, path.name: file_facts(path)}), own_bundle)
    with pytest.raises(JudgementError, match=r"model\.cpu\.cls\.onnx is not the model here: cls"):
        Embedder.open(own_bundle, outputs=("cls",))
