"""A static page that runs a bundle in the browser and compares itself with the reference.

packages.py   onnxruntime-web's files: from npm's registry with their hash checked, or from a folder
site.py       the files of the page: graphs, golden outputs, runtime, licence
"""

from __future__ import annotations

__all__: list[str] = []
