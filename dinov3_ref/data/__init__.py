"""Training data: datasets, augmentation, masks, batches, samplers, loaders (docs/spec.md 4.12-4.14)."""

from __future__ import annotations

from dinov3_ref.data.augmentations import DataAugmentationDINO
from dinov3_ref.data.collate import collate_data_and_cast
from dinov3_ref.data.datasets import (
    EncodedImages,
    ImageFolder,
    ImageList,
    ImageTable,
    TarShards,
    make_dataset,
)
from dinov3_ref.data.loaders import CombinedDataLoader, ResumableLoader, SamplerType, make_data_loader
from dinov3_ref.data.masking import MaskingGenerator
from dinov3_ref.data.samplers import EpochSampler, InfiniteSampler, ShardedInfiniteSampler
from dinov3_ref.data.training_loader import build_training_loader

__all__ = [
    "DataAugmentationDINO",
    "MaskingGenerator",
    "collate_data_and_cast",
    "EncodedImages",
    "ImageFolder",
    "ImageList",
    "TarShards",
    "ImageTable",
    "make_dataset",
    "InfiniteSampler",
    "ShardedInfiniteSampler",
    "EpochSampler",
    "SamplerType",
    "make_data_loader",
    "ResumableLoader",
    "CombinedDataLoader",
    "build_training_loader",
]
