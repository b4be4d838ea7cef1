"""Peers of an engine for benchmarks: the model in torch and in other libraries, on the bundle's weights.

One literal table. A peer gets the bundle's checkpoint, checked against the hash in the manifest.
"""

from __future__ import annotations

from exporters.peers.runners import PEERS, open_peer

__all__ = ["PEERS", "open_peer"]
