"""Parsers that need no torch: bundles, archives, signatures, receipts, stores, tensors, images, tar archives.

A target is a function that writes good files to a folder and returns the attack on their parser.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.fuzz import bundles, files, indices, signatures, stores
from tests.fuzz.attack import Attack

# name -> (target, mutants)
TARGETS: dict[str, tuple[Callable[[Path], Attack], int]] = {
    "manifest": (bundles.manifest, 2000),
    "verified_first": (bundles.verified_first, 500),
    "archive": (bundles.archive, 10_000),
    "signature": (signatures.signature, 10_000),
    "receipts": (bundles.receipts, 1500),
    "plans": (bundles.plans, 1500),
    "overwrite": (stores.overwrite, 500),
    "records": (stores.records, 500),
    "listing": (stores.listing, 9500),
    "npy": (stores.store("npy"), 400),
    "npz": (stores.store("npz"), 400),
    "safetensors": (stores.store("safetensors"), 400),
    "parquet": (stores.store("parquet"), 200),
    "index": (indices.index, 10_000),
    "filters": (indices.filters, 10_000),
    "tensors": (files.tensors, 2000),
    "golden": (files.golden, 800),
    "images": (files.images, 800),
    "tar": (files.tar, 500),
}
