"""Kernel timings kept from one build to the next (`--timing-cache FILE`): a second build takes a fraction.

A cache belongs to one TensorRT version and one kind of GPU; TensorRT itself refuses another's.
"""

from __future__ import annotations

from pathlib import Path

from dinodeploy.errors import MisuseError
from dinodeploy.files.atomic import atomic_file
from exporters.tensorrt.api import IBuilderConfig, IHostMemory, ITimingCache


def load_timing_cache(config: IBuilderConfig, path: Path) -> None:
    """Give `config` the timings in `path`; a file that is not there yet is an empty cache.

    Raises MisuseError when the file is another version's or GPU's.
    """
    content = path.read_bytes() if path.exists() else b""
    cache: ITimingCache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        raise MisuseError(
            f"--timing-cache {path} was not made by this TensorRT on this GPU; name another file"
        )


def save_timing_cache(config: IBuilderConfig, path: Path) -> None:
    """Write what the build has learned, whole or not at all."""
    cache: ITimingCache = config.get_timing_cache()
    if cache is None:
        return
    memory: IHostMemory = cache.serialize()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(memory)
