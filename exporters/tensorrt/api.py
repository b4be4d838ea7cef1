"""The names of TensorRT's Python API that we use.

One implementation serves all versions: the module, `tensorrt` or `tensorrt_rtx`, is passed as `trt`. Its
objects are annotated with the names below. With these, `tests/exporters/tensorrt/test_contract.py` finds
every attribute that our code uses and checks it against the API of TensorRT 10.3, 11.4 and TensorRT-RTX. A
name that one of them lacks must be in `GATES`, and code must call `has` before it uses the name.
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
    """A member that some versions lack; an empty member means the whole class."""

    owner: str
    member: str


STRONGLY_TYPED = Gate("NetworkDefinitionCreationFlag", "STRONGLY_TYPED")
SAME_COMPUTE_CAPABILITY = Gate("HardwareCompatibilityLevel", "SAME_COMPUTE_CAPABILITY")
COMPUTE_CAPABILITY = Gate("ComputeCapability", "")
NUM_COMPUTE_CAPABILITIES = Gate("IBuilderConfig", "num_compute_capabilities")
SET_COMPUTE_CAPABILITY = Gate("IBuilderConfig", "set_compute_capability")

# gate -> which versions have it
GATES: dict[Gate, str] = {
    STRONGLY_TYPED: "10.3 to 11.4 and RTX 1.7; networks are always strongly typed from 11 on, so it may go",
    SAME_COMPUTE_CAPABILITY: "not 10.3",
    COMPUTE_CAPABILITY: "RTX only",
    NUM_COMPUTE_CAPABILITIES: "RTX only",
    SET_COMPUTE_CAPABILITY: "RTX only",
}


def has(trt: TensorRT, gate: Gate) -> bool:
    """Whether this module has the member that `gate` names."""
    owner = getattr(trt, gate.owner, None)
    return owner is not None and (not gate.member or hasattr(owner, gate.member))
