"""Image datasets: folders, lists, tar shards, Parquet and Arrow tables."""

from __future__ import annotations

from dinov3_ref.data.datasets.encoded import EncodedImages
from dinov3_ref.data.datasets.folder import ImageFolder, ImageList
from dinov3_ref.data.datasets.make import make_dataset
from dinov3_ref.data.datasets.table import ImageTable
from dinov3_ref.data.datasets.tar import TarShards

__all__ = ["EncodedImages", "ImageFolder", "ImageList", "ImageTable", "TarShards", "make_dataset"]
