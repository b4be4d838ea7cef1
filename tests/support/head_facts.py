"""Facts of a head without a bundle, for post-processing alone."""

from __future__ import annotations

from dataclasses import replace

from dinodeploy.bundle.manifest import HeadFacts

_FACTS = HeadFacts("classify", "test", ("patch",), ("out",), (), "test", "0" * 64, "test")


def head_facts(task: str, **changes: object) -> HeadFacts:
    """A head of `task` with one output, `out`."""
    return replace(_FACTS, task=task, **changes)  # type: ignore[arg-type]
