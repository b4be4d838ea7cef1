"""`check --bisect` of a ConvNeXt: each stage has its own residual stream; what leads into it is checked."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from dinodeploy.bundle.bundle import Bundle, open_bundle
from dinodeploy.bundle.manifest import WEIGHTS_FILE
from dinodeploy.errors import BundleError, JudgementError
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.parity.golden import load_golden, save_golden
from dinov3_ref.checkpoints import build_model, planted_checkpoint, random_checkpoint
from dinov3_ref.models import ConvNeXt
from dinov3_ref.models.convnext import Block
from exporters.bisect import bisect_bundle
from exporters.bundle.golden import make_golden, trace_stream
from exporters.trace.trace import TokenOutputs
from tests.support.faults import CONVNEXT_FAULTS, Fault, broken, change_weight
from tests.support.images.photographs import IMAGENET_MEAN, IMAGENET_STD, pixels
from tests.support.tiny_models import export_passing, export_tiny, tiny_convnext

DEPTHS = (2, 1, 3, 1)
BLOCKS = [f"stages.{stage}.{index}" for stage, depth in enumerate(DEPTHS) for index in range(depth)]
RECIPES = ("fp32", "fp16", "bf16", "int8")
SEEDS = range(2)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """With two stages among the outputs, one of them the end of a stream."""
    folder = tmp_path_factory.mktemp("bisect")
    checkpoint = random_checkpoint(tiny_convnext(depths=DEPTHS))
    return {
        recipe: export_passing(checkpoint, folder / recipe, recipe=recipe, layers=(1, 3))
        for recipe in RECIPES
    }


@pytest.fixture(scope="module")
def driven(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Massive channels in the third stage, which hide what its blocks add."""
    checkpoint = planted_checkpoint(tiny_convnext(depths=DEPTHS), pathology="early")
    return export_passing(checkpoint, tmp_path_factory.mktemp("driven") / "b", recipe="fp16")


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_correct_engine_has_no_fault(recipe: str, bundles: dict[str, Bundle]) -> None:
    found = bisect_bundle(bundles[recipe].choose())
    assert found.departs is None, found.verdict
    assert [place.name for place in found.places] == [
        "downsample_layers.0", "stages.0.0", "stages.0.1",
        "downsample_layers.1", "stages.1.0",
        "downsample_layers.2", "stages.2.0", "stages.2.1", "stages.2.2",
        "downsample_layers.3", "stages.3.0",
        "outputs",
    ]  # fmt: skip
    assert all(set(place.groups) == {"patch"} for place in found.places[:-1])
    assert (set(found.places[-1].groups), found.kinds) == ({"cls", "patch"}, ("cls", "patch"))
    assert all(0 < place.step < found.limit for place in found.places if place.step is not None)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("fault", CONVNEXT_FAULTS)
@pytest.mark.parametrize("recipe", ["fp32", "bf16"])
def test_the_block_with_the_fault_is_named(
    recipe: str, fault: str, seed: int, bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    rng = np.random.default_rng([seed, len(fault)])
    block = str(rng.choice(BLOCKS))
    found = bisect_bundle(broken(bundles[recipe], CONVNEXT_FAULTS[fault], block, rng, tmp_path))
    assert found.departs == block, found.verdict


@pytest.mark.parametrize("block", ["stages.1.0", "stages.3.0"])
def test_a_stage_whose_only_block_is_bypassed(block: str, bundles: dict[str, Bundle], tmp_path: Path) -> None:
    """Its stream ends where it began, in the downsampling before it."""
    rng = np.random.default_rng(0)
    found = bisect_bundle(broken(bundles["fp32"], CONVNEXT_FAULTS["the block skipped"], block, rng, tmp_path))
    assert found.departs == block, found.verdict


@pytest.mark.parametrize("fault", CONVNEXT_FAULTS)
def test_a_fault_behind_massive_channels_is_named(fault: str, driven: Bundle, tmp_path: Path) -> None:
    assert bisect_bundle(driven.choose()).departs is None
    rng = np.random.default_rng(len(fault))
    found = bisect_bundle(broken(driven, CONVNEXT_FAULTS[fault], "stages.2.1", rng, tmp_path))
    assert found.departs == "stages.2.1", found.verdict


def _stem_scaled(model: onnx.ModelProto, block: str, rng: np.random.Generator) -> None:
    change_weight(model, "downsample_layers.0.0.weight", lambda weight: rng.permutation(weight, axis=0))


def _downsampling_scaled(model: onnx.ModelProto, block: str, rng: np.random.Generator) -> None:
    change_weight(model, "downsample_layers.2.1.weight", lambda weight: weight * np.float32(1.2))


def _downsampling_norm_without_bias(model: onnx.ModelProto, block: str, rng: np.random.Generator) -> None:
    change_weight(model, "downsample_layers.3.0.bias", np.zeros_like)


def _last_norm_without_bias(model: onnx.ModelProto, block: str, rng: np.random.Generator) -> None:
    change_weight(model, "norms.3.bias", np.zeros_like)


@pytest.mark.parametrize("recipe", ["fp32", "fp16"])
@pytest.mark.parametrize(
    ("fault", "place"),
    [
        (_stem_scaled, "downsample_layers.0"),
        (_downsampling_scaled, "downsample_layers.2"),
        (_downsampling_norm_without_bias, "downsample_layers.3"),
        (_last_norm_without_bias, "outputs"),
    ],
)
def test_faults_between_the_streams(
    recipe: str, fault: Fault, place: str, bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    found = bisect_bundle(broken(bundles[recipe], fault, "", rng, tmp_path))
    assert found.departs == place, found.verdict


# ---- what the exporter keeps for it ------------------------------------------------------------


def test_the_trace_is_the_reference_own(bundles: dict[str, Bundle]) -> None:
    """Stage by stage: the stream's end is the model's map, the next one's beginning what comes of it."""
    (case,) = (case for case in load_golden(bundles["fp32"].root / "golden.safetensors") if case.traces)
    assert case.name == "wide"
    model = build_model(random_checkpoint(tiny_convnext(depths=DEPTHS)))
    assert isinstance(model, ConvNeXt)
    x = torch.from_numpy(case.pixels[:1])
    with torch.inference_mode():
        for stage, (trace, map_BChw) in enumerate(zip(case.traces, model.run_stages(x), strict=True)):
            assert trace.stream.shape == (DEPTHS[stage] + 1, 1, 12, model.embed_dims[stage])
            assert trace.tokens[0] == 0, "the corner, where padding shows"
            entering = model.downsample_layers[stage](x)
            for got, whole in ((trace.embedded, entering), (trace.blocks[-1], map_BChw)):
                wanted = whole.flatten(2).transpose(1, 2)[:, trace.tokens].numpy()
                np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
            x = map_BChw


class Halving(nn.Module):
    """A block of a user's own that changes the map's size."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(x, 2)


def test_blocks_that_change_a_map_leave_no_trace() -> None:
    model = build_model(random_checkpoint(tiny_convnext()))
    assert isinstance(model, ConvNeXt)
    x = pixels(["chelsea"], 64, 96).numpy()
    assert len(trace_stream(model, x)) == 4
    model.stages[0].append(Halving())
    assert trace_stream(model, x) == ()
    preprocess = Preprocess.from_preset("official", (64, 64), IMAGENET_MEAN, IMAGENET_STD, 32)
    assert not any(module._forward_hooks for module in model.modules())
    model.stages[0][-1] = Block(32)
    assert any(case.traces for case in make_golden(TokenOutputs(model.eval()), preprocess))


# ---- what is refused ---------------------------------------------------------------------------


def test_an_engine_of_another_kind(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    root = Path(shutil.copytree(bundles["fp32"].root, tmp_path / "other"))
    vit = export_tiny(tmp_path / "vit")
    for name in ("model.onnx", WEIGHTS_FILE):
        shutil.copy(vit.root / name, root / name)
    with pytest.raises(JudgementError, match="has 1 residual streams, the reference 4: these are two models"):
        bisect_bundle(open_bundle(root).choose())


def test_a_bundle_without_a_trace_says_why_there_may_be_none(own_convnext: Path) -> None:
    golden = own_convnext / "golden.safetensors"
    save_golden([replace(case, traces=()) for case in load_golden(golden)], golden)
    with pytest.raises(BundleError, match="blocks of your own that change a map's size has none"):
        bisect_bundle(open_bundle(own_convnext).choose())


@pytest.fixture
def own_convnext(bundles: dict[str, Bundle], tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundles["fp32"].root, tmp_path / "own"))
