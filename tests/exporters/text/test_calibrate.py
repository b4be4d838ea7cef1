from __future__ import annotations

import torch

from dinov3_ref.text import Tokenizer
from exporters.precision.recipes import RECIPES
from exporters.text.calibrate import calibrate_text, one_by_one
from exporters.text.texts import CALIBRATION_TEXTS
from exporters.trace.fold import FOLDS
from exporters.trace.text_tower import make_text_copy
from tests.support.text.tiny_text import VOCAB_SIZE, VOCABULARY, tiny_dinotxt


def test_every_linear_layer_of_a_block_is_in_a_group() -> None:
    tower = tiny_dinotxt().build().text_model
    _, weights = make_text_copy(tower, FOLDS)
    tokenizer = Tokenizer(VOCABULARY, VOCAB_SIZE)
    overrides = [("*.blocks.1.attention.q", "fp16")]
    found = calibrate_text(tower, weights, tokenizer, RECIPES["int8"], overrides, lambda _: None)
    assert not found.fallback_layers
    linears = set(found.scheme.by_linear())
    layers = {name.removesuffix(".weight") for name in weights if ".blocks." in name and "norm" not in name}
    layers = {name for name in layers if not name.endswith(".bias")}
    taken_out = {f"backbone.blocks.1.attention.{part}" for part in "qkv"}  # by the override of one of them
    assert linears == layers - taken_out
    assert found.images == len(CALIBRATION_TEXTS)


def test_texts_end_at_their_end_token() -> None:
    ids = torch.tensor([[8, 1, 9, 0], [8, 9, 0, 0]])
    assert [row.tolist() for row in one_by_one(ids)] == [[[8, 1, 9]], [[8, 9]]]
