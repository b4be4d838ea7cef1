"""Heads on a frozen backbone, head files, DINOClassifier and DINOFeatureExtractor."""

from __future__ import annotations

from dinov3_ref.heads.beside import head_beside
from dinov3_ref.heads.depth import FeaturesToDepth, LinearDepth
from dinov3_ref.heads.dpt import DPTDepth, DPTHead
from dinov3_ref.heads.files import KINDS, LoadedHead, load_head, save_head
from dinov3_ref.heads.head import Head, HeadedBackbone, layers_of, named_outputs
from dinov3_ref.heads.linear import (
    DINOClassifier,
    LinearClassifier,
    LinearRegressor,
    LinearSegmenter,
    MultiLabelClassifier,
)
from dinov3_ref.heads.pyramid import DINOFeatureExtractor, FeaturePyramid

__all__ = [
    "Head",
    "HeadedBackbone",
    "LinearClassifier",
    "MultiLabelClassifier",
    "LinearRegressor",
    "LinearSegmenter",
    "LinearDepth",
    "DPTDepth",
    "DPTHead",
    "FeaturesToDepth",
    "FeaturePyramid",
    "DINOClassifier",
    "DINOFeatureExtractor",
    "KINDS",
    "LoadedHead",
    "load_head",
    "save_head",
    "head_beside",
    "layers_of",
    "named_outputs",
]
