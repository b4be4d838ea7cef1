"""Material for Polygraphy out of a bundle, and the smallest part that a runtime gets wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dinodeploy.bundle.bundle import open_bundle
from dinodeploy.bundle.manifest import MODEL_FILE
from dinodeploy.parity.thresholds import relative_limit
from exporters.debug.material import Material, write_material
from exporters.debug.reduce import Reduced, judge_whole, reduce_graph


@dataclass(frozen=True)
class Findings:
    """What was written, and what a runtime gets wrong. `errors`: relative error by output, worst image."""

    material: Material
    limit: float
    runner: str | None = None
    errors: dict[str, float] = field(default_factory=dict)
    fault: Reduced | None = None

    def to_json(self) -> dict[str, Any]:
        """Paths as text."""
        fault = self.fault and {
            **asdict(self.fault),
            "model": str(self.fault.model),
            "report": str(self.fault.report),
        }
        material = {"inputs": str(self.material.inputs), "outputs": str(self.material.outputs)}
        facts = {"runner": self.runner, "errors": self.errors, "limit": self.limit, "fault": fault}
        return {**material, "commands": list(self.material.commands), **facts}

    def lines(self) -> Iterator[str]:
        """For a terminal."""
        yield from self.material.commands
        if self.fault is not None:
            operators = ", ".join(self.fault.operators)
            yield f"{self.runner} is wrong; the smallest part has {self.fault.nodes} nodes: {operators}"
            yield f"attach to a bug report: {self.fault.model}, its inputs beside it, {self.fault.report}"
        elif self.runner is not None:
            yield f"{self.runner} agrees with ONNX Runtime without optimisations within {self.limit}"


def debug_bundle(
    bundle: Path,
    out: Path,
    *,
    runner: str | None = None,
    graph: str = MODEL_FILE,
    require_signature: Path | None = None,
    overwrite: bool = False,
    log: Callable[[str], None] = lambda _: None,
) -> Findings:
    """Write golden inputs and outputs into `out`; with `runner`, reduce a graph that it gets wrong.

    Raises MisuseError, OutputExistsError, UnavailableError (no Polygraphy), BundleError, ExportError.
    """
    opened = open_bundle(bundle, require_signature=require_signature)
    opened.choose(graph)  # refuses a name that is not there
    material = write_material(opened, out, overwrite=overwrite)
    limit = relative_limit(opened.manifest.graph.recipe)
    if runner is None:
        return Findings(material, limit)
    case, errors = judge_whole(opened.root / graph, material.inputs, runner)
    fault = None
    if not all(error <= limit for error in errors.values()):
        fault = reduce_graph(
            opened.root / graph, material.inputs, case, out, runner=runner, limit=limit, log=log
        )
    return Findings(material, limit, runner, errors, fault)
