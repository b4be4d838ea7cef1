"""Which names of TensorRT's Python API we use.

One implementation serves every version: the module, `tensorrt` or `tensorrt_rtx`, is handed in as `trt`.
Its objects are annotated with the names below, by which `tests/exporters/tensorrt/test_contract.py` finds
every attribute that our code touches and holds it against the API of 10.3, of 11.4 and of TensorRT-RTX. A
name that one of them lacks must stand in `GATES`, and code that uses it must ask `has` first.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

TensorRT: TypeAlias = Any  # the module itself
Builder: TypeAlias = Any
EngineInspector: TypeAlias = Any
IBuilderConfig: TypeAlias = Any
ICudaEngine: TypeAlias = Any
IHostMemory: TypeAlias = Any
ILayer: TypeAlias = Any
INetworkDefinition: TypeAlias = Any
IOptimizationProfile: TypeAlias = Any
ITensor: TypeAlias = Any
ITimingCache: TypeAlias = Any
OnnxParser: TypeAlias = Any
ParserError: TypeAlias = Any
Runtime: TypeAlias = Any


class Gate(NamedTuple):
    """A member that not every version has; an empty member stands for the whole class."""

    owner: str
    member: str


STRONGLY_TYPED = Gate("NetworkDefinitionCreationFlag", "STRONGLY_TYPED")
SAME_COMPUTE_CAPABILITY = Gate("HardwareCompatibilityLevel", "SAME_COMPUTE_CAPABILITY")
COMPUTE_CAPABILITY = Gate("ComputeCapability", "")
NUM_COMPUTE_CAPABILITIES = Gate("IBuilderConfig", "num_compute_capabilities")
SET_COMPUTE_CAPABILITY = Gate("IBuilderConfig", "set_compute_capability")

# gate -> who has it
GATES: dict[Gate, str] = {
    STRONGLY_TYPED: "10.3 to 11.4 and RTX 1.7; networks are never anything else from 11 on, so it may go",
    SAME_COMPUTE_CAPABILITY: "not 10.3",
    COMPUTE_CAPABILITY: "RTX only",
    NUM_COMPUTE_CAPABILITIES: "RTX only",
    SET_COMPUTE_CAPABILITY: "RTX only",
}


def has(trt: TensorRT, gate: Gate) -> bool:
    """Whether this module has what `gate` names."""
    owner = getattr(trt, gate.owner, None)
    return owner is not None and (not gate.member or hasattr(owner, gate.member))
