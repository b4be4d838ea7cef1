"""LoRA layers in a backbone: y = W x + b + s B A dropout(x), with W and b frozen (arXiv:2106.09685, eq. 3).

q, k and v share one product here and are separate layers in transformers. Each that is adapted gets matrices
of its own, so the adapter is the same one in both (`peft_folder.py`). B starts at zero: at step 0 the model
computes what it computed without the adapter. RoPE, the masked bias of k and LayerScale are not changed.

Shapes: I inputs, O outputs (D of a third of qkv), r rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3_ref.errors import ConfigError
from dinov3_ref.models import Backbone, ConvNeXt

# name of a target -> (layers of a block, third of their outputs; None: the whole)
PLACES: dict[str, tuple[tuple[str, ...], int | None]] = {
    "q": (("attn.qkv",), 0),
    "k": (("attn.qkv",), 1),
    "v": (("attn.qkv",), 2),
    "proj": (("attn.proj",), None),
    "mlp": (("mlp.fc1", "mlp.fc2", "mlp.w1", "mlp.w2", "mlp.w3", "pwconv1", "pwconv2"), None),
}
ATTENTION = ("q", "k", "v", "proj")
DEFAULT_TARGETS = (*ATTENTION, "mlp")  # "all linear layers" (arXiv:2305.14314, section 4)


@dataclass(frozen=True)
class LoraOptions:
    """Rank, scale alpha / rank, dropout of the input, and the adapted layers. Raises `ConfigError`."""

    rank: int
    alpha: float = 0.0  # 0: twice the rank
    dropout: float = 0.0
    targets: tuple[str, ...] = DEFAULT_TARGETS

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"the LoRA rank is {self.rank}; wanted at least 1, for example 8")
        if not math.isfinite(self.alpha) or self.alpha < 0:
            raise ConfigError(
                f"lora_alpha is {self.alpha}; wanted a positive number, or 0 for twice the rank"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"lora_dropout is {self.dropout}; wanted 0 <= dropout < 1")
        unknown = [name for name in self.targets if name not in PLACES]
        if unknown or not self.targets:
            raise ConfigError(
                f"lora_targets are {', '.join(self.targets) or 'empty'}; wanted some of {', '.join(PLACES)}"
            )

    @property
    def scale_numerator(self) -> float:
        """alpha, as PEFT stores it."""
        return self.alpha or 2.0 * self.rank


class LoraLinear(nn.Module):
    """A frozen linear layer x [...,I] -> [...,O] with trained low-rank parts of the whole or of thirds.

    thirds: which thirds of the outputs are adapted; (None,) for all outputs together.
    a: [r,I] each, drawn as in PEFT; b: [O,r] each, zero.
    """

    def __init__(self, base: nn.Linear, thirds: Sequence[int | None], options: LoraOptions) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.thirds = tuple(thirds)
        self.scaling = options.scale_numerator / options.rank
        self.in_features, self.out_features = base.in_features, base.out_features
        width = base.out_features if None in self.thirds else base.out_features // 3
        empty, zeros = base.weight.new_empty, base.weight.new_zeros
        self.a = nn.ParameterList(empty(options.rank, base.in_features) for _ in self.thirds)
        self.b = nn.ParameterList(zeros(width, options.rank) for _ in self.thirds)
        self.dropout = nn.Dropout(options.dropout)
        for a in self.a:
            nn.init.kaiming_uniform_(a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        out = self.base(x)
        if self.thirds == (None,):
            return out + self._change(x, 0)
        parts = list(out.chunk(3, dim=-1))
        for index, third in enumerate(self.thirds):
            assert third is not None
            parts[third] = parts[third] + self._change(x, index)
        return torch.cat(parts, dim=-1)

    def _change(self, x: Tensor, index: int) -> Tensor:
        """s B A dropout(x) of one part: [...,I] -> [...,O]."""
        return F.linear(F.linear(self.dropout(x), self.a[index]), self.b[index]) * self.scaling


def add_lora(backbone: Backbone, options: LoraOptions) -> tuple[str, ...]:
    """Freeze the backbone and put LoRA layers into every block, in place; return the names of these layers.

    Raises `ConfigError` for targets that this kind of backbone does not have.
    """
    backbone.requires_grad_(False)
    thirds: dict[str, list[int | None]] = {}
    for target in options.targets:
        layers, third = PLACES[target]
        for name, module in backbone.named_modules():
            if isinstance(module, nn.Linear) and name.endswith(tuple(f".{layer}" for layer in layers)):
                thirds.setdefault(name, []).append(third)
    if not thirds:
        known = "mlp" if isinstance(backbone, ConvNeXt) else ", ".join(PLACES)
        raise ConfigError(f"no layer of the backbone is in lora_targets; wanted some of {known}")
    for name, which in thirds.items():
        parent, _, last = name.rpartition(".")
        base = backbone.get_submodule(name)
        assert isinstance(base, nn.Linear)
        setattr(backbone.get_submodule(parent), last, LoraLinear(base, sorted(which, key=_order), options))
    return tuple(thirds)


def _order(third: int | None) -> int:
    return -1 if third is None else third


def lora_layers(backbone: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """(name in the backbone, layer) of every LoRA layer."""
    for name, module in backbone.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module
