"""Golden cases: photographs, the pixels the reference makes of them, and the outputs it gives.

`golden.safetensors` holds for each case, in the order judged:

    <case>/image_<i>    [h,w,3] uint8       the photographs
    <case>/pixels       [B,3,H,W] float32   after the reference's own preprocessing
    <case>/out/<name>   float32             the fp32 reference's outputs

and for the first photograph of one case, what `check --bisect` needs (`bisect.py`):

    <case>/tokens       [T] int32           places in the sequence: CLS, storage tokens, some patches
    <case>/embedded     [1,T,D] float32     the residual stream there, before the first block
    <case>/blocks       [n,1,T,D] float32   the same after each of the n blocks

A ConvNeXt has one stream a stage, each at places of its own map: `<case>/stage_<s>/tokens` and so on.

Keeping both photograph and pixels lets the judge blame the right half: a swapped channel or a wrong
mean shows before the engine has run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dinodeploy.arrays import AnyArray, ByteArray, FloatArray, IntArray
from dinodeploy.errors import BundleError
from dinodeploy.files.tensors import load_tensors, save_tensors
from dinodeploy.images.preprocess import Preprocess

_KEY = re.compile(
    r"(?P<case>[a-z0-9_]+)/(?:image_(?P<image>\d+)|(?P<pixels>pixels)|out/(?P<output>[a-z0-9_]+)"
    r"|(?:stage_(?P<stage>\d+)/)?(?P<trace>tokens|embedded|blocks))"
)
_TRACE = ("tokens", "embedded", "blocks")


@dataclass(frozen=True)
class Trace:
    """The reference's residual stream at chosen places of a case's first photograph.

    T places: tokens of a sequence, or of a map [h,w] row by row; n blocks, D the stream's width. Raises
    ValueError when created with shapes that do not belong together.
    """

    tokens: IntArray  # [T]
    embedded: FloatArray  # [1,T,D]
    blocks: FloatArray  # [n,1,T,D]

    def __post_init__(self) -> None:
        if self.tokens.shape != self.embedded.shape[1:2] or self.blocks.shape[1:] != self.embedded.shape:
            raise ValueError(
                f"tokens {list(self.tokens.shape)}, embedded {list(self.embedded.shape)} and blocks "
                f"{list(self.blocks.shape)} do not belong together; wanted [T], [1,T,D], [n,1,T,D]"
            )

    @property
    def stream(self) -> FloatArray:
        """[n+1,1,T,D]: before the first block, then after each."""
        return np.concatenate([self.embedded[None], self.blocks])


@dataclass(frozen=True)
class GoldenCase:
    """One batch of photographs of one input size."""

    name: str
    images: tuple[ByteArray, ...]
    pixels: FloatArray
    outputs: dict[str, FloatArray]
    traces: tuple[Trace, ...] = ()  # of the first photograph, in one case of a bundle: one, or one a stage

    def only(self, names: Collection[str]) -> GoldenCase:
        """The same case for an engine that puts out `names` and no more."""
        return replace(self, outputs={name: self.outputs[name] for name in self.outputs if name in names})

    @property
    def size(self) -> tuple[int, int]:
        """Input height and width in pixels."""
        height, width = self.pixels.shape[2:]
        return height, width


def fitting_cases(
    cases: Sequence[GoldenCase], takes: Callable[[int, int], bool]
) -> tuple[list[GoldenCase], tuple[str, ...]]:
    """The cases of a size that `takes` says yes to, and the sizes of the others as text."""
    fitting = [case for case in cases if takes(*case.size)]
    others = dict.fromkeys(case.size for case in cases if not takes(*case.size))
    return fitting, tuple(f"{height}x{width}" for height, width in others)


def at_size(preprocess: Preprocess, size: tuple[int, int]) -> Preprocess:
    """`preprocess` aimed at inputs of `size` (H, W); keep-aspect is aimed by its short side alone."""
    height, width = size
    if preprocess.steps.fit == "keep-aspect":
        height = width = min(size)
    return preprocess.with_size(height, width)


def save_golden(cases: Sequence[GoldenCase], path: Path) -> None:
    tensors: dict[str, AnyArray] = {}
    for case in cases:
        for index, image in enumerate(case.images):
            tensors[f"{case.name}/image_{index}"] = image
        tensors[f"{case.name}/pixels"] = case.pixels
        for name, output in case.outputs.items():
            tensors[f"{case.name}/out/{name}"] = output
        for stage, trace in enumerate(case.traces):
            where = case.name if len(case.traces) == 1 else f"{case.name}/stage_{stage}"
            tensors.update({f"{where}/{name}": getattr(trace, name) for name in _TRACE})
    save_tensors(path, tensors)


def load_golden(path: Path) -> list[GoldenCase]:
    """Raises BundleError when the file holds anything but whole cases."""
    images: dict[str, dict[int, ByteArray]] = {}
    pixels: dict[str, FloatArray] = {}
    outputs: dict[str, dict[str, FloatArray]] = {}
    traces: dict[str, dict[int, dict[str, AnyArray]]] = {}
    for key, tensor in load_tensors(path).items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise BundleError(f"{path}: tensor {key!r} belongs to no golden case")
        case = match["case"]
        if match["image"]:
            images.setdefault(case, {})[int(match["image"])] = tensor
        elif match["pixels"]:
            pixels[case] = tensor
        elif match["trace"]:
            traces.setdefault(case, {}).setdefault(int(match["stage"] or 0), {})[match["trace"]] = tensor
        else:
            outputs.setdefault(case, {})[match["output"]] = tensor
    if not pixels or not pixels.keys() == images.keys() == outputs.keys() or traces.keys() - pixels.keys():
        raise BundleError(
            f"{path}: incomplete; wanted images, pixels and outputs for each case, at least one"
        )
    return [
        GoldenCase(
            name,
            tuple(images[name][i] for i in sorted(images[name])),
            pixels[name],
            outputs[name],
            _traces(traces.get(name, {}), f"{path}: case {name!r}"),
        )
        for name in sorted(pixels)
    ]


def _traces(stages: dict[int, dict[str, AnyArray]], where: str) -> tuple[Trace, ...]:
    whole = all(parts.keys() == set(_TRACE) for parts in stages.values())
    if not whole or sorted(stages) != list(range(len(stages))):
        raise BundleError(f"{where}: its trace is incomplete; wanted {', '.join(_TRACE)} (of every stage)")
    try:
        return tuple(Trace(**stages[stage]) for stage in range(len(stages)))
    except ValueError as error:
        raise BundleError(f"{where}: {error}") from error
