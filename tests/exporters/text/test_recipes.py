"""The text graph under every recipe, lively and with planted outliers: inside the judge's limits.

`pytest -s` prints what is measured; `dinodeploy/parity/text.py` has the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dinodeploy.backends import open_backend
from dinodeploy.bundle.manifest import Manifest, parse_manifest
from dinodeploy.bundle.text_facts import TEXT_GOLDEN_FILE, TEXT_OUTPUT
from dinodeploy.parity.measurement import Verdict
from dinodeploy.parity.text import judge_texts, load_texts
from dinov3_ref.text import LoadedDinoTxt
from exporters.bundle.options import ExportOptions
from exporters.graph.files import read_onnx
from exporters.graph.summary import types_by_role
from exporters.text.graph import prepare_text, write_text
from tests.support.text.tiny_text import VOCABULARY, tiny_dinotxt

DATA = Path(__file__).parents[2] / "data"
MANIFEST = parse_manifest((DATA / "format2_manifest.json").read_bytes(), "format2_manifest.json")
BLOCK = "text_model.backbone.blocks.1."
TYPES = {"fp16": "FLOAT16", "bf16": "BFLOAT16", "int8": "INT8", "fp8": "FLOAT8E4M3FN"}


def lively() -> LoadedDinoTxt:
    return tiny_dinotxt()


def planted() -> LoadedDinoTxt:
    """Four hidden units of a block reach hundreds of thousands: a plain fp16 product is infinite there."""
    loaded = tiny_dinotxt()
    state = {name: tensor.clone() for name, tensor in loaded.state.items()}
    for name in ("fc1.weight", "fc1.bias"):
        state[f"{BLOCK}feed_forward.{name}"][:4] *= 2.0**18
    state[f"{BLOCK}feed_forward.fc2.weight"][:, :4] *= 2.0**-18
    return replace(loaded, state=state)


def written(loaded: LoadedDinoTxt, root: Path, recipe: str) -> Manifest:
    base = replace(MANIFEST, engines={}, files={}, preference=())
    part = prepare_text(loaded, VOCABULARY)
    manifest, _ = write_text(
        part, replace(base, text=part.facts), root, ExportOptions(recipe=recipe), lambda _: None
    )
    return manifest


def judged(root: Path, name: str, recipe: str) -> Verdict:
    golden = load_texts(root / TEXT_GOLDEN_FILE)
    backend = open_backend("onnxruntime", root / name)
    try:
        return judge_texts(
            golden,
            lambda _: golden.token_ids,
            lambda ids: backend.run(ids)[TEXT_OUTPUT],  # type: ignore[arg-type]
            recipe,
        )
    finally:
        backend.close()


def slow(recipe: str, make: Callable[[], LoadedDinoTxt]) -> Any:
    return pytest.param(recipe, make, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("recipe", "make"),
    [
        ("fp16", planted),
        ("int8", lively),
        slow("fp16", lively),
        *(slow(recipe, make) for recipe in ("bf16", "fp8") for make in (lively, planted)),
        slow("int8", planted),
    ],
)
def test_recipes(tmp_path: Path, recipe: str, make: Callable[[], LoadedDinoTxt]) -> None:
    manifest = written(make(), tmp_path, recipe)
    assert list(manifest.text_engines) == ["text.cpu.onnx", "text.onnx"]
    assert not list(tmp_path.glob("text.proxy*"))
    verdict = judged(tmp_path, "text.cpu.onnx", recipe)
    worst = max(m.value or 0.0 for m in verdict.measurements if m.metric == "largest_error")
    print(make.__name__, recipe, verdict.worst("cosine"), worst)
    assert verdict.passed, [failure.sentence for failure in verdict.failures]
    types = types_by_role(read_onnx(tmp_path / "text.onnx", weights=False).graph)
    for role in ("qkv", "out", "ffn_in", "ffn_out"):
        assert TYPES[recipe] in types[role]
    low = "BFLOAT16" if recipe == "bf16" else "FLOAT16"
    assert types["scores"] == types["values"] == types["softmax"] == {low: 3}


@pytest.mark.slow
def test_without_its_ranges_fp16_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import nullcontext

    monkeypatch.setattr("exporters.text.graph.watch_linears", lambda tower: nullcontext({}))
    written(planted(), tmp_path, "fp16")
    assert not judged(tmp_path, "text.cpu.onnx", "fp16").passed


def test_an_override_of_the_text_tower(tmp_path: Path) -> None:
    part = prepare_text(lively(), VOCABULARY)
    base = replace(MANIFEST, engines={}, files={}, preference=(), text=part.facts)
    options = ExportOptions(
        recipe="fp16",
        overrides=(("blocks.0.*", "fp32"), ("text_model.backbone.blocks.0.attention.q", "fp32")),
    )
    assert options.image_overrides == (("blocks.0.*", "fp32"),)
    write_text(part, base, tmp_path, options, lambda _: None)
    types = types_by_role(read_onnx(tmp_path / "text.onnx", weights=False).graph)
    assert types["qkv"] == {"FLOAT16": 8, "FLOAT": 1}


def test_fp32_weights_are_written_once(tmp_path: Path) -> None:
    manifest = written(lively(), tmp_path, "fp32")
    assert list(manifest.text_engines) == ["text.onnx"]
    own = {name: tensor for name, tensor in lively().state.items() if name.startswith("text_model.")}
    size = sum(tensor.numel() for tensor in own.values()) * torch.float32.itemsize
    assert manifest.files["text.onnx.data"].bytes < 1.1 * size
