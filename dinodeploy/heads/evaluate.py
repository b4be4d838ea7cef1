"""`dinodeploy evaluate`: open a bundle for the evaluations of `dinov3_ref.eval`, which need torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dinodeploy.embedder import Embedder
from dinodeploy.hardware.packages import reach

PURPOSE = "evaluate"


def evaluate(task: str, arguments: Sequence[str]) -> None:
    """Run an evaluation on a checkpoint or a bundle and print its results.

    Raises UnavailableError without torch, the errors of `Embedder.open`, and those of the evaluation.
    """
    engines = reach("dinov3_ref.eval.engine", PURPOSE)

    @contextmanager
    def open_engine(options: Any, cls_only: bool) -> Iterator[Any]:
        with Embedder.open(
            options.engine,
            device=options.device or "auto",
            outputs=("cls",) if cls_only else None,
            allow_unverified=options.allow_unverified,
            require_signature=options.require_signature,
        ) as embedder:
            facts, steps = embedder.manifest.model, embedder.preprocess
            yield engines.EngineModel(
                embedder.run,
                embedder.output_names,
                steps.mean,
                steps.std,
                steps.patch_size,
                facts.depth,
                facts.embed_dim,
                facts.sha256,
                same_width=facts.num_heads > 0,
                on_gpu=not embedder.backend.device.startswith("cpu"),
            )

    engines.evaluate(task, arguments, open_engine)
