"""Sources of images: files and folders, lists, archives, tables, URLs, videos.

A source knows the ids of its images, in a fixed order, and opens any image by position.

    photos/  a.jpg  *.png      files; a folder's images are found by suffix
    paths.txt  -               one path or URL per line
    table.csv  table.tsv       a column of paths or URLs
    shard-{000..010}.tar       webdataset: shard-000.tar/0001.jpg
    photos.zip                 photos.zip/cats/1.jpg
    train.parquet  a.arrow     a column of images or paths
    dataset/                   saved by Hugging Face `datasets`
    clip.mp4                   every n-th frame: clip.mp4#t=12.480
    s3://…  https://…          any of these, remote
"""

from __future__ import annotations

from dinodeploy.sources.files import FileSource
from dinodeploy.sources.folders import find_images, list_images
from dinodeploy.sources.open import open_source
from dinodeploy.sources.source import Source, SourceOptions, Stamp, origins_of, skipped_of, stamp_of
from dinodeploy.sources.stamps import Stamps

__all__ = [
    "FileSource",
    "Source",
    "SourceOptions",
    "Stamp",
    "Stamps",
    "find_images",
    "list_images",
    "open_source",
    "origins_of",
    "skipped_of",
    "stamp_of",
]
