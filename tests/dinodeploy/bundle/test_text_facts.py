"""The text part of a manifest: what it may hold, what it decides, and that other manifests do not change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dinodeploy.bundle.manifest import EngineFacts, FileFacts, Manifest, parse_manifest
from dinodeploy.bundle.text_facts import TEXT_OUTPUT, TextFacts
from dinodeploy.errors import BundleError

DATA = Path(__file__).parents[2] / "data"
MANIFEST = parse_manifest((DATA / "format2_manifest.json").read_bytes(), "format2_manifest.json")
FACTS = TextFacts("text.onnx", "tokenizer.json", "ab" * 32, 600, 77, 256, 14.3, 3, "head.pth", "cd" * 32)
ENGINES = {
    "text.cpu.onnx": EngineFacts("onnxruntime", ("text.cpu.onnx", "text.onnx.data"), outputs=(TEXT_OUTPUT,)),
    "text.onnx": EngineFacts("onnxruntime_cuda", ("text.onnx", "text.onnx.data"), outputs=(TEXT_OUTPUT,)),
}
NAMES = ("text.cpu.onnx", "text.onnx", "text.onnx.data", "tokenizer.json", "golden.text.safetensors")


def with_text(**changes: Any) -> Manifest:
    files = {**MANIFEST.files, **{name: FileFacts(name[:1] * 64, 1) for name in NAMES}}
    return replace(MANIFEST, **{"text": FACTS, "text_engines": ENGINES, "files": files, **changes})


def test_the_text_engines_are_not_among_those_of_images() -> None:
    manifest = with_text()
    assert not set(manifest.order) & set(ENGINES)
    assert manifest.files_of("text.onnx") == ("text.onnx", "text.onnx.data")
    assert manifest.outputs_of("text.onnx") == (TEXT_OUTPUT,)
    assert set(manifest.family("text.onnx")) == set(ENGINES)


def test_facts_and_fingerprints_cover_it() -> None:
    manifest = with_text()
    image = manifest.order[0]
    other = with_text(text=replace(FACTS, logit_scale=1.0))
    assert manifest.facts() != other.facts() != MANIFEST.facts()
    prints = [one.fingerprint(image, one.preprocess) for one in (MANIFEST, manifest)]
    assert "text_sha256" not in prints[0]
    assert prints[1]["text_sha256"] == manifest.text_sha256
    for name in ("text.onnx", "text.onnx.data", "tokenizer.json"):
        changed = with_text(files={**manifest.files, name: FileFacts("f" * 64, 1)})
        assert changed.text_sha256 != manifest.text_sha256
    assert MANIFEST.text_sha256 == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": None}, "`text_engines` has 'text.cpu.onnx'"),
        ({"text_engines": {}}, "lacks the graph 'text.onnx'"),
        (
            {"text": replace(FACTS, vocabulary="other.json")},
            "needs 'other.json', which `files`",
        ),
        (
            {"text_engines": {**ENGINES, "text.onnx": EngineFacts("onnxruntime", ("text.onnx",))}},
            "wanted text_embedding as the one output",
        ),
        (
            {
                "text_engines": {
                    **ENGINES,
                    "text.onnx": replace(ENGINES["text.onnx"], files=("text.onnx", "model.onnx")),
                }
            },
            "'model.onnx' belongs to an image engine too",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        with_text(**changes)
