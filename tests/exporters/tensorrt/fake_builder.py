"""A stand-in for the building half of a TensorRT module, with exactly one version's names.

Every class has exactly the members that `tests/data/trt_api/` lists for it; reading or setting another one
raises AttributeError. Calls and assignments are recorded in order. A test sets return values with `answer`.
"""

from __future__ import annotations

import json
import re
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from exporters.tensorrt import add_engine
from exporters.tensorrt.device import Gpu

LISTS = Path(__file__).parents[2] / "data" / "trt_api"
PLAN = b"a plan of the fake"


class Enumerator:
    """`DataType.HALF`: prints like the real one, is an int, equals itself alone."""

    def __init__(self, owner: str, name: str, number: int) -> None:
        self.owner, self.name, self.number = owner, name, number

    def __str__(self) -> str:
        return f"{self.owner}.{self.name}"

    __repr__ = __str__

    def __int__(self) -> int:
        return self.number


class FakeTensorRT(ModuleType):
    """A module called `name`. `calls` holds (member, arguments) in the order they came."""

    def __init__(self, version: str, name: str = "tensorrt") -> None:
        super().__init__(name)
        self.__version__ = f"{version}.0"
        self.__spec__ = ModuleSpec(name, None)
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        content = json.loads((LISTS / f"api_{version}.json").read_text())
        self.api = {owner: members for owner, members in content.items() if isinstance(members, list)}
        for owner, members in self.api.items():
            setattr(self, owner, self._make_class(owner, members))
        _answer_like_tensorrt(self)

    def answer(self, member: str, value: Any) -> None:
        """Let `Owner.member` be `value`, or, for a function, do what it does."""
        owner, _, name = member.partition(".")
        assert name in self.api[owner], f"{member} is not in this version"
        made = self._method(owner, name, value) if callable(value) else value
        setattr(getattr(self, owner), name, made)

    def named(self, member: str) -> list[tuple[Any, ...]]:
        """Arguments of every call of `Owner.member`, or values of every assignment to it."""
        return [arguments for called, arguments in self.calls if called == member]

    def _make_class(self, owner: str, members: list[str]) -> type:
        fake = self

        def construct(self: Any, *arguments: Any) -> None:
            fake.calls.append((owner, arguments))

        def assign(self: Any, name: str, value: Any) -> None:
            if name in members:
                fake.calls.append((f"{owner}.{name}", (value,)))
            elif type(self) is getattr(fake, owner):  # a subclass of ours has attributes of its own
                raise AttributeError(f"{owner} has no {name} in {fake.__version__}")
            object.__setattr__(self, name, value)

        body: dict[str, Any] = {"__init__": construct, "__setattr__": assign}
        for number, name in enumerate(members):
            constant = re.fullmatch(r"[A-Z][A-Z0-9_]*", name)
            body[name] = Enumerator(owner, name, number) if constant else self._method(owner, name, None)
        return type(owner, (), body)

    def _method(self, owner: str, name: str, action: Any) -> Any:
        def method(self_: Any, *arguments: Any) -> Any:
            self.calls.append((f"{owner}.{name}", arguments))
            return action(self_, *arguments) if action is not None else None

        return method


def _answer_like_tensorrt(fake: FakeTensorRT) -> None:
    """What a build that succeeds is answered."""
    trt: Any = fake
    fake.answer("Builder.create_network", lambda _, flags: trt.INetworkDefinition())
    fake.answer("Builder.create_builder_config", lambda _: trt.IBuilderConfig())
    fake.answer("Builder.create_optimization_profile", lambda _: trt.IOptimizationProfile())
    fake.answer("Builder.build_serialized_network", lambda _, network, config: PLAN)
    fake.answer("OnnxParser.parse_from_file", lambda _, path: True)
    fake.answer("OnnxParser.num_errors", 0)
    fake.answer("INetworkDefinition.num_inputs", 1)
    fake.answer("INetworkDefinition.num_outputs", 1)
    fake.answer("INetworkDefinition.num_layers", 1)
    fake.answer("INetworkDefinition.get_input", lambda _, index: trt.ITensor())
    fake.answer("INetworkDefinition.get_output", lambda _, index: trt.ITensor())
    fake.answer("INetworkDefinition.get_layer", lambda _, index: trt.ILayer())
    fake.answer("ILayer.num_outputs", 1)
    fake.answer("ILayer.type", trt.LayerType.SOFTMAX)
    fake.answer("ILayer.get_output", lambda _, index: trt.ITensor())
    fake.answer("ITensor.name", "pixels")
    fake.answer("ITensor.dtype", trt.DataType.HALF)
    fake.answer("ITensor.shape", (-1, 128))
    fake.answer("IBuilderConfig.add_optimization_profile", lambda _, profile: 0)
    fake.answer("IBuilderConfig.create_timing_cache", lambda _, content: trt.ITimingCache())
    fake.answer("IBuilderConfig.set_timing_cache", lambda _, cache, ignore: True)
    fake.answer("IBuilderConfig.get_timing_cache", lambda _: trt.ITimingCache())
    fake.answer("ITimingCache.serialize", lambda _: b"timings")
    fake.answer("Runtime.deserialize_cuda_engine", lambda _, plan: trt.ICudaEngine())
    fake.answer("ICudaEngine.create_engine_inspector", lambda _: trt.EngineInspector())
    fake.answer("EngineInspector.get_engine_information", lambda _, form: '{"Layers": ["mha"]}')


def pretend_ada(patch: pytest.MonkeyPatch) -> FakeTensorRT:
    """TensorRT 11.4 on an Ada GPU."""
    made = FakeTensorRT("11.4")
    patch.setitem(sys.modules, "tensorrt", made)
    patch.setattr(add_engine, "find_gpu", lambda: Gpu("NVIDIA", "8.9", "580.65.06"))
    return made
