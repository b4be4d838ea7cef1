"""Keep kernel timings for later builds (`--timing-cache FILE`), which then take a fraction of the time.

A cache is valid for one TensorRT version and one kind of GPU; TensorRT refuses any other.
"""

from __future__ import annotations

from pathlib import Path

from dinodeploy.errors import MisuseError
from dinodeploy.files.atomic import atomic_file
from exporters.tensorrt.api import IBuilderConfig, IHostMemory, ITimingCache


def load_timing_cache(config: IBuilderConfig, path: Path) -> None:
    """Load the timings in `path` into `config`; a missing file is an empty cache.

    Raises MisuseError for a file of another version or GPU.
    """
    content = path.read_bytes() if path.exists() else b""
    cache: ITimingCache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        raise MisuseError(
            f"--timing-cache {path} was not made by this TensorRT on this GPU; give another file"
        )


def save_timing_cache(config: IBuilderConfig, path: Path) -> None:
    """Write the timings of the build to `path`, atomically."""
    cache: ITimingCache = config.get_timing_cache()
    if cache is None:
        return
    memory: IHostMemory = cache.serialize()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(memory)
