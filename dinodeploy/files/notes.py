"""Tell the user once per process about a limit of the system that changes no result."""

from __future__ import annotations

import functools

LOGGER = "dinodeploy"  # without a handler of the caller's, Python prints its warnings on stderr


@functools.cache
def note_once(text: str) -> None:
    """Log `text` as a warning; the same text a second time is dropped."""
    import logging  # rarely needed, and `import dinodeploy` stays light

    logging.getLogger(LOGGER).warning("note: %s", text)
