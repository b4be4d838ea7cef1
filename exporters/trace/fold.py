"""From a model to its traced twin: a copy without weights, with seams in place and constants folded.

The twin lives on the meta device, so tracing a 7B model costs no memory; its weights are a table of
functions, each making one tensor when the writer asks for it. Weights are therefore never held twice.

A fold moves a constant into the weights before it; each is proven by parity and can be left out:

    layerscale   gamma of LayerScale into the rows (and bias) of the projection before it; a ConvNeXt's too
    qkv_bias     the mask of q, k and v biases into the biases; a bias that is all zeros is dropped
    q_scale      head_dim^-0.5 into q's weights (RoPE is linear, so it commutes)

Products are taken in float64 and rounded once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from dinodeploy.errors import ExportError
from dinov3_ref.layers import (
    LayerScale,
    Mlp,
    RopePositionEmbedding,
    SelfAttention,
    SwiGLUFFN,
)
from dinov3_ref.models import Backbone, ConvNeXt
from dinov3_ref.models.convnext import Block
from exporters.trace.channels_last import ChannelsLastConvNeXt
from exporters.trace.custom_ops import SeamAttention, SeamRope
from exporters.trace.trace import count_prefix

FOLDS = ("layerscale", "qkv_bias", "q_scale")

Weights = dict[str, Callable[[], Tensor]]

# The last linear layer of a residual branch, where LayerScale can go. Other modules keep theirs.
LAST_LINEAR: dict[type[nn.Module], str] = {SeamAttention: "proj", Mlp: "fc2", SwiGLUFFN: "w3"}


def make_twin(
    model: Backbone,
    folds: Collection[str] = FOLDS,
    state: Mapping[str, Tensor] | None = None,
) -> tuple[Backbone, Weights]:
    """A meta-device twin of `model` in eval mode, and the table of its weights by name.

    `state` holds the weights where the model does not (`stream.py`); they are widened to fp32 one by one.
    A user's own attention or feed-forward class is traced as it is. Raises ValueError for an unknown fold,
    ExportError for a model that a graph cannot be: RoPE in 16 bits, one image size only.
    """
    unknown = sorted(set(folds) - set(FOLDS))
    if unknown:
        raise ValueError(f"unknown fold {unknown[0]!r}; known: {', '.join(FOLDS)}")
    twin = _copy_to_meta(model).eval()
    weights: Weights
    if state is None:
        weights = {name: partial(_identity, tensor) for name, tensor in model.state_dict().items()}
    else:
        weights = {name: partial(_widened, state, name) for name in state}
    if isinstance(twin, ConvNeXt):
        if "layerscale" in folds:
            _fold_gammas(twin, weights)
        return ChannelsLastConvNeXt(twin), weights
    assert not isinstance(model, ConvNeXt)
    if isinstance(twin.rope_embed, RopePositionEmbedding):
        if twin.rope_embed.dtype != torch.float32:
            raise ExportError(
                f"this model computes RoPE in {str(twin.rope_embed.dtype).removeprefix('torch.')} (the class "
                'default), graphs in float32; build it with pos_embed_rope_dtype="fp32", as released models'
            )
        twin.rope_embed = SeamRope(twin.rope_embed, count_prefix(twin))  # type: ignore[assignment]
    for index, block in enumerate(model.blocks):
        _put_seam(twin.blocks[index], block.get_submodule("attn"), f"blocks.{index}.attn", weights, folds)
        if "layerscale" in folds:
            _fold_layerscale(twin.blocks[index], "attn", "ls1", f"blocks.{index}", weights)
            _fold_layerscale(twin.blocks[index], "mlp", "ls2", f"blocks.{index}", weights)
    return twin, weights


def _identity(tensor: Tensor) -> Tensor:
    return tensor


def _widened(state: Mapping[str, Tensor], name: str) -> Tensor:
    return state[name].float()


def applicable_folds(model: Backbone, folds: Collection[str]) -> tuple[str, ...]:
    """Those that say something about this kind of model: a ConvNeXt has no attention."""
    return tuple(fold for fold in folds if fold == "layerscale" or not isinstance(model, ConvNeXt))


def _copy_to_meta(model: Backbone) -> Backbone:
    """A deep copy whose tensors are all on the meta device: structure without memory."""
    memo: dict[int, object] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)


def _put_seam(block: nn.Module, attn: nn.Module, path: str, weights: Weights, folds: Collection[str]) -> None:
    """Replace the twin block's attention by the seam, and split qkv's weights into q, k and v."""
    if type(attn) is not SelfAttention:
        return
    dim = attn.qkv.in_features
    q_factor = attn.scale if "q_scale" in folds else 1.0
    weight = weights.pop(f"{path}.qkv.weight")
    bias = _pop_bias(weights, path)
    has_bias = []
    for part, name in enumerate("qkv"):
        rows = slice(part * dim, (part + 1) * dim)
        factor = q_factor if name == "q" else 1.0
        weights[f"{path}.{name}.weight"] = partial(_scaled_rows, weight, rows, factor)
        third = None if bias is None else bias[rows]
        keep = third is not None and not ("qkv_bias" in folds and bool((third == 0).all()))
        has_bias.append(keep)
        if keep:
            assert third is not None
            weights[f"{path}.{name}.bias"] = partial(
                _scaled_rows, partial(_identity, third), slice(None), factor
            )
    with torch.device("meta"):
        block.attn = SeamAttention(
            dim,
            attn.num_heads,
            scale=1.0 if "q_scale" in folds else attn.scale,
            biases=(has_bias[0], has_bias[1], has_bias[2]),
            proj_bias=attn.proj.bias is not None,
        )


def _pop_bias(weights: Weights, path: str) -> Tensor | None:
    """The bias of q, k and v that is added: bias · mask where there is a mask (docs/spec.md 0, fact 3)."""
    make, make_mask = weights.pop(f"{path}.qkv.bias", None), weights.pop(f"{path}.qkv.bias_mask", None)
    if make is None:
        return None
    bias = make().detach()
    return bias if make_mask is None else bias * make_mask().to(bias.dtype)


def _fold_layerscale(block: nn.Module, branch: str, scale: str, path: str, weights: Weights) -> None:
    last = LAST_LINEAR.get(type(getattr(block, branch)))
    if last is None or not isinstance(getattr(block, scale), LayerScale):
        return
    setattr(block, scale, nn.Identity())
    gamma = weights.pop(f"{path}.{scale}.gamma")
    for kind in ("weight", "bias"):
        name = f"{path}.{branch}.{last}.{kind}"
        if name in weights:
            weights[name] = partial(_times_gamma, weights[name], gamma)


def _fold_gammas(twin: nn.Module, weights: Weights) -> None:
    """A ConvNeXt block's gamma into the rows (and bias) of its second pointwise layer."""
    for path, block in twin.named_modules():
        if isinstance(block, Block) and block.gamma is not None:
            block.gamma = None
            gamma = weights.pop(f"{path}.gamma")
            for kind in ("weight", "bias"):
                name = f"{path}.pwconv2.{kind}"
                weights[name] = partial(_times_gamma, weights[name], gamma)


def _scaled_rows(make: Callable[[], Tensor], rows: slice, factor: float) -> Tensor:
    part = make().detach()[rows]
    return part if factor == 1.0 else (part.double() * factor).to(part.dtype)


def _times_gamma(make: Callable[[], Tensor], make_gamma: Callable[[], Tensor]) -> Tensor:
    """weight [out, in] or bias [out], each row times gamma [out]."""
    tensor, gamma = make().detach(), make_gamma().detach().double()
    wide = tensor.double() * (gamma[:, None] if tensor.dim() == 2 else gamma)
    return wide.to(tensor.dtype)
