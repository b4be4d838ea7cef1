"""Embed images into a store: decode ahead, run in batches, write behind.

    source -> decode (threads or processes) -> batches of one size -> engine (parallel sessions)
           -> rows -> writer (thread)

Every arrow is a bounded queue: a slow stage makes the stages before it wait, and memory does not grow with
the number of images. An unreadable image is quarantined with its reason and affects no other image. Rows keep
their ids whatever fails. Batches do not span shards, so a shard is the same whichever process makes it.
"""
