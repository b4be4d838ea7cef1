"""Groups of linear layers that share an input: the unit of calibration and smoothing.

A ViT block has four inputs to linear layers. Smoothing (SmoothQuant, arXiv:2211.10438, eq. 3) rescales an
input channel by channel. For three of them the factors fold into the weights that produce the input:

    norm1 ─> q, k, v        into the norm's gain and bias
    attention ─> proj       into the rows of v: attention mixes tokens, never channels
    norm2 ─> fc1, or w1 w2  into the norm's gain and bias
    hidden ─> fc2, or w3    into w2's rows in a SwiGLU; after a GELU nothing is linear: one Mul in the graph

A ConvNeXt block has the last two: norm ─> pwconv1, hidden ─> pwconv2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from dinov3_ref.layers import Mlp, SelfAttention, SwiGLUFFN
from dinov3_ref.models import Backbone, named_blocks
from dinov3_ref.models.config import STAGES
from dinov3_ref.models.convnext import Block


@dataclass(frozen=True)
class Group:
    """Linear layers with one common input.

    Paths are those of the meta copy, where qkv is split in q, k and v.
    """

    path: str  # name of the group: "blocks.3.attn.qkv"
    observed: str  # module of the reference whose input is the group's
    linears: tuple[str, ...]
    carriers: tuple[
        str, ...
    ]  # weights into whose rows smoothing can be folded; if empty, the graph gets a Mul
    positions: int = 1  # positions of its input per patch of the output: more in a ConvNeXt's early stages


def find_groups(model: Backbone) -> tuple[Group, ...]:
    """Groups of every block, in order. Layers of a user's own classes are in no group and keep 16 bits."""
    return tuple(group for path, block in named_blocks(model) for group in _of_block(block, path))


def _of_block(block: nn.Module, path: str) -> Iterator[Group]:
    if isinstance(block, Block):
        yield from _of_convnext(path)
        return
    attn, mlp = block.get_submodule("attn"), block.get_submodule("mlp")
    if type(attn) is SelfAttention:
        yield Group(
            f"{path}.attn.qkv",
            f"{path}.attn.qkv",
            tuple(f"{path}.attn.{name}" for name in "qkv"),
            _rows(f"{path}.norm1"),
        )
        yield Group(f"{path}.attn.proj", f"{path}.attn.proj", (f"{path}.attn.proj",), _rows(f"{path}.attn.v"))
    if type(mlp) is Mlp:
        yield Group(f"{path}.mlp.fc1", f"{path}.mlp.fc1", (f"{path}.mlp.fc1",), _rows(f"{path}.norm2"))
        yield Group(f"{path}.mlp.fc2", f"{path}.mlp.fc2", (f"{path}.mlp.fc2",), ())
    if type(mlp) is SwiGLUFFN:
        yield Group(
            f"{path}.mlp.w12", f"{path}.mlp.w1", (f"{path}.mlp.w1", f"{path}.mlp.w2"), _rows(f"{path}.norm2")
        )
        yield Group(f"{path}.mlp.w3", f"{path}.mlp.w3", (f"{path}.mlp.w3",), _rows(f"{path}.mlp.w2"))


def _of_convnext(path: str) -> Iterator[Group]:
    """Each stage halves both sides of the map, so each has four times the positions of the next."""
    positions = 4 ** (STAGES - 1 - int(path.split(".")[1]))
    yield Group(f"{path}.pwconv1", f"{path}.pwconv1", (f"{path}.pwconv1",), _rows(f"{path}.norm"), positions)
    yield Group(f"{path}.pwconv2", f"{path}.pwconv2", (f"{path}.pwconv2",), (), positions)


def _rows(path: str) -> tuple[str, str]:
    return f"{path}.weight", f"{path}.bias"
