"""`check --bisect`: a fault planted in a random block is found exactly; a correct engine has none."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from dinodeploy.bundle.bundle import Bundle, open_bundle
from dinodeploy.bundle.manifest import WEIGHTS_FILE, EngineFacts, ModelFacts
from dinodeploy.errors import BundleError, JudgementError, MisuseError
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.parity.golden import load_golden, save_golden
from dinov3_ref.checkpoints import Checkpoint, random_checkpoint
from exporters.bisect import bisect_bundle, stream_values
from exporters.bundle.export import ExportOptions, export_checkpoint, export_model
from tests.compatibility.test_parts import CustomTokensVisionTransformer
from tests.support.faults import FAULTS, Fault, broken, change_weight
from tests.support.images.photographs import IMAGENET_MEAN, IMAGENET_STD
from tests.support.tiny_models import export_tiny, tiny_config

MODELS = (("mlp", "fp32"), ("mlp", "fp16"), ("swiglu", "fp32"), ("swiglu", "bf16"))
DEPTH = 5
SEEDS = range(3)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Bundle]:
    folder = tmp_path_factory.mktemp("bisect")
    return {
        (kind, recipe): export(
            random_checkpoint(tiny_config(kind, depth=DEPTH)), folder / kind / recipe, recipe
        )
        for kind, recipe in MODELS
    }


@pytest.fixture(scope="module")
def driven(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Two residual channels past fp16's limit from the first block on, which hide what later blocks add."""
    checkpoint = random_checkpoint(tiny_config("mlp", depth=DEPTH))
    last = "blocks.0.mlp.fc2.weight"
    weight = checkpoint.state[last].clone()
    weight[[3, 40]] *= 1e5
    checkpoint = replace(checkpoint, state={**checkpoint.state, last: weight})
    return export(checkpoint, tmp_path_factory.mktemp("driven") / "b", "fp16")


def export(checkpoint: Checkpoint, out: Path, recipe: str) -> Bundle:
    """With an intermediate output, whose norm must not be taken for the last."""
    options = ExportOptions(recipe=recipe, layers=(1,))
    return export_checkpoint(checkpoint, out, options, weights="random")[0]


@pytest.mark.parametrize(("kind", "recipe"), MODELS)
def test_a_correct_engine_has_no_fault(
    kind: str, recipe: str, bundles: dict[tuple[str, str], Bundle]
) -> None:
    found = bisect_bundle(bundles[kind, recipe].choose())
    assert found.departs is None, found.verdict
    assert [place.name for place in found.places] == [
        "tokens", *(f"blocks.{i}" for i in range(DEPTH)), "outputs",
    ]  # fmt: skip
    assert all(set(place.groups) == {"cls", "storage", "patch"} for place in found.places)
    assert all(0 < place.step < found.limit for place in found.places if place.step is not None)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("kind", "recipe"), MODELS)
def test_the_block_with_the_fault_is_named(
    kind: str, recipe: str, fault: str, seed: int, bundles: dict[tuple[str, str], Bundle], tmp_path: Path
) -> None:
    rng = np.random.default_rng([seed, len(fault)])
    block = f"blocks.{rng.integers(DEPTH)}"
    found = bisect_bundle(broken(bundles[kind, recipe], FAULTS[fault], block, rng, tmp_path))
    assert found.departs == block, found.verdict
    assert f"first departs at {block} (" in found.verdict


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_behind_massive_channels_is_named(fault: str, driven: Bundle, tmp_path: Path) -> None:
    """The stream itself hardly shows the fault; each block's own addition does."""
    assert bisect_bundle(driven.choose()).departs is None
    rng = np.random.default_rng(len(fault))
    found = bisect_bundle(broken(driven, FAULTS[fault], "blocks.3", rng, tmp_path))
    assert found.departs == "blocks.3", found.verdict
    if fault == "a LayerNorm's gain changed":
        error = next(place.groups["patch"].error for place in found.places if place.name == "blocks.3")
        assert error is not None
        assert error < found.limit


def _embedding_scaled(model: onnx.ModelProto, block: str, rng: np.random.Generator) -> None:
    change_weight(model, "patch_embed.proj.weight", lambda weight: weight * np.float32(1.01))


def _last_norm_without_bias(model: onnx.ModelProto, block: str, rng: np.random.Generator) -> None:
    change_weight(model, "norm.bias", np.zeros_like)


@pytest.mark.parametrize(
    ("fault", "place"), [(_embedding_scaled, "tokens"), (_last_norm_without_bias, "outputs")]
)
def test_faults_before_and_after_the_blocks(
    fault: Fault, place: str, bundles: dict[tuple[str, str], Bundle], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    found = bisect_bundle(broken(bundles["mlp", "fp32"], fault, "blocks.0", rng, tmp_path))
    assert found.departs == place, found.verdict


def test_prefix_norms_apart_hide_no_stream(tmp_path: Path) -> None:
    """The 7B's kind: no qkv bias, and (here) a norm of its own for the prefix, behind slices."""
    bundle = export_tiny(tmp_path / "b", "7b")
    assert bisect_bundle(bundle.choose()).departs is None


def test_extra_tokens_are_their_own_group(tmp_path: Path) -> None:
    """No patches: an error in three tokens would be hidden by twelve patches."""
    torch.manual_seed(0)
    options = {"embed_dim": 128, "depth": 2, "num_heads": 2, "n_storage_tokens": 4, "mask_k_bias": True}
    model = CustomTokensVisionTransformer(**options, pos_embed_rope_dtype="fp32").eval()  # type: ignore[arg-type]
    facts = ModelFacts("custom", 128, 2, 2, 16, 4, "memory", "tokens", "0" * 64, "official", None, "fp32")
    preprocess = Preprocess.from_preset("official", (64, 96), IMAGENET_MEAN, IMAGENET_STD)
    bundle = export_model(model, facts, preprocess, tmp_path / "b", ExportOptions())[0]
    found = bisect_bundle(bundle.choose())
    assert found.departs is None, found.verdict
    assert all(list(place.groups) == ["cls", "storage", "extra", "patch"] for place in found.places)


# ---- what is refused ---------------------------------------------------------------------------


def test_a_bundle_without_a_trace(own_bundle: Path) -> None:
    golden = own_bundle / "golden.safetensors"
    save_golden([replace(case, traces=()) for case in load_golden(golden)], golden)
    with pytest.raises(BundleError, match="holds no trace of the residual stream; export the bundle again"):
        bisect_bundle(open_bundle(own_bundle).choose())


def test_an_engine_of_another_depth(own_bundle: Path, bundles: dict[tuple[str, str], Bundle]) -> None:
    for name in ("model.onnx", "model.cpu.onnx", WEIGHTS_FILE):
        shutil.copy(bundles["mlp", "fp32"].root / name, own_bundle / name)
    with pytest.raises(JudgementError, match="these are two models"):
        bisect_bundle(open_bundle(own_bundle).choose())


def test_an_engine_that_is_not_a_graph(own_bundle: Path) -> None:
    bundle = open_bundle(own_bundle)
    engines = {"model.plan": EngineFacts("tensorrt", ("model.onnx",))}
    files = {**bundle.manifest.files, "model.plan": bundle.manifest.files["model.onnx"]}
    with_plan = replace(bundle.manifest, engines=engines, files=files)
    with pytest.raises(MisuseError, match="is an engine of tensorrt; name the bundle's"):
        bisect_bundle(replace(bundle, manifest=with_plan).choose())


def test_a_graph_without_blocks() -> None:
    node = onnx.helper.make_node("Add", ["pixels", "pixels"], ["cls"], name="tokens/Add")
    graph = onnx.helper.make_graph([node], "g", [], [onnx.helper.make_tensor_value_info("cls", 1, None)])
    with pytest.raises(BundleError, match="has no recognisable residual stream"):
        stream_values(graph)
