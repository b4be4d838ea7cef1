"""Build one plan in memory from one ONNX graph: parse, configure, build. Writes only the timing cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dinodeploy.bundle.manifest import ProfileFacts
from dinodeploy.errors import ExportError, UnavailableError
from exporters.tensorrt.api import Builder, IBuilderConfig, IHostMemory, INetworkDefinition, TensorRT
from exporters.tensorrt.configure import configure
from exporters.tensorrt.messages import Messages, make_logger, make_recorder
from exporters.tensorrt.network import describe_network, parse_network
from exporters.tensorrt.options import BuildOptions
from exporters.tensorrt.progress import Progress, Report, make_monitor, run_stoppable
from exporters.tensorrt.timing_cache import save_timing_cache


@dataclass(frozen=True)
class Plan:
    """A serialised engine and TensorRT's description of it."""

    memory: Any  # IHostMemory, readable as a buffer
    network: dict[str, Any]  # describe_network's
    engine_layers: tuple[str, ...]  # from the builder's log; empty if another logger received it


def build_engine(
    trt: TensorRT,
    graph: Path,
    profiles: Sequence[ProfileFacts],
    options: BuildOptions,
    *,
    report: Report = lambda fraction, phase: None,
    log: Callable[[str], None] = lambda _: None,
) -> Plan:
    """Build `graph` with the module `trt`, always strongly typed.

    `report` gets the fraction done and the current phase, `log` a line per step. Raises ExportError with
    TensorRT's first error, UnavailableError if the builder cannot start (no GPU or driver), KeyboardInterrupt
    on Ctrl-C after the builder has stopped.
    """
    logger, messages = make_logger(trt), Messages()
    logger.messages = messages
    builder = _make_builder(trt, logger, messages)
    log("parsing the graph")
    network: INetworkDefinition
    network, parser = parse_network(trt, builder, logger, messages, graph)
    with _recorded(trt, builder, messages):
        config: IBuilderConfig = configure(trt, builder, network, messages, profiles, options)
        progress = Progress(report)
        monitor = make_monitor(trt, progress)
        config.progress_monitor = monitor
        log("building the engine")
        work = partial(builder.build_serialized_network, network, config)
        memory: IHostMemory = run_stoppable(work, progress)
    if memory is None:
        raise ExportError(f"{graph}: TensorRT could not build an engine: {messages.reason()}")
    if options.timing_cache is not None:
        save_timing_cache(config, options.timing_cache)
    plan = Plan(memory, describe_network(network), tuple(messages.engine_layers))
    del network, parser  # in this order, and only now: the parser owns the network's weights
    return plan


def _make_builder(trt: TensorRT, logger: Any, messages: Messages) -> Builder:
    try:
        return trt.Builder(logger)
    except (TypeError, RuntimeError) as error:  # what the binding raises if there is no builder
        reason = messages.reason() if messages.errors else str(error)
        raise UnavailableError(
            f"{trt.__name__} {trt.__version__} cannot start: {reason}; is there a GPU, and a driver for it?"
        ) from error


@contextmanager
def _recorded(trt: TensorRT, builder: Builder, messages: Messages) -> Iterator[None]:
    """Record the builder's errors while open.

    Not during parsing: freeing a network that was created or parsed with a recorder crashes the process (RTX
    1.7.1). Not longer than needed: the builder does not keep the recorder alive.
    """
    recorder = make_recorder(trt, messages)
    builder.error_recorder = recorder
    try:
        yield
    finally:
        builder.error_recorder = None
