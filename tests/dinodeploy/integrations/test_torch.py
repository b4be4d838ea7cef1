"""`EngineModule` beside the model that its bundle was exported from: same methods, keys and numbers."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from dinodeploy.errors import MisuseError  # noqa: E402
from dinodeploy.integrations.torch import EngineModule  # noqa: E402
from dinov3_ref.checkpoints import build_model, random_checkpoint  # noqa: E402
from tests.support.images.photographs import pixels  # noqa: E402
from tests.support.tiny_models import ONNXRUNTIME, export_passing, tiny_config, tiny_convnext  # noqa: E402

CLOSE = {"rtol": 0, "atol": 2e-5}  # measured 1.6e-6 at magnitudes up to 4
OPTIONS: dict[str, Any] = {"device": ONNXRUNTIME, "threads": 1}


@pytest.fixture(scope="module")
def reference() -> Any:
    return build_model(random_checkpoint(tiny_config(), 0))


@pytest.fixture(scope="module")
def module(tiny_bundle: Path) -> EngineModule:
    return EngineModule(tiny_bundle, **OPTIONS)


@pytest.fixture(scope="module")
def images() -> Any:
    return pixels(("chelsea", "rocket"), 48, 64)


@pytest.fixture(scope="module")
def convnext(tmp_path_factory: pytest.TempPathFactory) -> tuple[EngineModule, Any]:
    checkpoint = random_checkpoint(tiny_convnext(), 0)
    out = tmp_path_factory.mktemp("convnext") / "bundle"
    export_passing(checkpoint, out, imgsz=(64, 64), layers=(1, 2))
    return EngineModule(out, **OPTIONS), build_model(checkpoint)


def assert_same(got: Any, wanted: Any) -> None:
    if isinstance(wanted, tuple):
        assert isinstance(got, tuple)
        assert len(got) == len(wanted)
        for one, other in zip(got, wanted, strict=True):
            assert_same(one, other)
    else:
        torch.testing.assert_close(got, wanted, **CLOSE)


def test_features_are_those_of_the_model(module: EngineModule, reference: Any, images: Any) -> None:
    with torch.no_grad():
        wanted, wanted_cls = reference.forward_features(images), reference(images)
    got = module.forward_features(images)
    assert got.keys() == wanted.keys() - {"x_prenorm"}
    assert got["masks"] is None
    for name in ("x_norm_clstoken", "x_storage_tokens", "x_norm_patchtokens"):
        assert_same(got[name], wanted[name])
    assert_same(module(images), wanted_cls)
    assert_same(module(images, is_training=True)["x_norm_clstoken"], wanted_cls)
    for name in ("embed_dim", "num_features", "patch_size", "n_blocks", "n_storage_tokens"):
        assert getattr(module, name) == getattr(reference, name)


def test_a_list_of_batches(module: EngineModule, reference: Any, images: Any) -> None:
    batches = [images, images[:1, :, :32, :32]]
    with torch.no_grad():
        wanted = reference.forward_features(batches)
    for one, other in zip(module.forward_features(batches, [None, None]), wanted, strict=True):
        assert_same(one["x_norm_patchtokens"], other["x_norm_patchtokens"])


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"n": [1, 2], "reshape": True},
        {"return_class_token": True, "return_extra_tokens": True},
        {"return_extra_tokens": True, "reshape": True},
    ],
)
def test_intermediate_layers(module: EngineModule, reference: Any, images: Any, how: dict[str, Any]) -> None:
    with torch.no_grad():
        wanted = reference.get_intermediate_layers(images, **how)
    got = module.get_intermediate_layers(images, **how)
    assert_same(got, wanted)
    assert all(one.is_contiguous() for one in got if isinstance(one, torch.Tensor))


@pytest.mark.slow
def test_a_convnext(convnext: tuple[EngineModule, Any]) -> None:
    module, reference = convnext
    images = pixels(("chelsea",), 64, 96)
    with torch.no_grad():
        wanted = reference.forward_features(images)
        stages = reference.get_intermediate_layers(images, [1, 2, 3], True)
        last = reference.get_intermediate_layers(images, 1, False, True)
        unnormed = reference.get_intermediate_layers(images, [1], norm=False)
    got = module.forward_features(images)
    for name in ("x_norm_clstoken", "x_storage_tokens", "x_norm_patchtokens"):
        assert_same(got[name], wanted[name])
    assert_same(module.get_intermediate_layers(images, [1, 2, 3], True), stages)
    assert_same(module.get_intermediate_layers(images, 1, False, True), last)
    assert_same(module.get_intermediate_layers(images, [1], norm=False), unnormed)
    with pytest.raises(MisuseError, match="norm is False"):
        module.get_intermediate_layers(images, norm=False)


def test_type_device_and_layout_follow_the_input(module: EngineModule, images: Any) -> None:
    wanted = module(images)
    assert module(images.half()).dtype is torch.float16
    assert module(images.double()).dtype is torch.float64
    half = module(images.to(torch.bfloat16))
    assert half.dtype is torch.bfloat16
    torch.testing.assert_close(half.float(), wanted, rtol=0.05, atol=0.05)
    assert_same(module(images.contiguous(memory_format=torch.channels_last)), wanted)
    assert_same(module(images.flip(0)).flip(0), wanted)


def test_a_probe_on_top_is_trained(module: EngineModule, images: Any) -> None:
    probe = torch.nn.Sequential(module, torch.nn.Linear(module.embed_dim, 2))
    torch.nn.functional.cross_entropy(probe(images), torch.tensor([0, 1])).backward()
    assert [name for name, one in probe.named_parameters() if one.grad is not None] == ["1.weight", "1.bias"]


def test_gradients_are_refused(module: EngineModule, images: Any) -> None:
    wanting = images.clone().requires_grad_()
    with pytest.raises(
        MisuseError, match=r"requires gradients, and an engine has none; call it under torch\.no"
    ):
        module(wanting)
    with torch.no_grad():
        assert_same(module(wanting), module(images))


def test_it_is_copied_and_pickled_as_a_path(module: EngineModule, images: Any) -> None:
    content = pickle.dumps(module)
    assert len(content) < 2000
    for one in (copy.deepcopy(module), pickle.loads(content)):
        assert one.embedder is module.embedder, "opened once"
        assert torch.equal(one(images), module(images))
    assert module.state_dict() == {}
    assert "storage, patch, layer_1" in repr(module)


@pytest.mark.slow
def test_a_compiled_model_around_it(module: EngineModule, images: Any) -> None:
    around = torch.nn.Sequential(module, torch.nn.ReLU())
    compiled = torch.compile(around, backend="eager")
    assert_same(compiled(images), around(images))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda m, x: m((255 * x).to(torch.uint8)),
            r"pixels are torch\.uint8; wanted floating-point numbers",
        ),
        (lambda m, x: m(x[:, :, :40]), "pixels are 40x64; wanted multiples of the patch size 16"),
        (lambda m, x: m(x[0]), r"pixels have shape \[3, 48, 64\]; wanted \[B,3,H,W\]"),
        (lambda m, x: m.forward_features(x, x), "masks are for training"),
        (lambda m, x: m.get_intermediate_layers(x, 4), r"n is 4; the model has 3 blocks, numbered from 0"),
        (
            lambda m, x: m.get_intermediate_layers(x, [0]),
            "has no output 'layer_0', only cls, storage, patch, la",
        ),
        (lambda m, x: m.get_intermediate_layers(x, [1], norm=False), "a bundle holds normed layers only"),
        (lambda m, x: m.get_intermediate_layers(x, [1], False, True), "has no output 'cls_1'"),
        (
            lambda m, x: m.get_intermediate_layers(x, [1], return_extra_tokens=True),
            "storage tokens of block 1",
        ),
    ],
)
def test_misuse(module: EngineModule, images: Any, call: Any, words: str) -> None:
    with pytest.raises(MisuseError, match=words):
        call(module, images)


def test_an_engine_of_cls_alone(tiny_bundle: Path, module: EngineModule, images: Any) -> None:
    small = EngineModule(tiny_bundle, outputs=("cls",), **OPTIONS)
    assert_same(small(images), module(images))
    with pytest.raises(MisuseError, match=r"has no output 'patch', only cls; .* open it without `outputs`"):
        small.forward_features(images)
