"""int8 and fp8: types follow the scheme, smoothing is exact, outliers survive, batches do not matter."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from dinodeploy import Embedder
from dinodeploy.bundle.bundle import Bundle
from dinodeploy.errors import MisuseError
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.parity.judge import measure
from dinodeploy.parity.thresholds import THRESHOLDS
from dinov3_ref.checkpoints import build_model, planted_checkpoint, random_checkpoint
from dinov3_ref.models import DinoVisionTransformer, get_architecture
from exporters.bundle import write_bundle
from exporters.bundle.export import ExportOptions
from exporters.graph.summary import stored_type, summarize_onnx, types_by_role
from exporters.precision.quantization import sensitivity
from exporters.precision.quantization.calibrate import calibrate_8_bits
from exporters.precision.quantization.images import Calibration, calibration_pixels, in_batches
from exporters.precision.quantization.observe import find_groups, observe
from exporters.precision.quantization.rounding import FORMATS, PORTABLE
from exporters.precision.quantization.scheme import GroupScheme, QuantScheme, fold_scheme, make_scheme
from exporters.precision.quantization.sensitivity import features, simulate_8_bits
from exporters.precision.quantization.write import fitting_exponents
from exporters.trace.fold import make_meta_copy
from tests.compatibility.test_parts import CustomTokensVisionTransformer
from tests.support.images.photographs import pixels
from tests.support.tiny_models import ONNXRUNTIME, export_passing, tiny_config

KINDS = ("mlp", "swiglu", "7b")
SIZES = ((224, 224), (256, 384), (512, 320))
PHOTOS = ("astronaut", "coffee", "china", "flower")
PREPROCESS = Preprocess.from_preset("official", None, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 16)
CLS_COSINE, MEAN_PATCH_COSINE = 0.99, 0.98  # measured on planted models: 0.993 and 0.996


export_int8 = partial(export_passing, recipe="int8")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Bundle]:
    """Planted models under both recipes."""
    folder = tmp_path_factory.mktemp("8bit")
    return {
        (kind, recipe): export_passing(
            planted_checkpoint(tiny_config(kind)), folder / f"{kind}-{recipe}", recipe=recipe
        )
        for kind, recipe in (("mlp", "int8"), ("swiglu", "int8"), ("7b", "int8"), ("mlp", "fp8"))
    }


def scheme_for(model: DinoVisionTransformer, form: str = "int8") -> QuantScheme:
    _, weights = make_meta_copy(model)
    arrays, _ = calibration_pixels(Calibration(limit=6), PREPROCESS)
    groups = find_groups(model)
    return make_scheme(weights, groups, observe(model, groups, in_batches(arrays), len(arrays)), form)


def reference(model: DinoVisionTransformer, x: torch.Tensor) -> dict[str, np.ndarray]:
    with torch.no_grad():
        out = model(x, is_training=True)
    grid = x.shape[2] // 16, x.shape[3] // 16
    return {
        "cls": out["x_norm_clstoken"].numpy(),
        "patch": out["x_norm_patchtokens"].unflatten(1, grid).numpy(),
    }


def test_every_token_may_be_drawn() -> None:
    """Extra tokens and the last patches too: all tokens are kept if there are fewer than the limit."""
    options = {"embed_dim": 64, "depth": 1, "num_heads": 2, "n_storage_tokens": 4}
    model = CustomTokensVisionTransformer(**options, pos_embed_rope_dtype="fp32").eval()  # type: ignore[arg-type]
    first = model.blocks[0]
    seen: list[torch.Tensor] = []
    handle = first.get_submodule("norm1").register_forward_hook(lambda *arguments: seen.append(arguments[2]))
    x = pixels(["coffee"], 48, 80)
    (observation, *_) = observe(model, find_groups(model), [x], 1).values()
    handle.remove()
    (tokens,) = seen[0]
    assert len(tokens) == 1 + 4 + 3 + 15
    assert sorted(observation.tokens.sum(1).tolist()) == sorted(tokens.sum(1).tolist())


# ---- outputs ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", [("mlp", "int8"), ("swiglu", "int8"), ("7b", "int8"), ("mlp", "fp8")])
def test_planted_outliers_survive(
    case: tuple[str, str], size: tuple[int, int], bundles: dict[tuple[str, str], Bundle]
) -> None:
    x = pixels(PHOTOS, *size)
    wanted = reference(build_model(planted_checkpoint(tiny_config(case[0]))), x)
    for engine in (
        bundles[case].root,
        bundles[case].root / "model.cpu.onnx",
    ):  # with VNNI two graphs, else one
        with Embedder.open(engine, device=ONNXRUNTIME) as embedder:
            got = embedder.run(x.numpy())
        assert all(np.isfinite(value).all() for value in got.values())
        assert measure("cls", got["cls"], wanted["cls"])["cosine"] >= CLS_COSINE
        assert measure("patch", got["patch"], wanted["patch"])["cosine"] >= MEAN_PATCH_COSINE


@pytest.mark.parametrize(
    ("arch", "pathology"),
    [
        pytest.param(arch, pathology, marks=pytest.mark.slow if arch == "vit_small" else pytest.mark.matrix)
        for arch in ("vit_small", "vit_base", "vit_large")
        for pathology in ("early", "late")
    ],
)
def test_planted_outliers_survive_at_true_widths(arch: str, pathology: str, tmp_path: Path) -> None:
    config = replace(get_architecture(arch), depth=4)
    checkpoint = planted_checkpoint(config, pathology=pathology)  # type: ignore[arg-type]
    bundle = export_int8(checkpoint, tmp_path / "b")
    model = build_model(checkpoint)
    with Embedder.open(bundle.root, device=ONNXRUNTIME) as embedder:
        for size in SIZES:
            x = pixels(PHOTOS, *size)
            wanted, got = reference(model, x), embedder.run(x.numpy())
            assert measure("cls", got["cls"], wanted["cls"])["cosine"] >= CLS_COSINE
            assert measure("patch", got["patch"], wanted["patch"])["cosine"] >= MEAN_PATCH_COSINE


def test_plain_quantisation_of_the_same_checkpoint_is_far_below() -> None:
    """One scale for all activations and one for all weights, no smoothing: the fixture is hard."""
    model = build_model(planted_checkpoint(tiny_config("mlp"))).eval()
    batches = list(in_batches(calibration_pixels(Calibration(limit=3), PREPROCESS)[0]))
    exact = features(model, batches)
    scheme = scheme_for(model)
    plain = [_unsmoothed(group) for group in scheme.groups]
    with simulate_8_bits(model, plain, "int8", per_token=False):
        bad = features(model, batches)
    with simulate_8_bits(model, scheme.groups, "int8", per_token=False):
        good = features(model, batches)
    cosine = torch.nn.functional.cosine_similarity
    assert float(cosine(bad[0], exact[0]).min()) < 0.9
    assert float(cosine(good[0], exact[0]).min()) > CLS_COSINE


def _unsmoothed(group: GroupScheme) -> GroupScheme:
    largest = float(group.largest * group.smoothing.max())
    return replace(group, smoothing=torch.ones_like(group.smoothing), largest=largest)


def test_an_embedding_does_not_depend_on_its_batch(bundles: dict[tuple[str, str], Bundle]) -> None:
    """With one scale for a whole batch it would, by up to 0.16."""
    x = pixels(PHOTOS, 96, 64).numpy()
    for case, bundle in bundles.items():
        with Embedder.open(bundle.root, device=ONNXRUNTIME) as embedder:
            together = embedder.run(x)
            for index in range(len(x)):
                alone = embedder.run(x[index : index + 1])
                for name, value in alone.items():
                    assert np.abs(value[0] - together[name][index]).max() <= 2e-5, (case, name)


# ---- the graph ----------------------------------------------------------------------


def test_types_follow_the_recipe(bundles: dict[tuple[str, str], Bundle]) -> None:
    for (kind, recipe), bundle in bundles.items():
        types = types_by_role(ir.load(bundle.root / "model.onnx").graph)
        low_precision = {"int8": "INT8", "fp8": "FLOAT8E4M3FN"}[recipe]
        for role in ("qkv", "out", "ffn_in", "ffn_out"):
            assert set(types[role]) == {low_precision}, (kind, role)
        assert set(types["scores"]) == set(types["values"]) == {"FLOAT16"}
        cpu = types_by_role(ir.load(bundle.root / "model.cpu.onnx").graph)
        assert set(cpu["qkv"]) == {low_precision}


def test_the_graph_for_gpus_is_symmetric_and_per_channel(bundles: dict[tuple[str, str], Bundle]) -> None:
    model = ir.load(bundles["mlp", "int8"].root / "model.onnx")
    assert model.opset_imports[""] >= 19
    weights = 0
    for node in model.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.inputs) > 2:
            zero = node.inputs[2]
            assert zero is not None
            assert zero.const_value is not None
            assert int(zero.const_value.numpy()) == 0
        if node.op_type == "DequantizeLinear" and node.inputs[0].const_value is not None:  # type: ignore[union-attr]
            weights += 1
            values, scale = (value.const_value.numpy() for value in node.inputs[:2])  # type: ignore[union-attr]
            (product, _), *_ = node.outputs[0].uses()
            assert values.min() >= -127, "symmetric"
            assert scale.dtype == np.float16
            assert np.frexp(scale)[0] == 0.5, "a power of two"
            (cast,) = (user for user, _ in product.outputs[0].uses())
            (mul,) = (user for user, _ in cast.outputs[0].uses())
            per_channel = mul.inputs[1].producer().inputs[0]  # type: ignore[union-attr]
            assert (cast.op_type, mul.op_type) == ("Cast", "Mul")
            assert per_channel.shape == (values.shape[1],)  # type: ignore[union-attr]
    assert weights == 3 * 6


@pytest.mark.parametrize("form", ["int8", "fp8"])
def test_no_sum_of_8_bit_products_leaves_fp16(form: str) -> None:
    """Whatever the weights and the image: all levels at their largest, for every K of a released model."""
    largest = FORMATS[form].largest
    for rows in (32, 128, 384, 1536, 4096, 8192, 16384):
        first, second = fitting_exponents(rows, FORMATS[form])
        total = rows * (largest * 2.0**-first) * (largest * 2.0**-second)
        assert 65504 / 2 < total <= 65504 or (first, second) == (0, 0)
        assert np.float16(2.0**-first) >= 2**-14, "a normal number"


def test_the_levels_and_scales_of_both_graphs_are_the_same(bundles: dict[tuple[str, str], Bundle]) -> None:
    """No scale is rounded to fp16: what is in fp16 is a power of two."""
    root = bundles["mlp", "int8"].root
    gpu, cpu = (ir.load(root / name).graph.initializers for name in ("model.onnx", "model.cpu.onnx"))
    for name in ("blocks.0.attn.q.weight.T.int8", "blocks.0.attn.q.weight.T.int8.scale"):
        one, other = (found[name].const_value.numpy() for found in (gpu, cpu))  # type: ignore[union-attr]
        np.testing.assert_array_equal(one, other)


def test_integers_of_the_cpu_graph_fit_sixteen_bits(bundles: dict[tuple[str, str], Bundle]) -> None:
    """CPUs without VNNI add pairs of u8·s8 in 16 bits and saturate; ours cannot reach that."""
    graph = ir.load(bundles["mlp", "int8"].root / "model.cpu.onnx").graph
    products = [node for node in graph if node.op_type == "MatMulIntegerToFloat"]
    assert len(products) == 3 * 6
    step = graph.initializers["const.row_step"].const_value
    assert step is not None
    top = PORTABLE.middle + round(1 / float(step.numpy()))
    assert 2 * top * 127 <= 32767
    assert top <= 127


def test_most_of_the_work_is_in_8_bits() -> None:
    """Counted for ViT-S at 224 pixels, where attention's own share is largest among the released models."""
    config = get_architecture("vit_small")
    tokens, dim = 201, config.embed_dim
    linear = 12 * dim * dim * tokens
    attention = 2 * tokens * tokens * dim
    patches = 196 * dim * 3 * 256 / config.depth
    assert linear * (1 - sensitivity.FALLBACK_BUDGET / 3) / (linear + attention + patches) >= 0.8


# ---- smoothing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_smoothing_changes_only_ranges(kind: str) -> None:
    """Powers of two, divided out on one side and multiplied in on the other: fp32 outputs are the same."""
    model = build_model(planted_checkpoint(tiny_config(kind))).eval()
    scheme = scheme_for(model)
    _, weights = make_meta_copy(model)
    before = {name: make() for name, make in weights.items()}
    fold_scheme(weights, scheme)
    changed = {name for name, make in weights.items() if not torch.equal(make(), before[name])}
    assert any(name.endswith("norm1.weight") for name in changed)
    for group in scheme.groups:
        assert torch.equal(group.smoothing.log2(), group.smoothing.log2().round())
        for linear in group.group.linears:
            before_v = before[f"{linear}.weight"]
            carried = linear.endswith((".v", ".w2"))  # their rows carry the next group's smoothing
            if not carried:
                assert torch.equal(weights[f"{linear}.weight"]() / group.smoothing, before_v)
    for group in scheme.groups:
        if group.group.carriers and group.group.path.endswith("qkv"):
            norm = group.group.carriers[0]
            assert torch.equal(weights[norm]() * group.smoothing, before[norm])


# ---- the scheme ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_same_images_same_bytes(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tiny_config("mlp"))
    one, other = (export_int8(checkpoint, tmp_path / name) for name in ("one", "other"))
    for name in ("model.onnx", "model.onnx.data", "model.cpu.onnx"):
        assert (one.root / name).read_bytes() == (other.root / name).read_bytes(), name


@pytest.mark.slow
def test_overrides_by_name(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tiny_config("mlp"))
    overrides = (("blocks.0.*", "fp32"), ("blocks.1.mlp.fc2", "bf16"))
    bundle = export_int8(checkpoint, tmp_path / "b", overrides=overrides)
    assert bundle.manifest.graph.overrides == ("blocks.0.*=fp32", "blocks.1.mlp.fc2=bf16")
    graph = ir.load(bundle.root / "model.onnx").graph
    types = {
        str(node.name).partition("/")[0]: {
            stored_type(value) for value in node.inputs[1:] if value is not None
        }
        for node in graph
        if node.op_type == "MatMul" and ".mlp." in str(node.name)
    }
    assert types["blocks.0.mlp.fc1"] == {"FLOAT"}
    assert types["blocks.1.mlp.fc2"] == {"BFLOAT16"}
    assert types["blocks.1.mlp.fc1"] == {"INT8"}
    with pytest.raises(MisuseError, match=r"blocks\.9\.\*=fp32.*matches no layer"):
        export_int8(checkpoint, tmp_path / "c", overrides=(("blocks.9.*", "fp32"),))
    with pytest.raises(MisuseError, match="wanted PATTERN=TYPE"):
        ExportOptions(recipe="int8", overrides=(("blocks.0.*", "int4"),))
    with pytest.raises(MisuseError, match="fp32 has none"):
        ExportOptions(overrides=(("blocks.0.*", "fp16"),))


def test_sensitive_layers_fall_back_to_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheme with one wrong range: the search finds exactly that group."""
    model = build_model(random_checkpoint(tiny_config("mlp"))).eval()
    _, weights = make_meta_copy(model)
    scheme = scheme_for(model)
    ruined = next(group for group in scheme.groups if group.group.path == "blocks.1.mlp.fc1")
    groups = tuple(replace(g, largest=g.largest / 50) if g is ruined else g for g in scheme.groups)
    batches = list(in_batches(calibration_pixels(Calibration(limit=2), PREPROCESS)[0]))
    monkeypatch.setattr(sensitivity, "FALLBACK_BUDGET", 0.3)
    search = sensitivity.choose_fallback_layers(
        model, weights, replace(scheme, groups=groups), batches, lambda _: None
    )
    assert search.fallback_layers == ("blocks.1.mlp.fc1",)
    assert search.after < 0.3 * search.before
    fine = sensitivity.choose_fallback_layers(model, weights, scheme, batches, lambda _: None)
    assert fine.fallback_layers == ()
    assert fine.scheme is scheme
    monkeypatch.setattr(sensitivity, "FALLBACK_BUDGET", 0.01)
    poor = sensitivity.choose_fallback_layers(
        model, weights, replace(scheme, groups=groups), batches, lambda _: None
    )
    assert poor.fallback_layers == (), "its work exceeds the budget"


def test_simulation_restores_the_model() -> None:
    model = build_model(random_checkpoint(tiny_config("swiglu"))).eval()
    scheme = scheme_for(model)
    batches = list(in_batches(calibration_pixels(Calibration(limit=2), PREPROCESS)[0]))
    before = features(model, batches)
    with simulate_8_bits(model, scheme.groups, "int8", per_token=True):
        during = features(model, batches)
    assert 1e-3 < sensitivity.feature_error(during, before) < 0.1
    assert all(torch.equal(a, b) for a, b in zip(features(model, batches), before, strict=True))


# ---- calibration images ----------------------------------------------------------------------


def test_a_bad_graph_for_gpus_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU bundle does not run this graph, so the judge must check it at export."""
    original = calibrate_8_bits

    def starved(*args: object, **kwargs: object):  # type: ignore[no-untyped-def]
        made = original(*args, **kwargs)  # type: ignore[arg-type]
        groups = tuple(replace(group, largest=group.largest / 100) for group in made.scheme.groups)
        return replace(made, scheme=replace(made.scheme, groups=groups))

    monkeypatch.setattr(write_bundle, "calibrate_8_bits", starved)
    with pytest.raises(Exception, match="graph for GPUs is not the model"):
        export_int8(random_checkpoint(tiny_config("mlp")), tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_judge_limits_include_ours() -> None:
    limits = {row.metric: row.limit for row in THRESHOLDS["int8"]}
    assert limits["cosine"] >= MEAN_PATCH_COSINE


def test_a_summary_counts_products_by_type(bundles: dict[tuple[str, str], Bundle]) -> None:
    types = summarize_onnx(bundles["mlp", "int8"].root / "model.onnx")["types"]
    assert types["products"] == {"INT8": 18, "FLOAT16": 7}


def test_custom_layers_keep_16_bits() -> None:
    """The exporter quantises only layers that it knows."""

    class Mine(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    model = build_model(random_checkpoint(tiny_config("mlp")))
    model.blocks[1].mlp = Mine()
    paths = [group.path for group in find_groups(model)]
    assert "blocks.1.attn.qkv" in paths
    assert not [path for path in paths if path.startswith("blocks.1.mlp")]
