"""Embed pictures into a store: decode ahead in threads, run in batches, write behind.

    source ─> decode (threads) ─> buckets by size ─> engine (lanes) ─> rows of a shard ─> writer (a thread)

Every arrow is a bounded queue: a slow stage makes those before it wait, and memory does not grow with the
listing. A picture that cannot be read is quarantined with its reason and costs nothing but itself. Row ids
stay with their rows whatever fails. Batches do not cross shards: a shard is the same whoever makes it.
"""

from __future__ import annotations

from dinodeploy.pipeline.decode import (
    TIME_LIMIT,
    Decoded,
    decode_ahead,
    decode_source,
    default_decoders,
    pictures_ahead,
)
from dinodeploy.pipeline.lanes import run_ahead
from dinodeploy.pipeline.pipeline import EmbedReport, embed_source
from dinodeploy.pipeline.pooling import needed, with_pooled
from dinodeploy.pipeline.probe import choose_batch, choose_hint, limit_batch
from dinodeploy.pipeline.shard_size import default_shard_size

__all__ = [
    "TIME_LIMIT",
    "Decoded",
    "EmbedReport",
    "choose_batch",
    "choose_hint",
    "decode_ahead",
    "decode_source",
    "default_decoders",
    "default_shard_size",
    "embed_source",
    "limit_batch",
    "needed",
    "pictures_ahead",
    "run_ahead",
    "with_pooled",
]
