"""Random checkpoints with DINOv3's documented pathologies: correct in fp32, broken by a plain fp16 cast.

Random weights do not show the problems of real ones. This is `random_checkpoint` with these additions:

    massive activations   two pairs of residual channels reach ±155,000 after block 1 ("early", ViT-L) or
                          ±87,000 three quarters up ("late", H+), and stay; fp16 ends at 65,504 (an F64
                          reference found 155,693 and 87,501). They occur in the storage tokens and in the few
                          patches whose content triggers them (Sun et al., arXiv:2402.17762; Darcet et al.,
                          arXiv:2309.16588), whose norms are thousands of times the others'
    skewed ranges         LayerNorm gains from 2^-5 to 2^5, three decades, and every eighth hidden unit 32
                          times larger: per-tensor int8 cannot represent both (SmoothQuant, arXiv:2211.10438)
    huge logits           after that block one head per block is an attention sink: QKᵀ of massive tokens with
                          CLS exceeds ±65,504 before scaling, so they attend only to CLS, or never to it
    LayerScale            from 1.5e-5 to 2, spread by octaves

To test your own export, write one to a file:

    python -c "from dinov3_ref.checkpoints import planted_checkpoint, save_checkpoint; \\
               save_checkpoint(planted_checkpoint('vit_large'), 'official', 'planted.pth')"

The additions are well conditioned: gains are powers of two that the next layer undoes, the sink's logit
depends on one channel only, and features exclude the massive channels. So a correct engine in fp32 or 16 bits
stays near the reference, and an incorrect one does not. The bytes are the same on every machine.

Shapes: D embed_dim, d head_dim.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from dinov3_ref.checkpoints.checkpoint import Checkpoint
from dinov3_ref.checkpoints.synthetic.planted_convnext import plant_convnext
from dinov3_ref.checkpoints.synthetic.random import generator_of, random_checkpoint
from dinov3_ref.errors import ConfigError
from dinov3_ref.models.config import ConvNeXtConfig, ModelConfig, ViTConfig

Pathology = Literal["early", "late"]
State = dict[str, Tensor]

RECIPE = 1  # part of the hash: raise it when the values below change
MIN_DEPTH = 3  # one block before the massive one and one after


@dataclass(frozen=True)
class Massive:
    """Where massive channels appear, as a fraction of the depth, and their magnitude."""

    share_of_depth: float
    peak: float

    def block(self, depth: int) -> int:
        """Index of the block that writes them."""
        return min(max(1, int(self.share_of_depth * depth)), depth - 2)


PATHOLOGIES: dict[str, Massive] = {
    "early": Massive(0.0, 155_693.0),  # ViT-L after block 1
    "late": Massive(0.75, 87_501.0),  # H+
}

SIGNS = (1.0, -1.0, 0.25, -0.25)  # of the massive channels; their sum is 0: LayerNorm's mean stays precise
SPECIAL = 2 + len(SIGNS)  # channels: the trigger, CLS's mark, the massive ones
BALANCE = 32  # ordinary channels that together hold minus the sum of all others
CLS_MARK = 2.0  # in units of √D; the rest of the CLS token is the same for all images
CLS_QUIET = 0.125
CLS_HEARD = 0.4  # of √D: the mark after LayerNorm, once blocks have written to other channels
STORAGE_LOUD = 16.0  # beside channels of 155,000, LayerNorm in fp32 keeps only 1e-5 of small values
STORAGE_TRIGGER = 160.0  # in units of √D: LayerNorm then saturates at √D
PATCH_TRIGGER = 1.2  # in units of √D: of a patch whose upper half is one deviation brighter than its lower
THRESHOLD = 0.5  # of the trigger after LayerNorm, in units of √D
HIDDEN = 1024.0  # slope of the hidden unit that writes the massive channels
GAIN_OCTAVES = 5  # LayerNorm gains from 2^-5 to 2^5
LOUD_EVERY, LOUD = 8, 32.0  # hidden units
QUIET = 2.0**-6  # factor on the weights that read special channels
SINK_LOGIT = 80_000.0  # QKᵀ of a saturated trigger at CLS
LAYERSCALE_TOP, LAYERSCALE_OCTAVES = 2.0, 17
LEFT_OUT = 2.0**-20  # the final norms' gain of a special channel


def planted_checkpoint(
    arch_or_config: str | ModelConfig, seed: int = 0, *, pathology: Pathology = "early"
) -> Checkpoint:
    """A complete checkpoint of a model with three blocks or more; the same bytes everywhere.

    `planted_convnext.py` describes what a ConvNeXt gets. Raises `ConfigError` for an unknown architecture or
    pathology and for a model that is too shallow.
    """
    if pathology not in PATHOLOGIES:
        raise ConfigError(f"pathology is {pathology!r}; wanted one of {', '.join(PATHOLOGIES)}")
    base = random_checkpoint(arch_or_config, seed)
    config, state = base.config, dict(base.state)
    massive = PATHOLOGIES[pathology]
    if isinstance(config, ConvNeXtConfig):
        plant_convnext(state, config, seed, pathology, massive.peak)
    elif config.depth < MIN_DEPTH:
        raise ConfigError(f"depth is {config.depth}; massive activations need {MIN_DEPTH} blocks or more")
    else:
        _Planting(state, config, seed, massive).plant()
    recipe = json.dumps({"planted": RECIPE, "pathology": pathology, "random": base.sha256}, sort_keys=True)
    return replace(
        base,
        state=state,
        layout="official",
        source=f"planted:{base.arch}:{pathology}:seed{seed}",
        sha256=hashlib.sha256(recipe.encode()).hexdigest(),
        notes=("planted weights: features mean nothing; made to be hard to export",),
    )


class _Planting:
    """Edits one random state dict in place, step by step."""

    def __init__(self, state: State, config: ViTConfig, seed: int, massive: Massive) -> None:
        self.state, self.config, self.seed, self.massive = state, config, seed, massive
        self.block = massive.block(config.depth)
        order = torch.randperm(config.embed_dim, generator=self._generator("channels"))
        self.special, self.balance = order[:SPECIAL].tolist(), order[SPECIAL : SPECIAL + BALANCE].tolist()
        self.trigger, self.mark, *self.channels = self.special
        self.is_mlp = config.ffn_layer == "mlp"
        self.root = math.sqrt(config.embed_dim)

    def plant(self) -> None:
        self._tokens()
        for index in range(self.config.depth):
            self._layer_scales(f"blocks.{index}")
            self._loud_hidden_units(f"blocks.{index}.mlp")
            self._shield_special_channels(f"blocks.{index}")
        self._massive_activations(f"blocks.{self.block}")
        for index in range(self.block + 1, self.config.depth):
            self._sink(f"blocks.{index}.attn.qkv", index)
        for index in range(self.config.depth):
            self._skewed_gains(f"blocks.{index}.norm1", [f"blocks.{index}.attn.qkv"])
            self._skewed_gains(f"blocks.{index}.norm2", [f"blocks.{index}.mlp.{n}" for n in self._into()])
        self._balance_channels()
        self._final_norms()

    # ---- the tokens ----------------------------------------------------------------------------

    def _tokens(self) -> None:
        """Give CLS its mark; give the trigger to storage tokens, and to patches brighter at the top."""
        cls = self.state["cls_token"]
        cls.mul_(CLS_QUIET)
        cls[..., self.special] = 0.0
        # deeper models add more to the stream, so the mark grows with depth to stay visible
        cls[..., self.mark] = CLS_MARK * self.root * math.sqrt(max(1.0, self.config.depth / 12))
        if "storage_tokens" in self.state:
            self.state["storage_tokens"].mul_(STORAGE_LOUD)[..., self.special] = 0.0
            self.state["storage_tokens"][..., self.trigger] = STORAGE_TRIGGER * self.root
        weight, bias = self.state["patch_embed.proj.weight"], self.state["patch_embed.proj.bias"]
        weight[self.special], bias[self.special] = 0.0, 0.0
        size = self.config.patch_size
        upper = size // 2
        height = PATCH_TRIGGER * self.root * math.sqrt(max(1.0, self.block / 6))
        slope = height / (self.config.in_chans * upper * size)
        weight[self.trigger, :, :upper] = slope
        weight[self.trigger, :, size - upper :] = -slope

    # ---- every block ---------------------------------------------------------------------------

    def _layer_scales(self, block: str) -> None:
        """Draw LayerScale gains by octaves, most near the top; special channels get the smallest."""
        powers = torch.tensor([LAYERSCALE_TOP * 2.0**-i for i in range(LAYERSCALE_OCTAVES + 1)])
        for name, layer in (("ls1", "attn.proj"), ("ls2", self._out())):
            draws = torch.randint(
                0, 256, (self.config.embed_dim,), generator=self._generator(f"{block}.{name}")
            )
            octaves = draws * draws * (LAYERSCALE_OCTAVES + 1) // (256 * 256)
            octaves[self.special], octaves[self.balance] = LAYERSCALE_OCTAVES, 0
            self._set_gain(f"{block}.{name}", f"{block}.{layer}", powers[octaves])

    def _set_gain(self, scale: str, layer: str, gamma: Tensor) -> None:
        """Set LayerScale's gamma; without LayerScale, multiply it into the layer before."""
        if f"{scale}.gamma" in self.state:
            self.state[f"{scale}.gamma"] = gamma
            return
        self.state[f"{layer}.weight"].mul_(gamma[:, None])
        if f"{layer}.bias" in self.state:
            self.state[f"{layer}.bias"].mul_(gamma)

    def _loud_hidden_units(self, mlp: str) -> None:
        """Scale some hidden units up, and the weights that read them down."""
        into = "fc1" if self.is_mlp else "w2"  # the linear half of a SwiGLU: there it is exact
        for end in ("weight", "bias"):
            if f"{mlp}.{into}.{end}" in self.state:
                self.state[f"{mlp}.{into}.{end}"][1::LOUD_EVERY] *= LOUD
        out = self._out().removeprefix("mlp.")
        self.state[f"{mlp}.{out}.weight"][:, 1::LOUD_EVERY] /= LOUD

    def _shield_special_channels(self, block: str) -> None:
        """Set the norms' gain for special channels to 1, and shrink the weights that read these channels."""
        layers = {"norm1": ["attn.qkv"], "norm2": [f"mlp.{name}" for name in self._into()]}
        for norm, behind in layers.items():
            self.state[f"{block}.{norm}.weight"][self.special] = 1.0
            if f"{block}.{norm}.bias" in self.state:
                self.state[f"{block}.{norm}.bias"][self.special] = 0.0
            for layer in behind:
                self.state[f"{block}.{layer}.weight"][:, self.special] *= QUIET

    def _sink(self, qkv: str, index: int) -> None:
        """In one dimension of one head, q reads only a massive channel and k reads only CLS's mark.

        It is the dimension that RoPE rotates least, with the longest period. In every other block massive
        tokens attend only to CLS, in the others never to it; q of other tokens is about zero there.
        """
        D, d = self.config.embed_dim, self.config.head_dim
        row = (index % self.config.num_heads) * d + d // 2 - 1
        each = (-1) ** index * math.sqrt(SINK_LOGIT)
        height = self.root / math.sqrt(sum(sign * sign for sign in SIGNS))  # of the channel, after LayerNorm
        slopes = {
            row: (self.channels[0], each / height),
            D + row: (self.mark, abs(each) / (CLS_HEARD * self.root)),
        }
        for index, (channel, slope) in slopes.items():
            self.state[f"{qkv}.weight"][index] = 0.0
            self.state[f"{qkv}.weight"][index, channel] = slope
            if f"{qkv}.bias" in self.state:
                self.state[f"{qkv}.bias"][index] = 0.0

    def _skewed_gains(self, norm: str, layers: Iterable[str]) -> None:
        """A random gain per channel, undone in the columns of the next layers: powers of two, so exact."""
        draws = torch.randint(
            -GAIN_OCTAVES,
            GAIN_OCTAVES + 1,
            (self.config.embed_dim,),
            generator=self._generator(f"{norm}.gain"),
        )
        gains = torch.exp2(draws.to(torch.float32))
        for end in ("weight", "bias"):
            if f"{norm}.{end}" in self.state:
                self.state[f"{norm}.{end}"].mul_(gains)
        for layer in layers:
            self.state[f"{layer}.weight"].div_(gains)

    # ---- one block, and the end ----------------------------------------------------------------

    def _massive_activations(self, block: str) -> None:
        """Hidden unit 0 reads only the trigger and writes only the massive channels."""
        mlp, out = f"{block}.mlp", f"{block}.{self._out()}"
        gate = "fc1" if self.is_mlp else "w1"
        has_bias = f"{mlp}.{gate}.bias" in self.state
        self._row(f"{mlp}.{gate}", HIDDEN / self.root, -HIDDEN * THRESHOLD)
        if not self.is_mlp:
            self._row(f"{mlp}.w2", 0.0 if has_bias else 1.0 / self.root, 1.0)
        height = HIDDEN * (1.0 - THRESHOLD) if has_bias else HIDDEN
        weight = self.state[f"{out}.weight"]
        weight[:, 0] = 0.0
        scale = f"{block}.ls2.gamma"
        if scale in self.state:
            self.state[scale][self.channels] = LAYERSCALE_TOP
        gain = LAYERSCALE_TOP if scale in self.state else 1.0
        for channel, sign in zip(self.channels, SIGNS, strict=True):
            weight[channel] = 0.0
            weight[channel, 0] = sign * self.massive.peak / (gain * height)
            if f"{out}.bias" in self.state:
                self.state[f"{out}.bias"][channel] = 0.0

    def _row(self, layer: str, slope: float, offset: float) -> None:
        """Make hidden unit 0 a function of the trigger: slope · trigger + offset."""
        self.state[f"{layer}.weight"][0] = 0.0
        self.state[f"{layer}.weight"][0, self.trigger] = slope
        if f"{layer}.bias" in self.state:
            self.state[f"{layer}.bias"][0] = offset

    def _final_norms(self) -> None:
        """Exclude special channels from the features; shrink biases, which would hide small values."""
        for norm in ("norm", "cls_norm", "local_cls_norm"):
            if f"{norm}.weight" in self.state:
                self.state[f"{norm}.weight"][self.special] = LEFT_OUT
            if f"{norm}.bias" in self.state:
                self.state[f"{norm}.bias"].mul_(2.0**-12)

    def _balance_channels(self) -> None:
        """Make every token's channels sum to zero after every layer that writes them.

        LayerNorm then maps an empty channel to zero. So the sink's logit, about 280 times that channel, is
        large only for massive tokens, in 8 bits too.
        """
        for key in ("cls_token", "storage_tokens"):
            if key in self.state:
                self._balance_rows(self.state[key].movedim(-1, 0))
        self._balance_rows(self.state["patch_embed.proj.weight"])
        self._balance_rows(self.state["patch_embed.proj.bias"])
        for index in range(self.config.depth):
            for scale, layer in (("ls1", "attn.proj"), ("ls2", self._out())):
                gamma = self.state.get(f"blocks.{index}.{scale}.gamma")
                for end in ("weight", "bias"):
                    if f"blocks.{index}.{layer}.{end}" in self.state:
                        self._balance_rows(self.state[f"blocks.{index}.{layer}.{end}"], gamma)

    def _balance_rows(self, rows: Tensor, gamma: Tensor | None = None) -> None:
        """Set the balance channels of rows [D,...] (scaled by gamma [D]) to minus the sum of the others."""
        rows[self.balance] = 0.0
        wide = rows.double()
        if gamma is not None:
            wide = wide * gamma.double().view(-1, *[1] * (rows.dim() - 1))
        share = 1.0 if gamma is None else float(gamma[self.balance[0]])
        rows[self.balance] = (-wide.sum(dim=0) / (BALANCE * share)).to(rows.dtype)

    # ---- names and draws -----------------------------------------------------------------------

    def _into(self) -> tuple[str, ...]:
        return ("fc1",) if self.is_mlp else ("w1", "w2")

    def _out(self) -> str:
        return "mlp.fc2" if self.is_mlp else "mlp.w3"

    def _generator(self, name: str) -> torch.Generator:
        return generator_of(f"{self.seed}/planted/{name}")
