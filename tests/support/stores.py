"""Stores of rows that a test makes up, written as `embed` writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dinodeploy.store.manifest import StoreManifest
from dinodeploy.store.plan import Plan, hash_listing
from dinodeploy.store.shard import ShardRows
from dinodeploy.store.writer import Store

Rows = Mapping[str, np.ndarray[Any, Any]]


def make_plan(ids: Sequence[str], outputs: Sequence[str] = ("cls",), **options: Any) -> Plan:
    """A plan for `ids`; `options` are `Plan`'s."""
    defaults = {
        "shard_size": 2,
        "format": "npy",
        "dtype": "float32",
        "batch": 1,
        "fingerprint": {"model": "x"},
    }
    return Plan(hash_listing(ids), len(ids), outputs=tuple(outputs), **(defaults | options))


def write_store(
    out: Path,
    ids: Sequence[str],
    rows: Sequence[Rows | str],
    *,
    sizes: Sequence[tuple[int, int]] | None = None,
    overwrite: bool = False,
    **options: Any,
) -> StoreManifest:
    """A store of one row an id, float32 arrays by output; a string instead is the reason to have none.

    sizes: width and height of each image, 640x427 where none are given. `options` are `Plan`'s.
    """
    with Store(out, make_plan(ids, **options), overwrite=overwrite) as store:
        for index in store.remaining:
            shard = ShardRows(store.plan.outputs)
            for position in store.plan.shard(index):
                row, id_ = rows[position], ids[position]
                if isinstance(row, str):
                    shard.quarantine(position, id_, row)
                else:
                    shard.add(position, id_, row, sizes[position] if sizes else (640, 427))
            store.commit(index, shard)
        manifest = store.finish()
    assert manifest is not None
    return manifest
