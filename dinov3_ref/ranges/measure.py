"""Run the reference model over images and record how large its values get.

Uses only forward hooks: the model is not changed, and a user's own layers are recorded too. Attention's
logits never leave the fused kernel, so they are computed again from q and k.

Shapes: B images, H W pixels, N tokens, D embed_dim, h heads, d head_dim.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dinov3_ref.layers import LayerScale, SelfAttention
from dinov3_ref.models import Backbone, ConvNeXt, DinoVisionTransformer
from dinov3_ref.ranges.convnext import ConvNeXtWatch
from dinov3_ref.ranges.ranges import BlockRanges, Ranges
from dinov3_ref.ranges.running import ChannelMaxima, ResidualSeen, largest
from dinov3_ref.ranges.watching import Handle, Sites, gains_of, on_input, on_output

QUERIES_AT_A_TIME = 1024  # per head, to bound the memory for logits


def measure_ranges(model: Backbone, batches: Iterable[Tensor]) -> Ranges:
    """Largest magnitudes at every site of `model`, over normalised images [B,3,H,W] of any sizes.

    Runs in eval mode without gradients, and restores the model's mode. In a user's own layers, `nn.Linear`
    and the usual parts of a block (`norm1`, `ls1`, …) are recorded. Raises ValueError for a model in less
    than fp32, whose values would be rounded already, and if there is no batch.
    """
    dtype = model.norm.weight.dtype
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"the model computes in {dtype}; ranges need the fp32 reference: model.float()")
    watch = ConvNeXtWatch(model) if isinstance(model, ConvNeXt) else _Watch(model)
    images = 0
    sizes: dict[tuple[int, int], None] = {}  # an ordered set
    was_training = model.training
    model.eval()
    try:
        with watch.attached(), torch.inference_mode():
            for x_BCHW in batches:
                model.forward_features(x_BCHW)
                images += x_BCHW.shape[0]
                sizes[x_BCHW.shape[2], x_BCHW.shape[3]] = None
    finally:
        model.train(was_training)
    if not images:
        raise ValueError("no batch of images; wanted at least one [B,3,H,W]")
    return Ranges(images, tuple(sizes), watch.stem.result(), watch.block_ranges(), watch.tail.result())


class _Watch:
    """All hooks on one model."""

    def __init__(self, model: DinoVisionTransformer) -> None:
        self.model = model
        self.stem, self.tail = Sites(), Sites()
        self.blocks = [
            _BlockWatch(index, block, model.n_storage_tokens) for index, block in enumerate(model.blocks)
        ]

    @contextmanager
    def attached(self) -> Iterator[None]:
        handles = [
            on_output(self.model.patch_embed, partial(self.stem.see, "patch_embed output", "embedding"))
        ]
        for name in ("norm", "cls_norm"):
            norm = getattr(self.model, name, None)
            if isinstance(norm, nn.Module):
                handles.append(on_output(norm, partial(self.tail.see, f"{name} output", "norm")))
        handles.append(on_input(self.blocks[0].block, partial(self.stem.see, "tokens", "residual")))
        for block in self.blocks:
            handles += block.attach()
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def block_ranges(self) -> tuple[BlockRanges, ...]:
        return tuple(block.result() for block in self.blocks)


class _BlockWatch:
    """The hooks on one block and their records."""

    def __init__(self, index: int, block: nn.Module, storage_tokens: int) -> None:
        self.index = index
        self.block = block
        attn = getattr(block, "attn", None)
        self.attn = attn if isinstance(attn, SelfAttention) else None
        self.sites = Sites(f"blocks.{index}.")
        self.residual = ResidualSeen(storage_tokens)
        self.spreads: defaultdict[str, ChannelMaxima] = defaultdict(ChannelMaxima)
        self._rope: Any = None

    def attach(self) -> list[Handle]:
        """Hook every part.

        Hooks on a module run in the order of registration, so sites are in order of use.
        """
        handles = [on_output(self.block, self._see_residual)]
        for name, module in self.block.named_modules():
            if name == "norm2":
                handles.append(on_input(module, partial(self.sites.see, "residual after attn", "residual")))
            if name in ("norm1", "norm2"):
                handles.append(on_output(module, partial(self._see_spread, f"{name} output", "norm")))
            if isinstance(module, nn.Linear):
                handles += self._attach_linear(name, module)
            elif isinstance(module, LayerScale):
                site = f"{self._last_linear_before(name) or name} after {name}"
                handles.append(on_output(module, partial(self.sites.see, site, "branch")))
        return handles

    def _attach_linear(self, name: str, module: nn.Linear) -> list[Handle]:
        handles = []
        if self.attn is not None and module is self.attn.proj:
            handles.append(on_input(module, partial(self._see_spread, "attn attended", "attended")))
        elif name == self._last_linear_before("ls2"):
            handles.append(on_input(module, partial(self._see_spread, "mlp hidden", "hidden")))
        handles.append(on_input(module, partial(self.sites.see, f"{name} input", "linear_in")))
        if self.attn is not None and module is self.attn.qkv:
            handles.append(self.attn.register_forward_pre_hook(self._keep_rope, with_kwargs=True))
            handles.append(on_output(module, partial(self._see_attention, self.attn)))
        else:
            handles.append(on_output(module, partial(self.sites.see, f"{name} output", "linear_out")))
        return handles

    def _last_linear_before(self, layer_scale: str) -> str | None:
        """Name of the linear layer that ends a residual branch: `attn.proj`, `mlp.fc2` or `mlp.w3`."""
        branch = {"ls1": "attn", "ls2": "mlp"}.get(layer_scale)
        linears = [
            name
            for name, module in self.block.named_modules()
            if isinstance(module, nn.Linear) and name.startswith(f"{branch}.")
        ]
        return linears[-1] if linears else None

    def result(self) -> BlockRanges:
        return BlockRanges(
            index=self.index,
            name=f"blocks.{self.index}",
            residual=self.residual.result(),
            logits=self.sites.largest_of("logits"),
            scaled_logits=self.sites.largest_of("scaled_logits"),
            hidden=self.sites.largest_of("hidden"),
            linear_out=self.sites.largest_of("linear_out"),
            layer_scale={
                name: gains_of(module.gamma)
                for name, module in self.block.named_modules()
                if isinstance(module, LayerScale)
            },
            spreads={name: maxima.spread() for name, maxima in self.spreads.items()},
            sites=self.sites.result(),
        )

    # ---- hooks --------------------------------------------------------------------------------

    def _see_residual(self, x_BND: Tensor) -> None:
        self.sites.see("residual", "residual", x_BND)
        self.residual.see(x_BND)

    def _see_spread(self, name: str, role: str, x: Tensor) -> None:
        self.sites.see(name, role, x)
        self.spreads[name].see(x)

    def _keep_rope(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._rope = kwargs.get("rope", args[2] if len(args) > 2 else None)

    def _see_attention(self, attn: SelfAttention, qkv: Tensor) -> None:
        """Record the values inside attention from the projected qkv [B,N,3D]."""
        parts = qkv.chunk(3, dim=-1)
        for name, part in zip("qkv", parts, strict=True):
            self.sites.see(f"attn.{name} output", "linear_out", part)
        q, k, v = (part.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for part in parts)  # [B,h,N,d]
        if self._rope is not None:
            q, k = attn.apply_rope(q, k, self._rope)
        self.sites.see("attn.q rotated", "query", q)
        self.sites.see("attn.q scaled", "scaled_query", attn.scale * largest(q))
        self.sites.see("attn.k rotated", "key", k)
        self.sites.see("attn.v", "value", v)
        logits = _largest_product(q, k)
        self.sites.see("attn q·k", "logits", logits)
        self.sites.see("attn logits", "scaled_logits", attn.scale * logits)


def _largest_product(q_BhNd: Tensor, k_BhNd: Tensor) -> float:
    """Largest |q·k|, without holding all logits of a large image in memory."""
    heads = zip(q_BhNd.flatten(0, 1), k_BhNd.flatten(0, 1), strict=True)
    return max(largest(rows @ k_Nd.T) for q_Nd, k_Nd in heads for rows in q_Nd.split(QUERIES_AT_A_TIME))
