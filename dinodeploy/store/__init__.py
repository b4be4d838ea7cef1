"""Stores of embeddings: written shard by shard, resumable, verified when read."""
