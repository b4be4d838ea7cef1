"""Runs that align texts: they learn, resume bit for bit, and write one file that loads again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from dinov3_ref.data.transforms import make_classification_eval_transform
from dinov3_ref.text import DINOTxt, Tokenizer, load_dinotxt
from dinov3_ref.train.text.run import TextRun
from tests.support.text.captions import text_run
from tests.support.training.toy_training import losses

CANDIDATES = 20  # captions of as many held-out images, all different


def share_found(model: DINOTxt, captions: Path) -> float:
    """The share of held-out images that are nearest to their own caption, among 20; chance is 0.05."""
    rows = [line.split("\t") for line in (captions / "test.tsv").read_text().splitlines()]
    transform = make_classification_eval_transform(
        crop_size=32, resize_size=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
    )
    images = torch.stack([transform(Image.open(captions / name)) for name, _ in rows])
    tokens = Tokenizer(captions / "vocabulary.txt", 604).tokenize([caption for _, caption in rows])
    with torch.no_grad():
        cosines = F.normalize(model.encode_image(images), dim=-1) @ F.normalize(
            model.encode_text(tokens), dim=-1
        ).T.unflatten(1, (-1, CANDIDATES)).transpose(0, 1)
    groups = torch.stack([cosines[g, g * CANDIDATES : (g + 1) * CANDIDATES] for g in range(len(cosines))])
    return float((groups.argmax(dim=-1) == torch.arange(CANDIDATES)).float().mean())


def test_held_out_images_find_their_captions(captions: Path, tmp_path: Path) -> None:
    """Measured: 0.41 after 60 steps of 32 pairs; chance is 0.05, with a deviation of 0.022."""
    config = text_run(captions, tmp_path, "train.batch_size_per_gpu=32")
    run = TextRun(config)
    untrained = share_found(run.arch.model.eval(), captions)
    run.arch.train()
    run.train()
    loaded = load_dinotxt(tmp_path / "dinotxt")
    assert loaded.backbone.mean == (0.5, 0.5, 0.5)
    found = share_found(loaded.build(), captions)
    assert untrained < 0.14
    assert found > 0.2
    written, own = loaded.build().state_dict(), run.arch.model.state_dict()
    assert all(torch.equal(written[name], own[name]) for name in own)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_three_seeds_learn(captions: Path, tmp_path: Path, seed: int) -> None:
    """Measured: 0.48, 0.44 and 0.38 after 60 steps of 48 pairs."""
    run = TextRun(text_run(captions, tmp_path, f"train.seed={seed}", "train.batch_size_per_gpu=48"))
    run.train()
    assert share_found(run.arch.model.eval(), captions) > 0.25


def test_a_stopped_run_resumes_bit_for_bit(captions: Path, tmp_path: Path) -> None:
    short = (
        "train.batch_size_per_gpu=4",
        "train.OFFICIAL_EPOCH_LENGTH=2",
        "checkpointing.period=2",
        "text.drop_path_rate=0.3",
        "text.dropout=0.1",
    )
    whole = TextRun(text_run(captions, tmp_path / "whole", *short))
    whole.train()
    stopped = TextRun(text_run(captions, tmp_path / "parts", *short))
    batches = stopped.batches()
    with stopped.logging(0):
        for iteration in range(2):
            metrics = stopped.step(batches, iteration, stopped.rates.at(iteration))
            stopped.record(iteration, metrics, {"images_per_second": 1.0, "data_share": 0.0})
            stopped.save_if_due(iteration)
    resumed = TextRun(text_run(captions, tmp_path / "parts", *short))
    resumed.train()
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    ours, theirs = resumed.arch.model.state_dict(), whole.arch.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    (file,) = (tmp_path / "parts" / "ckpt" / "3").glob("*.distcp")
    assert file.stat().st_size < 9_000_000, "the frozen backbone is not in a checkpoint"
