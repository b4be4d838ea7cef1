"""The toy model of words: its card tells its hash, and it loads with its backbone."""

from __future__ import annotations

import hashlib
import re

import pytest

from tests.support.text.words import HEAD, MODELS, VOCABULARY


def test_the_card_names_the_file() -> None:
    card = (HEAD.parent / "README.md").read_text("utf-8")
    (digest,) = re.findall(r"sha256 `(\w{64})`", card)
    assert hashlib.sha256(HEAD.read_bytes()).hexdigest() == digest
    assert HEAD.stat().st_size < 3e6


def test_it_fits_its_backbone_and_vocabulary() -> None:
    pytest.importorskip("tokenizers")
    from dinov3_ref.configs import load_config
    from dinov3_ref.text import Tokenizer, load_dinotxt

    loaded = load_dinotxt(MODELS / "toy_vit", HEAD)
    recipe = load_config("toy_text", ["text.backbone=x", "text.vocabulary=x"]).text
    found = loaded.config
    assert (found.text_dim, found.text_depth, found.vocab_size) == (
        recipe.dim,
        recipe.depth,
        recipe.vocab_size,
    )
    assert Tokenizer(VOCABULARY, found.vocab_size).tokenize("a red circle").shape == (1, 77)
