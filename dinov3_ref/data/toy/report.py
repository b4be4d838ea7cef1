"""Run a writer of toy images as a command: print what was written, or one line of what went wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from dinov3_ref.errors import DataError, Dinov3Error


def run_writer(write: Callable[[], Mapping[str, int]], out: Path) -> int:
    """Call `write`, which returns the number of images of each set below `out`. Returns the exit code."""
    try:
        counts = write()
    except Dinov3Error as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: '{error.filename}': {error.strerror}", file=sys.stderr)
        return DataError.exit_code
    for name, count in counts.items():
        print(f"{out / name}  {count} images")
    return 0
