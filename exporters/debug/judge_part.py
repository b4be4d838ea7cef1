"""Judge a part of a graph: does a runtime compute what ONNX Runtime computes without optimisations?

    python -m exporters.debug.judge_part PART.onnx --runner tensorrt --limit 0.01

Polygraphy runs this for each part that it makes. Exit code 0: right, 10: wrong, 2: cannot be run. What a part
takes is what the whole graph computes there from the saved inputs. The measure is the judge's: the norm of
the difference over the norm of the reference, per output.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dinodeploy.errors import MisuseError, reason_of

RIGHT, NOT_RUN, WRONG = 0, 2, 10  # Python itself ends with 1 where it could not start
Arrays = dict[str, Any]
Runner = Callable[[str, Mapping[str, Any]], Arrays]  # graph, inputs -> outputs


def run_onnxruntime(graph: str, feeds: Mapping[str, Any], *, optimise: bool = True) -> Arrays:
    session = open_session(graph, optimise=optimise)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def run_tensorrt(graph: str, feeds: Mapping[str, Any]) -> Arrays:
    """Strongly typed and without TF32, as our plans."""
    from polygraphy.backend.trt import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        CreateConfig,
        EngineFromNetwork,
        NetworkFromOnnxPath,
        Profile,
        TrtRunner,
    )

    profile = Profile()
    for name, value in feeds.items():
        profile.add(name, value.shape, value.shape, value.shape)
    network = NetworkFromOnnxPath(graph, strongly_typed=True)
    with TrtRunner(EngineFromNetwork(network, CreateConfig(profiles=[profile], tf32=False))) as runner:
        return {name: np.array(value) for name, value in runner.infer(dict(feeds)).items()}


RUNNERS: dict[str, Runner] = {"tensorrt": run_tensorrt, "onnxruntime": run_onnxruntime}


def find_runner(name: str) -> Runner:
    """A runner by name, or `module:function` of a user's own. Raises MisuseError for another."""
    if name in RUNNERS:
        return RUNNERS[name]
    module, _, function = name.partition(":")
    try:
        found: Runner = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise MisuseError(
            f"--runner {name!r}: {reason_of(error)}; wanted {', '.join(RUNNERS)} or module:function"
        ) from error
    return found


def open_session(graph: str | bytes, *, optimise: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def make_feeds(graph: str, inputs: Mapping[str, Any], whole: str | None) -> Arrays:
    """The inputs of a part: `inputs` where they have its name, else what the whole graph computes there."""
    wanted = [value.name for value in open_session(graph, optimise=False).get_inputs()]
    inner = [name for name in wanted if name not in inputs]
    return {**{name: inputs[name] for name in wanted if name in inputs}, **_values_of(whole, inner, inputs)}


def _values_of(whole: str | None, names: list[str], inputs: Mapping[str, Any]) -> Arrays:
    """Tensors inside the whole graph. Raises MisuseError without one."""
    if not names:
        return {}
    if whole is None:
        raise MisuseError(f"the part takes {', '.join(names)}: give --whole GRAPH, which computes them")
    import onnx

    model = onnx.load(whole)
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    session = open_session(model.SerializeToString(), optimise=False)
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def relative_error(got: Any, wanted: Any) -> float:
    """‖got - wanted‖ / ‖wanted‖, infinite for what is not finite where the reference is."""
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    if not np.isfinite(got[np.isfinite(wanted)]).all():
        return float("inf")
    alive = np.isfinite(wanted) & np.isfinite(got)
    size = max(float(np.linalg.norm(wanted[alive])), 1e-30)
    return float(np.linalg.norm(got[alive] - wanted[alive])) / size


def errors_of(
    graph: str, inputs: Mapping[str, Any], runner: Runner, whole: str | None = None
) -> dict[str, float]:
    """The relative error of every output of floating point."""
    feeds = make_feeds(graph, inputs, whole)
    wanted, got = run_onnxruntime(graph, feeds, optimise=False), runner(graph, feeds)
    floats = [name for name, value in wanted.items() if np.issubdtype(value.dtype, np.floating)]
    return {name: relative_error(got[name], wanted[name]) for name in floats}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("graph")
    parser.add_argument("--runner", required=True)
    parser.add_argument("--limit", type=float, required=True)
    parser.add_argument("--inputs", type=Path)
    parser.add_argument("--whole")
    options = parser.parse_args(arguments)
    inputs: Mapping[str, Any] = {}
    if options.inputs is not None:
        from polygraphy.json import load_json  # type: ignore[import-not-found,import-untyped,unused-ignore]

        inputs = load_json(str(options.inputs))[0]
    try:
        errors = errors_of(options.graph, inputs, find_runner(options.runner), options.whole)
    except Exception as error:  # a part that no runtime takes is no finding
        print(f"not run: {type(error).__name__}: {error}")
        return NOT_RUN
    wrong = {name: error for name, error in errors.items() if not error <= options.limit}
    print("wrong: " + ", ".join(f"{k} {v:.3g}" for k, v in wrong.items()) if wrong else "right")
    return WRONG if wrong else RIGHT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
