"""The per-user cache directory: receipts, features and unpacked bundles that may be deleted at any time."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir(name: str) -> Path:
    """`$XDG_CACHE_HOME/dinodeploy/NAME`, or the same under ~/.cache. Not created here.

    Source: https://specifications.freedesktop.org/basedir-spec/latest/
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dinodeploy" / name
