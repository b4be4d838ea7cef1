"""Which linear layers share an input, and what stands before it: the unit of calibration and smoothing.

A block has four inputs to linear layers. Three can be rescaled channel by channel without an operator more,
because what makes them is linear in its own rows (SmoothQuant, arXiv:2211.10438):

    norm1 ─> q, k, v        the norm's gain and bias
    attention ─> proj       the rows of v: attention mixes tokens, never channels
    norm2 ─> fc1, or w1 w2  the norm's gain and bias
    hidden ─> fc2, or w3    w2's rows in a SwiGLU; behind a GELU nothing is linear: one Mul in the graph

A ConvNeXt's block has the last two: norm ─> pwconv1, hidden ─> pwconv2.
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
    """Linear layers of one input. Paths are those of the traced twin, where qkv is q, k and v."""

    path: str  # its name: the layers' common role, e.g. "blocks.3.attn.qkv"
    observed: str  # module of the reference whose input it is
    linears: tuple[str, ...]
    carriers: tuple[str, ...]  # weights whose rows can take the smoothing; none: a Mul does
    rows: int = 1  # of its input to one patch of the output: a ConvNeXt's early stages have more


def find_groups(model: Backbone) -> tuple[Group, ...]:
    """Groups of every block, in order. Layers of a user's own classes belong to none and keep 16 bits."""
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
    """Stages halve both sides of the map, so each has four times the rows of the next."""
    rows = 4 ** (STAGES - 1 - int(path.split(".")[1]))
    yield Group(f"{path}.pwconv1", f"{path}.pwconv1", (f"{path}.pwconv1",), _rows(f"{path}.norm"), rows)
    yield Group(f"{path}.pwconv2", f"{path}.pwconv2", (f"{path}.pwconv2",), (), rows)


def _rows(path: str) -> tuple[str, str]:
    return f"{path}.weight", f"{path}.bias"
