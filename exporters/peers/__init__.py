"""Peers of an engine for benchmarks: the model in torch and in others' libraries, on the bundle's weights.

One literal table. A peer gets the checkpoint that the bundle was made of, held against the manifest's hash.
"""

from __future__ import annotations

from exporters.peers.runners import PEERS, open_peer

__all__ = ["PEERS", "open_peer"]
