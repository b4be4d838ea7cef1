"""Every name of TensorRT's API that our code touches is there, in 10.3, in 11.4 and in TensorRT-RTX.

The lists in `tests/data/trt_api/` are the public names of both versions' Python modules; the real
`tensorrt_rtx` is asked itself.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from exporters.tensorrt import api as our_api
from exporters.tensorrt.api import GATES, Gate
from exporters.tensorrt.options import HARDWARE_COMPATIBLE
from tests.exporters.tensorrt.api_walk import MODULE, Use, class_names, uses, uses_in

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "exporters" / "tensorrt"
CLASSES = class_names(PACKAGE / "api.py")
LISTS = ROOT / "tests" / "data" / "trt_api"

Api = dict[str, set[str]]


def listed(version: str) -> Api:
    content = json.loads((LISTS / f"api_{version}.json").read_text())
    return {name: set(members) if isinstance(members, list) else set() for name, members in content.items()}


def real(module: ModuleType) -> Api:
    return {
        name: {member for member in dir(getattr(module, name)) if not member.startswith("_")}
        for name in dir(module)
        if not name.startswith("_")
    }


def apis() -> dict[str, Api]:
    found = {version: listed(version) for version in ("10.3", "11.4")}
    if importlib.util.find_spec("tensorrt_rtx"):
        found["rtx"] = real(importlib.import_module("tensorrt_rtx"))
    return found


def has(api: Api, owner: str, member: str) -> bool:
    return member in api if owner == MODULE else member in api.get(owner, set())


def gate_of(use: Use) -> Gate | None:
    """The gate that a use passes through: its own, or the one for its whole class."""
    gates = (Gate(use.owner, use.member), Gate(use.owner, ""), Gate(use.member, ""))
    return next((gate for gate in gates if gate in GATES), None)


def missing(found: list[Use]) -> list[str]:
    """Uses that some version lacks and that stand in no gate."""
    return [
        f"{use.where}: {use.owner}.{use.member} is not in {name}"
        for name, api in apis().items()
        for use in found
        if not has(api, use.owner, use.member) and gate_of(use) is None
    ]


def test_every_name_is_in_every_version_or_in_a_gate() -> None:
    found = uses_in(PACKAGE, CLASSES)
    assert missing(found) == []
    touched = {(use.owner, use.member) for use in found}
    # the walk sees what is there: one name of each kind of access
    for known in (
        (MODULE, "Builder"),
        ("Builder", "build_serialized_network"),
        ("Builder", "error_recorder"),  # assigned
        ("BuilderFlag", "STRIP_PLAN"),
        ("IBuilderConfig", "progress_monitor"),
        ("IProgressMonitor", "step_complete"),  # overridden
        ("ILayer", "get_output"),  # of what a function of ours yields
        ("ParserError", "node_name"),
        ("EngineInspector", "get_engine_information"),
    ):
        assert known in touched, known


# what -> (parameters of a function, its body)
MADE_UP = {
    "a method": ("builder: Builder", "builder.build_quickly()"),
    "an attribute": ("config: IBuilderConfig", "config.fp16 = True"),
    "an enumerator": ("trt: TensorRT", "return trt.BuilderFlag.FASTER"),
    "a class": ("trt: TensorRT", "trt.EngineBakery()"),
    "gone in 11": ("trt: TensorRT", "f(trt.BuilderFlag.FP16)"),
    "new since 10.3": ("trt: TensorRT", "f(trt.SerializationFlag.INCLUDE_REFIT)"),
    "an overridden method": ("trt: TensorRT", "class L(trt.ILogger):\n  def shout(self): pass"),
    "in a lambda": ("builder: Builder", "f(lambda: builder.bake())"),
    "in a loop": ("", "for layer in layers():\n  layer.colour"),
    "in a comprehension": ("", "return [layer.colour for layer in layers()]"),
    "in a handler": ("builder: Builder", "try: pass\n except E: builder.bake()"),
    "in a keyword": ("builder: Builder", "f(x=builder.bake)"),
    "an unannotated result": ("builder: Builder", "n = builder.create_network(0)\n n.num_outputs"),
    "an unannotated chain": ("builder: Builder", "builder.create_network(0).num_outputs"),
    "something typed Any": ("builder: Any", "builder.build_serialized_network(1, 2)"),
    "a constructed object": ("trt: TensorRT", "b = trt.Builder(1)\n b.bake()"),
}
LAYERS = "def layers() -> Iterator[ILayer]: ...\n"


@pytest.mark.parametrize(("parameters", "body"), MADE_UP.values(), ids=MADE_UP.keys())
def test_a_name_that_does_not_exist_is_found(parameters: str, body: str) -> None:
    source = f"{LAYERS}def f({parameters}):\n {body}"
    assert missing(uses({"made_up.py": source}, CLASSES)) != []


def test_a_name_that_exists_is_let_through() -> None:
    body = "b = trt.Builder(1)\n n: INetworkDefinition = b.create_network(0)\n n.get_input(0)"
    assert missing(uses({"good.py": f"{LAYERS}def f(trt: TensorRT):\n {body}"}, CLASSES)) == []


# gate -> which of the three have it
GATED = {
    our_api.STRONGLY_TYPED: {"10.3", "11.4", "rtx"},  # kept as a gate because 11 needs it no longer
    our_api.SAME_COMPUTE_CAPABILITY: {"11.4", "rtx"},
    our_api.COMPUTE_CAPABILITY: {"rtx"},
    our_api.NUM_COMPUTE_CAPABILITIES: {"rtx"},
    our_api.SET_COMPUTE_CAPABILITY: {"rtx"},
}


def test_gates_open_where_they_should() -> None:
    assert GATED.keys() == GATES.keys()
    for gate, wanted in GATED.items():
        for name, api in apis().items():
            there = gate.owner in api and (not gate.member or gate.member in api[gate.owner])
            assert there == (name in wanted), (gate, name)


def test_hardware_compatibility_levels_exist() -> None:
    """They are fetched by name."""
    for name, api in apis().items():
        lacking = set(HARDWARE_COMPATIBLE.values()) - api["HardwareCompatibilityLevel"]
        assert lacking == ({"SAME_COMPUTE_CAPABILITY"} if name == "10.3" else set())
