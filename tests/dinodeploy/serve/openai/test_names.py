"""Model ids: one for each output that is one vector per image."""

from __future__ import annotations

from types import SimpleNamespace as Facts
from typing import Any

import pytest

from dinodeploy.serve.openai.names import ServedModel, find_model, served_models
from dinodeploy.serve.refused import Refused
from tests.support.head_facts import head_facts


def served(
    outputs: dict[str, tuple[Any, ...]], *, words: bool = False, head: Any = None, hub: str = ""
) -> dict[str, ServedModel]:
    weights = "hub" if hub else "file"
    model = Facts(arch="vit_small", embed_dim=8, weights=weights, source=hub or "a.pth")
    manifest = Facts(model=model, head=head, outputs=[Facts(name=n, shape=s) for n, s in outputs.items()])
    names = (*outputs, *(("mean_patch", "pooled") if {"cls", "patch"} <= set(outputs) else ()))
    service: Any = Facts(
        embedder=Facts(manifest=manifest),
        output_names=names,
        words=object() if words else None,
        settings=Facts(served_model_name=None),
    )
    return served_models(service)


MAP = ("B", "h", "w", 8)
BACKBONE = {"cls": ("B", 8), "storage": ("B", 4, 8), "patch": MAP, "layer_1": MAP}


def test_a_backbone() -> None:
    found = served(BACKBONE)
    assert list(found) == ["vit_small", "vit_small:cls", "vit_small:pooled", "vit_small:mean_patch"]
    assert found["vit_small"] == ServedModel("vit_small", "cls", 8, texts=False)
    assert (found["vit_small:pooled"].output, found["vit_small:pooled"].dimensions) == ("pooled", 16)


def test_weights_of_the_hub_are_named_after_it() -> None:
    assert "facebook/dinov3-vits16" in served(BACKBONE, hub="facebook/dinov3-vits16")


def test_a_bundle_with_texts() -> None:
    outputs = {"patch_embedding": ("B", "h", "w", 6), "cls": ("B", 8), "image_embedding": ("B", 6)}
    found = served(outputs, words=True)
    assert list(found) == ["vit_small", "vit_small:image_embedding", "vit_small:cls"]
    assert found["vit_small"] == ServedModel("vit_small", "image_embedding", 6, texts=True)
    assert not found["vit_small:cls"].texts
    assert not served(outputs)["vit_small"].texts, "without its tokenizer"


def test_classes_are_no_embedding() -> None:
    found = served({**BACKBONE, "logits": ("B", 9)}, head=head_facts("classify", outputs=("logits",)))
    assert not any(model.output == "logits" for model in found.values())
    own = served({"projected": ("B", 9)}, head=head_facts("custom", outputs=("projected",)))
    assert [model.dimensions for model in own.values()] == [9, 9]
    detector = served({"boxes": ("B", 9, 4)}, head=head_facts("detect", outputs=("boxes",)))
    with pytest.raises(
        Refused, match="there is none: no output of this bundle is one vector per image"
    ) as no:
        find_model(detector, "vit_small")
    assert (no.value.status, no.value.code, no.value.param) == (404, "model_not_found", "model")
