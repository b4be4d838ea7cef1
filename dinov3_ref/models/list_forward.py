"""`forward` and `forward_features` of both kinds of backbone: a tensor, or a list of image batches.

Shapes: B batch, C channels, H W pixels, D embed_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

Features = dict[str, Any]


class ListForward(nn.Module):
    """Base of a backbone that implements `forward_features_list` and has a `head`."""

    head: nn.Module

    def forward_features_list(
        self, x_list: Sequence[Tensor], masks_list: Sequence[Tensor | None]
    ) -> list[Features]:
        """One dict of features per image batch [B,C,H,W]."""
        raise NotImplementedError

    def forward_features(
        self, x: Tensor | Sequence[Tensor], masks: Tensor | Sequence[Tensor | None] | None = None
    ) -> Any:
        """Tensor [B,C,H,W] -> one dict of features; a list -> a list of dicts."""
        if isinstance(x, Tensor):
            return self.forward_features_list([x], [masks])[0]  # type: ignore[list-item]
        return self.forward_features_list(x, masks if masks is not None else [None] * len(x))  # type: ignore[arg-type]

    def forward(self, *args: Any, is_training: bool = False, **kwargs: Any) -> Any:
        """All features with `is_training`, else head(CLS) [B,D]; a list of batches gives a list."""
        features = self.forward_features(*args, **kwargs)
        if is_training:
            return features
        if isinstance(features, list):
            return [self.head(entry["x_norm_clstoken"]) for entry in features]
        return self.head(features["x_norm_clstoken"])


def check_masks(x_list: Sequence[Tensor], masks_list: Sequence[Tensor | None]) -> None:
    """Raise ValueError unless there is one entry of masks (or None) for each batch."""
    if len(x_list) != len(masks_list):
        raise ValueError(f"{len(x_list)} inputs with {len(masks_list)} masks; wanted one each (None is fine)")


def chosen_indices(n: int | Sequence[int], count: int, what: str) -> list[int]:
    """The last `n` of `count` blocks or stages (`what`), or the given indices, in ascending order.

    Raises ValueError for one that does not exist.
    """
    wanted = list(range(count - n, count)) if isinstance(n, int) else sorted(set(n))
    if not wanted or wanted[0] < 0 or wanted[-1] >= count:
        raise ValueError(f"n={n!r} asks for {what} outside 0..{count - 1}; the model has {count}")
    return wanted
