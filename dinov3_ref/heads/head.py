"""The base class of heads: a function of named backbone outputs.

    cls           [B,D]      CLS token after the last norm
    storage       [B,R,D]    storage tokens
    patch         [B,h,w,D]  patch map after the last norm
    layer_<i>     [B,h,w,D]  patch map of block i, normed as the last one is
    cls_<i>       [B,D]      CLS token of block i, normed likewise

An exported graph has the same outputs, so a head can be trained on engine features, added to an existing
bundle, and judged on the golden outputs of the bundle.

Shapes: B batch, R storage tokens, D embed_dim, h w patch grid, H W pixels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dinov3_ref.errors import ConfigError
from dinov3_ref.models import Backbone, ConvNeXt, DinoVisionTransformer

Dimensions = tuple[int | str, ...]  # dynamic ones by name, "batch" first

TASKS = ("classify", "regress", "segment", "depth", "pyramid", "custom")
TASK_RANKS = {"classify": 2, "regress": 2, "segment": 4, "depth": 4}  # tasks of `dinodeploy predict`
INPUT = re.compile(r"cls|storage|patch|(?:layer|cls)_(\d+)")
OUTPUT = re.compile(r"[a-z][a-z0-9_]*")


class Head(nn.Module):
    """Base of all heads, custom ones too: `forward` takes `inputs` and returns `outputs`, each in order.

    outputs: name -> shape. Dynamic dimensions are names: batch, rows and columns of the patch grid, height
    and width in pixels, or any other. classes: names by index along dimension 1; empty where there are none.
    """

    task: ClassVar[str] = "custom"  # a name of TASKS
    inputs: tuple[str, ...]
    outputs: dict[str, Dimensions]
    classes: tuple[str, ...] = ()
    embed_dim: int | None = None  # width of its features, where it is fixed
    needs_condition: bool = False  # rounding alone may change its outputs: the export measures how
    _config: dict[str, Any] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """JSON values that `dinodeploy predict` needs beside the outputs."""
        return {}

    def config(self) -> dict[str, Any]:
        """Constructor arguments as JSON values, stored in a head file."""
        if self._config is None:
            raise NotImplementedError(
                f"{type(self).__name__} has no file format; pass the object to exporters.heads"
            )
        return dict(self._config)

    def check(self) -> None:
        """Raises ConfigError for impossible inputs or outputs."""
        for name in self.inputs:
            if not INPUT.fullmatch(name):
                raise ConfigError(
                    f"head input {name!r} is unknown; wanted cls, storage, patch, layer_<i> or cls_<i>"
                )
        for name, shape in self.outputs.items():
            if not OUTPUT.fullmatch(name) or INPUT.fullmatch(name) or shape[:1] != ("batch",):
                raise ConfigError(
                    f"head output {name!r} of shape {list(shape)}: wanted a lower-case name that no backbone "
                    "output has, and 'batch' as the first dimension"
                )
        rank = TASK_RANKS.get(self.task)
        if self.task not in TASKS or (rank and [len(shape) for shape in self.outputs.values()] != [rank]):
            raise ConfigError(
                f"task {self.task!r} with the outputs {self.outputs}; wanted one of {', '.join(TASKS)}, and "
                "one output of two dimensions to classify or regress, of four to segment or for depth"
            )
        if not self.inputs or not self.outputs:
            raise ConfigError(f"{type(self).__name__} has no inputs or no outputs; a head needs both")


def arguments(scope: Mapping[str, Any]) -> dict[str, Any]:
    """For `Head._config`: the arguments in `locals()` at the start of a constructor, without class names."""
    return {
        name: value if isinstance(value, (str, int, float)) else list(value)
        for name, value in scope.items()
        if name not in ("self", "__class__", "classes")
    }


def layers_of(inputs: Sequence[str], of: str = "layer") -> tuple[int, ...]:
    """Indices of the blocks whose patch maps are among `inputs`, ascending; of "cls": CLS tokens."""
    matches = (re.fullmatch(rf"{of}_(\d+)", name) for name in inputs)
    return tuple(sorted({int(match[1]) for match in matches if match}))


def map_names(layers: Sequence[int]) -> tuple[str, ...]:
    """Input names of the patch maps of some blocks; without any, of the last one."""
    return tuple(f"layer_{index}" for index in layers) or ("patch",)


def named_outputs(model: Backbone, x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """pixels [B,3,H,W] -> the backbone outputs `names`, equal to those of an exported graph.

    Raises ConfigError for a block that the model does not have.
    """
    last = model.n_blocks - 1
    layers = layers_of(names, "(?:layer|cls)")
    if layers and layers[-1] > last:
        raise ConfigError(f"the head reads block {layers[-1]}; the model has blocks 0..{last}")
    blocks = sorted({*layers, last})
    options: dict[str, Any] = {"n": blocks, "reshape": True, "return_class_token": True}
    if isinstance(model, ConvNeXt):  # has no storage tokens
        found = model.get_intermediate_layers(x, **options)
    else:
        found = model.get_intermediate_layers(x, **options, return_extra_tokens=True)
    maps = {i: entry[0].permute(0, 2, 3, 1) for i, entry in zip(blocks, found, strict=True)}
    made = {"patch": maps[last], "cls": found[-1][1]}
    if len(found[-1]) > 2:
        made["storage"] = found[-1][2]
    made |= {f"layer_{index}": maps[index] for index in maps}
    made |= {f"cls_{index}": entry[1] for index, entry in zip(blocks, found, strict=True)}
    return {name: made[name] for name in names}


class HeadedBackbone(nn.Module):
    """A frozen backbone and a head in one module: pixels [B,3,H,W] -> the head's outputs by name."""

    def __init__(self, backbone: DinoVisionTransformer, head: Head) -> None:
        super().__init__()
        head.check()
        self.backbone = backbone.eval().requires_grad_(False)
        self.head = head

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            features = named_outputs(self.backbone, x, self.head.inputs)
        made = self.head(*(features[name] for name in self.head.inputs))
        return dict(zip(self.head.outputs, made, strict=True))

    def train(self, mode: bool = True) -> HeadedBackbone:
        """Changes the mode of the head only; the backbone stays in eval mode, as in an engine."""
        super().train(mode)
        self.backbone.eval()
        return self
