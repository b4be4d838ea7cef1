"""`EngineModule`: a bundle's engine as a `torch.nn.Module`, in place of a backbone of torch.hub.

    model = EngineModule("bundle")                      # was: torch.hub.load("facebookresearch/dinov3", …)
    features = model.forward_features(images)           # float [B,3,H,W], normalised
    patches = features["x_norm_patchtokens"]            # [B,P,D]

The bundle's judged engine computes, on its own device; torch only carries the tensors. Methods, arguments
and keys are those of the official models (docs/development/seed.md S21).

Shapes: B batch, H W pixels, h w patch grid, P = h w patches, R storage tokens, D embed_dim.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor, nn

from dinodeploy.bundle.bundle import pinned
from dinodeploy.embedder import Embedder
from dinodeploy.errors import MisuseError
from dinodeploy.integrations.opened import opened

Features = dict[str, Any]  # tensors by name, and `masks`: None


class EngineModule(nn.Module):
    """Runs a bundle. For inference: it has no parameters, and an input that wants gradients is refused.

    options: those of `Embedder.open`. Tensors may be on any device and of any floating-point type: they are
    copied to the CPU in fp32, and what is returned is on the input's device, in its type. The module can be
    pickled and copied: it holds the bundle's path, and each process opens it once. Raises as
    `Embedder.open`; MisuseError for an input that the engine does not take.
    """

    def __init__(self, bundle: str | os.PathLike[str], **options: Any) -> None:
        super().__init__()
        path = Path(bundle)
        self.bundle = os.fspath(path.absolute() if path.exists() else pinned(os.fspath(bundle)))
        self.options = options
        model = self.embedder.manifest.model
        self.embed_dim = self.num_features = model.embed_dim
        self.patch_size = model.patch_size
        self.n_blocks = model.depth
        self.n_storage_tokens = model.storage_tokens
        self.is_vit = model.num_heads > 0
        self.eval()

    @property
    def embedder(self) -> Embedder:
        """The opened bundle, which this process shares."""
        return opened(self.bundle, **self.options)

    @torch.compiler.disable
    def run(self, x: Tensor) -> dict[str, Tensor]:
        """Every output of the engine, as `Embedder.run`: `cls`, `patch`, `layer_<i>` …; each [B,…]."""
        if not x.is_floating_point():
            raise MisuseError(f"pixels are {x.dtype}; wanted floating-point numbers, normalised")
        if x.requires_grad and torch.is_grad_enabled():
            raise MisuseError(
                "the input requires gradients, and an engine has none; call it under torch.no_grad(), or "
                "train with dinov3_ref.load"
            )
        pixels = x.detach().to("cpu", torch.float32).contiguous().numpy()
        outputs = self.embedder.run(pixels)
        return {name: torch.from_numpy(array).to(x.device, x.dtype) for name, array in outputs.items()}

    @overload
    def forward_features(self, x: Tensor, masks: None = None) -> Features: ...
    @overload
    def forward_features(self, x: Sequence[Tensor], masks: None = None) -> list[Features]: ...
    def forward_features(self, x: Tensor | Sequence[Tensor], masks: None = None) -> Features | list[Features]:
        """`x_norm_clstoken` [B,D], `x_storage_tokens` [B,R,D], `x_norm_patchtokens` [B,P,D], `masks` None.

        A list of batches gives a list. There is no `x_prenorm`: engines do not compute it.
        """
        if masks is not None and not (isinstance(masks, list) and all(mask is None for mask in masks)):
            raise MisuseError("masks are for training; an engine takes none: leave them out")
        if not isinstance(x, Tensor):
            return [self.forward_features(batch) for batch in x]
        outputs = self._with(self.run(x), "cls", "patch")
        cls = outputs["cls"]
        return {
            "x_norm_clstoken": cls,
            "x_storage_tokens": outputs.get("storage", cls.new_zeros(len(cls), 0, cls.shape[-1])),
            **({"x_extra_tokens": outputs["extra"]} if "extra" in outputs else {}),
            "x_norm_patchtokens": outputs["patch"].flatten(1, 2),
            "masks": None,
        }

    def forward(self, x: Tensor, *, is_training: bool = False) -> Any:
        """The CLS token [B,D]; with `is_training`, as in the official models, the dict of features."""
        return self.forward_features(x) if is_training else self._with(self.run(x), "cls")["cls"]

    def get_intermediate_layers(
        self,
        x: Tensor,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_class_token: bool = False,
        return_extra_tokens: bool = False,
        norm: bool = True,
    ) -> tuple[Any, ...]:
        """Outputs of the last `n` blocks, or of the blocks with the given indices, in ascending order.

        Each entry is patches [B,P,D] ([B,D,h,w] with `reshape`), or a tuple of patches and what was asked
        for. Every bundle has the last block, and of others the patches if it was exported with `--layers`.
        In a ConvNeXt blocks are stages. Raises MisuseError for what the bundle does not have.
        """
        wanted = _indices(n, self.n_blocks)
        last = self.n_blocks - 1
        if not norm and (self.is_vit or last in wanted):
            raise MisuseError("norm is False, and a bundle holds normed layers only; use dinov3_ref.load")
        outputs = self.run(x)
        results: list[Any] = []
        for index in wanted:
            is_last = index == last
            name = "patch" if is_last else f"layer_{index}"
            beside = [("cls" if is_last else f"cls_{index}")] if return_class_token else []
            if return_extra_tokens and not is_last:
                raise MisuseError(f"storage tokens of block {index} are in no bundle; use dinov3_ref.load")
            self._with(outputs, name, *beside)
            chosen = [outputs[name].permute(0, 3, 1, 2) if reshape else outputs[name].flatten(1, 2)]
            chosen += [outputs[one] for one in beside]
            if return_extra_tokens:
                cls = self._with(outputs, "cls")["cls"]
                own = [outputs[one] for one in ("storage", "extra") if one in outputs]
                chosen.append(torch.cat([cls.new_zeros(len(cls), 0, cls.shape[-1]), *own], dim=1))
            chosen[0] = chosen[0].contiguous()
            results.append(tuple(chosen) if len(chosen) > 1 else chosen[0])
        return tuple(results)

    def extra_repr(self) -> str:
        return f"{self.bundle!r}, {', '.join(self.embedder.output_names)}"

    def _with(self, outputs: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
        """`outputs`, if it has all `names`."""
        if missing := [name for name in names if name not in outputs]:
            raise MisuseError(
                f"{self.bundle} has no output {missing[0]!r}, only {', '.join(outputs)}; export it again, "
                "inner layers with --layers, or open it without `outputs`"
            )
        return outputs


def _indices(n: int | Sequence[int], count: int) -> list[int]:
    """The blocks that `n` means. Raises MisuseError for one that does not exist."""
    indices = list(range(count - n, count)) if isinstance(n, int) else sorted(set(n))
    if not indices or indices[0] < 0 or indices[-1] >= count:
        raise MisuseError(f"n is {n}; the model has {count} blocks, numbered from 0")
    return indices
