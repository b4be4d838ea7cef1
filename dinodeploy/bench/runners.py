"""What a benchmark times: one Protocol, and the names of all peers.

`onnxruntime` and `openvino` run the same bundle on another backend. The others run the bundle's checkpoint in
torch, or quantised by NNCF for OpenVINO; they are in `exporters/peers/`, so torch is never imported here.

Shapes: B batch, H W input pixels, D embed_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from dinodeploy.arrays import FloatArray
from dinodeploy.bundle.bundle import open_bundle
from dinodeploy.embedder import Embedder
from dinodeploy.errors import MisuseError
from dinodeploy.hardware.packages import reach

ENGINE = "engine"  # the bundle as `embed` runs it
BACKENDS = ("onnxruntime", "openvino")  # the same bundle on another runtime
FROM_CHECKPOINT = ("torch", "compile", "transformers", "timm", "nncf")
PEERS = (*FROM_CHECKPOINT, *BACKENDS)


class Runner(Protocol):
    """One way to run the model."""

    runtime: str  # name and version

    def takes(self, height: int, width: int) -> bool: ...

    def run(self, pixels: FloatArray) -> Mapping[str, FloatArray]:
        """pixels [B,3,H,W] -> outputs by name; `cls` [B,D] is among them."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class RunnerOptions:
    """How every runner of a benchmark is opened, in this process or in its own."""

    bundle: str
    threads: int
    device: str = "auto"
    outputs: tuple[str, ...] | None = None  # of the engine; peers compute all of them
    checkpoint: str | None = None  # of peers; None: what the manifest names
    require_signature: str | None = None  # a public key file


class EngineRunner:
    """A bundle on one of its backends."""

    def __init__(self, options: RunnerOptions, device: str, *, judged: bool = True) -> None:
        self.embedder = Embedder.open(
            options.bundle,
            device=device,
            outputs=options.outputs,
            threads=options.threads,
            require_signature=options.require_signature,
            allow_unverified=not judged,
        )
        self.runtime = self.embedder.backend.runtime

    def takes(self, height: int, width: int) -> bool:
        return self.embedder.backend.takes(height, width)

    def run(self, pixels: FloatArray) -> Mapping[str, FloatArray]:
        return self.embedder.run(pixels)

    def close(self) -> None:
        self.embedder.close()


def open_runner(name: str, options: RunnerOptions, *, judged: bool = True) -> Runner:
    """Open the engine, or a peer of `PEERS`.

    Without `judged` a missing receipt is accepted, so that a timed start does not include the parity check.
    Raises MisuseError for an unknown name or a checkpoint that is not the bundle's, UnavailableError for a
    package that is not installed, and as `Embedder.open`.
    """
    if name == ENGINE or name in BACKENDS:
        return EngineRunner(options, options.device if name == ENGINE else name, judged=judged)
    check_peers([name])
    open_peer: Callable[..., Runner] = reach("exporters.peers", f"--vs {name}").open_peer
    bundle = open_bundle(options.bundle, require_signature=options.require_signature)
    return open_peer(name, bundle.manifest, options.checkpoint, options.threads)


def check_peers(names: Any) -> None:
    """Raises MisuseError for an unknown peer."""
    for name in names:
        if name not in PEERS:
            raise MisuseError(f"--vs: {name!r} is unknown; wanted some of {', '.join(PEERS)}")
