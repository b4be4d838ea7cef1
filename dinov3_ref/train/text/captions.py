"""Batches of captioned images: {"images": [B,3,S,S], "tokens": [B,N]} from any labelled dataset.

The label of an image is its caption: a list has lines of path<TAB>caption, a table a column of texts
(`ImageTable:tables=data/*.parquet:label=caption`).

Shapes: B images of this rank, N context length, S side in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from dinov3_ref.data.datasets import make_dataset
from dinov3_ref.data.loaders import Batch, ResumableLoader, make_data_loader
from dinov3_ref.data.sample import Sample
from dinov3_ref.data.transforms import BICUBIC, make_normalize_transform, v2
from dinov3_ref.text import Tokenizer


def build_caption_loader(
    config: Any, *, rank: int | None = None, world_size: int | None = None
) -> ResumableLoader:
    """Endless batches of `config.train.batch_size_per_gpu` images of this rank with their captions' tokens.

    Images are random crops (`crops.global_crops_scale`) of `crops.global_crops_size`, mirrored if
    `crops.horizontal_flips`. rank, world_size: of torch.distributed if None. Raises `ConfigError`,
    `DataError`, `CheckpointError` for a bad vocabulary.
    """
    crops, text = config.crops, config.text
    flip = [v2.RandomHorizontalFlip()] if crops.horizontal_flips else []
    dataset = make_dataset(config.train.dataset_path, labelled=True)
    dataset.transform = v2.Compose(
        [
            v2.RandomResizedCrop(
                crops.global_crops_size, scale=tuple(crops.global_crops_scale), interpolation=BICUBIC
            ),
            *flip,
            make_normalize_transform(tuple(crops.rgb_mean), tuple(crops.rgb_std)),
        ]
    )
    tokenizer = Tokenizer(text.vocabulary, text.vocab_size, text.context_length)
    return make_data_loader(
        dataset=dataset,
        batch_size=config.train.batch_size_per_gpu,
        collate_fn=partial(collate_captions, captions=dataset.class_names, tokenizer=tokenizer),
        num_workers=config.train.num_workers,
        seed=config.train.seed,
        rank=rank,
        world_size=world_size,
    )


def collate_captions(samples: Sequence[Sample], *, captions: Sequence[str], tokenizer: Tokenizer) -> Batch:
    """Samples whose target is the number of a caption -> a batch; without images if one is empty."""
    broken = [line for sample in samples for line in sample.broken]
    batch: Batch = {"broken": broken, "drawn": len(samples)}
    if any(sample.views is None for sample in samples):
        return batch
    return batch | {
        "images": torch.stack([sample.views for sample in samples]),
        "tokens": tokenizer.tokenize([captions[sample.target] for sample in samples]),
    }
