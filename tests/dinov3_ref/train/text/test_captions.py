"""Batches of captions: the caption of each image, tokens as the tokenizer gives them, broken images."""

from __future__ import annotations

from pathlib import Path

import torch

from dinov3_ref.data.sample import Sample
from dinov3_ref.text import Tokenizer
from dinov3_ref.train.text.captions import build_caption_loader, collate_captions
from tests.support.text.captions import text_run


def test_each_image_comes_with_its_caption(captions: Path, tmp_path: Path) -> None:
    config = text_run(captions, tmp_path, "train.batch_size_per_gpu=6")
    loader = build_caption_loader(config, rank=0, world_size=1)
    dataset = loader.loader.dataset.source  # type: ignore[attr-defined]
    batch = next(iter(loader))
    lines = dict(line.split("\t") for line in (captions / "train.tsv").read_text().splitlines())
    tokenizer = Tokenizer(captions / "vocabulary.txt", 604)
    drawn = [int(index) for index, _ in zip(loader.sampler, range(6), strict=False)]
    wanted = tokenizer.tokenize([lines[dataset.paths[index]] for index in drawn])
    assert torch.equal(batch["tokens"], wanted)
    assert batch["images"].shape == (6, 3, 32, 32)
    again = next(iter(build_caption_loader(config, rank=0, world_size=1)))
    assert torch.equal(batch["images"], again["images"])


def test_an_image_that_cannot_be_read_empties_the_batch() -> None:
    batch = collate_captions(
        [Sample(None, (), 0, ("a.jpg is broken",))],
        captions=["a cat"],
        tokenizer=None,  # type: ignore[arg-type]
    )
    assert batch == {"broken": ["a.jpg is broken"], "drawn": 1}
