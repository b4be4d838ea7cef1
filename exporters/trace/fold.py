"""Copy a model to the meta device for tracing, with custom ops in place and constants folded into weights.

The meta copy holds no weights, so tracing a 7B model needs no memory. Its weights are a table of functions;
the writer calls each one when it writes that tensor. So no weight is in memory twice.

A fold moves a constant into the weights before it. Each is tested by parity and can be switched off:

    layerscale   LayerScale's gamma into the rows (and bias) of the projection before it, ConvNeXt's gamma too
    qkv_bias     the bias mask into the biases of q, k and v (docs/spec.md 2.4); an all-zero bias is dropped
    q_scale      head_dim^-0.5 into q's weights and bias: RoPE is linear, so the order does not matter

A graph that takes bytes has one more, which cannot be switched off: mean and std of the pixels go into the
first convolution (`fold_normalisation`).

Products are computed in float64 and rounded once.

Shapes: D embed_dim, O output channels, I input channels, k kernel size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from dinodeploy.errors import ExportError
from dinov3_ref.layers import (
    CausalSelfAttention,
    CausalSelfAttentionBlock,
    LayerScale,
    Mlp,
    RopePositionEmbedding,
    SelfAttention,
    SwiGLUFFN,
)
from dinov3_ref.models import Backbone, ConvNeXt, DinoVisionTransformer, named_blocks
from dinov3_ref.models.convnext import Block
from exporters.trace.channels_last import ChannelsLastConv, ChannelsLastConvNeXt
from exporters.trace.custom_ops import TracedAttention, TracedCausalAttention, TracedRope
from exporters.trace.trace import count_prefix

FOLDS = ("layerscale", "qkv_bias", "q_scale")

Weights = dict[str, Callable[[], Tensor]]
Module = TypeVar("Module", bound=nn.Module)

# branch module -> its last linear layer, which LayerScale is folded into; other modules keep theirs
LAST_LINEAR: dict[type[nn.Module], str] = {
    TracedAttention: "proj",
    TracedCausalAttention: "proj",
    Mlp: "fc2",
    SwiGLUFFN: "w3",
}
MIDDLE, UNIT = 128, 64  # of grey levels: bytes become (x - MIDDLE) / UNIT

# kind of model -> its first convolution
STEM: dict[type[nn.Module], str] = {
    DinoVisionTransformer: "patch_embed.proj",
    ConvNeXt: "downsample_layers.0.0",
}
ATTENTION: dict[type[nn.Module], type[TracedAttention]] = {
    SelfAttention: TracedAttention,
    CausalSelfAttention: TracedCausalAttention,
}


def make_meta_copy(
    model: Backbone, folds: Collection[str] = FOLDS, state: Mapping[str, Tensor] | None = None
) -> tuple[Backbone, Weights]:
    """A copy of `model` on the meta device, in eval mode, and the table of its weights by name.

    `state` holds the weights if the model does not (`exporters/bundle/stream.py`); each is converted to fp32
    when it is asked for. A user's own attention or feed-forward class is traced unchanged. Raises
    ExportError for a model that cannot become a graph: RoPE in 16 bits, or a fixed image size.
    """
    meta_copy = copy_to_meta(model).eval()
    weights = weights_of(model, state)
    if isinstance(meta_copy, ConvNeXt):
        if "layerscale" in folds:
            _fold_gammas(meta_copy, weights)
        return ChannelsLastConvNeXt(meta_copy), weights
    assert not isinstance(model, ConvNeXt)
    rope = meta_copy.rope_embed
    if isinstance(rope, RopePositionEmbedding):
        if rope.dtype != torch.float32:
            raise ExportError(
                f"this model computes RoPE in {str(rope.dtype).removeprefix('torch.')} (the class default), "
                'graphs in float32; build it with pos_embed_rope_dtype="fp32", as released models are'
            )
        meta_copy.rope_embed = TracedRope(rope, count_prefix(meta_copy))  # type: ignore[assignment]
    fold_blocks(model, meta_copy, weights, folds)
    return meta_copy, weights


def fold_normalisation(
    meta_copy: Backbone, weights: Weights, mean: Sequence[float], std: Sequence[float]
) -> None:
    """Let the first convolution take u = (x - 128)/64 of grey levels x, in place of normalised pixels.

        sum_c w_c (x_c/255 - mean_c)/std_c + b
            =  sum_c w_c 64/(255 std_c) u_c  +  b + sum_c w_c (128/255 - mean_c)/std_c

    u has the size of normalised pixels, so the weights keep theirs, and 16 bits hold it exactly. Right where
    no pixel is padding of the convolution. Raises ExportError for a first layer of another kind.
    """
    name = STEM[ConvNeXt if isinstance(meta_copy, ConvNeXt) else DinoVisionTransformer]
    stem = meta_copy.get_submodule(name)
    fits = isinstance(stem, nn.Conv2d | ChannelsLastConv) and stem.groups == 1 and not any(stem.padding)
    if not fits or stem.weight.shape[1] != len(mean):  # type: ignore[index]
        raise ExportError(
            f"input uint8: {name} is no plain convolution of {len(mean)} channels without padding, for "
            "mean and std to go into; export with float32 input"
        )
    bias = weights.get(f"{name}.bias")
    if bias is None:
        stem.bias = nn.Parameter(torch.empty(stem.weight.shape[0], device="meta"))  # type: ignore
    weight = weights[f"{name}.weight"]
    weights[f"{name}.weight"] = partial(_of_grey_levels, weight, std)
    weights[f"{name}.bias"] = partial(_from_the_middle, bias, weight, mean, std)


def _of_grey_levels(make: Callable[[], Tensor], std: Sequence[float]) -> Tensor:
    """A weight [O,I,k,k], each input channel times 64/(255 std) [I]."""
    weight = make().detach()
    scale = UNIT / (255 * torch.tensor(std, dtype=torch.float64))
    return (weight.double() * scale[:, None, None]).to(weight.dtype)


def _from_the_middle(
    make_bias: Callable[[], Tensor] | None,
    make: Callable[[], Tensor],
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """A bias [O] plus what a weight [O,I,k,k] makes of grey level 128, normalised."""
    weight = make().detach()
    middle = MIDDLE / 255 - torch.tensor(mean, dtype=torch.float64)
    made = weight.double().sum((2, 3)) @ (middle / torch.tensor(std, dtype=torch.float64))
    return (made if make_bias is None else made + make_bias().detach().double()).to(weight.dtype)


def fold_blocks(model: nn.Module, meta_copy: nn.Module, weights: Weights, folds: Collection[str]) -> None:
    """Put the attention ops into the blocks of a ViT's or a text tower's copy, and fold their weights."""
    for path, block in named_blocks(model):
        copied = meta_copy.get_submodule(path)
        causal = isinstance(block, CausalSelfAttentionBlock)
        attention, ffn = ("attention", "feed_forward") if causal else ("attn", "mlp")
        _put_attention_op(copied, block.get_submodule(attention), path, attention, weights, folds)
        if "layerscale" in folds:
            _fold_layerscale(copied, attention, "ls1", path, weights)
            _fold_layerscale(copied, ffn, "ls2", path, weights)


def weights_of(model: nn.Module, state: Mapping[str, Tensor] | None = None) -> Weights:
    """The table of a model's weights; of `state`, in fp32, if the model has none."""
    if state is None:
        return {name: partial(_identity, tensor) for name, tensor in model.state_dict().items()}
    return {name: partial(_as_fp32, state, name) for name in state}


def _identity(tensor: Tensor) -> Tensor:
    return tensor


def _as_fp32(state: Mapping[str, Tensor], name: str) -> Tensor:
    return state[name].float()


def applicable_folds(model: Backbone, folds: Collection[str]) -> tuple[str, ...]:
    """The folds that apply to this kind of model: a ConvNeXt has no attention."""
    return tuple(fold for fold in folds if fold == "layerscale" or not isinstance(model, ConvNeXt))


def copy_to_meta(model: Module) -> Module:
    """Deep copy with every tensor on the meta device: the structure without the memory."""
    memo: dict[int, object] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)


def _put_attention_op(
    block: nn.Module, attn: nn.Module, path: str, name: str, weights: Weights, folds: Collection[str]
) -> None:
    """Replace the attention of the copy's block by the custom op, and split qkv's weights into q, k and v."""
    if type(attn) not in ATTENTION:
        return
    assert isinstance(attn, SelfAttention | CausalSelfAttention)
    path, dim = f"{path}.{name}", attn.qkv.in_features
    scale = (dim // attn.num_heads) ** -0.5
    q_factor = scale if "q_scale" in folds else 1.0
    weight = weights.pop(f"{path}.qkv.weight")
    bias = _pop_bias(weights, path)
    has_bias = []
    for part, side in enumerate("qkv"):
        rows = slice(part * dim, (part + 1) * dim)
        factor = q_factor if side == "q" else 1.0
        weights[f"{path}.{side}.weight"] = partial(_scaled_rows, weight, rows, factor)
        drop = bias is None or ("qkv_bias" in folds and not bias[rows].any())
        has_bias.append(not drop)
        if bias is not None and not drop:
            weights[f"{path}.{side}.bias"] = partial(_scaled_rows, partial(_identity, bias), rows, factor)
    with torch.device("meta"):
        traced = ATTENTION[type(attn)](
            dim,
            attn.num_heads,
            scale=1.0 if "q_scale" in folds else scale,
            biases=has_bias,
            proj_bias=attn.proj.bias is not None,
        )
    setattr(block, name, traced)


def _pop_bias(weights: Weights, path: str) -> Tensor | None:
    """The effective bias of q, k and v, [3D]: bias · mask if there is a mask (docs/spec.md 0, fact 3)."""
    make, make_mask = weights.pop(f"{path}.qkv.bias", None), weights.pop(f"{path}.qkv.bias_mask", None)
    if make is None:
        return None
    bias = make().detach()
    return bias if make_mask is None else bias * make_mask().to(bias.dtype)


def _fold_layerscale(block: nn.Module, branch: str, scale: str, path: str, weights: Weights) -> None:
    """Fold gamma of `scale` (ls1, ls2) into the last linear layer of `branch` (attn, mlp)."""
    last = LAST_LINEAR.get(type(getattr(block, branch)))
    if last is not None and isinstance(getattr(block, scale), LayerScale):
        setattr(block, scale, nn.Identity())
        _fold_gamma(weights, f"{path}.{scale}.gamma", f"{path}.{branch}.{last}")


def _fold_gammas(meta_copy: nn.Module, weights: Weights) -> None:
    """Fold each ConvNeXt block's gamma into the rows (and bias) of its second pointwise layer."""
    for path, block in meta_copy.named_modules():
        if isinstance(block, Block) and block.gamma is not None:
            block.gamma = None
            _fold_gamma(weights, f"{path}.gamma", f"{path}.pwconv2")


def _fold_gamma(weights: Weights, gamma: str, layer: str) -> None:
    make_gamma = weights.pop(gamma)
    for name in (f"{layer}.weight", f"{layer}.bias"):
        if name in weights:
            weights[name] = partial(_times_gamma, weights[name], make_gamma)


def _scaled_rows(make: Callable[[], Tensor], rows: slice, factor: float) -> Tensor:
    """`rows` of a weight [O,I] or bias [O], times `factor`."""
    part = make().detach()[rows]
    return part if factor == 1.0 else (part.double() * factor).to(part.dtype)


def _times_gamma(make: Callable[[], Tensor], make_gamma: Callable[[], Tensor]) -> Tensor:
    """A weight [O,I] or bias [O], each row times gamma [O]."""
    tensor, gamma = make().detach(), make_gamma().detach().double()
    product = tensor.double() * (gamma[:, None] if tensor.dim() == 2 else gamma)
    return product.to(tensor.dtype)
