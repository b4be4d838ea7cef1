"""Extract one backbone's tensors from a file: open wrappers, strip prefixes, drop training-only parts.

Source: docs/spec.md 3.1 (training-run variants) and 3.5, steps 1 and 2. The backbone is found by its class
token, patch embedding or stem under any prefix. A tensor outside it keeps its full name, and
`check_keys` reports it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from dinov3_ref.errors import CheckpointError

# Keys under which a state dict may be nested, in order of preference.
WRAPPERS = ("teacher", "model_ema", "model", "state_dict", "model_state_dict", "student")
MAX_WRAPPERS = 4

# Inserted into key names by torch.compile, activation checkpointing, FSDP and DDP.
_INSERTED = re.compile(r"_orig_mod\.|_checkpoint_wrapped_module\.|_fsdp_wrapped_module\.|(?<![^.])module\.")

_ANCHOR = re.compile(
    r"(?P<prefix>(?:.*?\.)??)(?:"
    r"(?:embeddings\.)?(?:cls_token|patch_embed\.proj\.weight|patch_embeddings\.(?:proj\.)?weight)"
    r"|downsample_layers\.0\.0\.weight|stem\.0\.weight|(?:model\.)?stages\.0\.downsample_layers\.0\.weight)"
)

# Training-only parts beside the backbone (docs/spec.md 3.1); released models have none of them.
_TRAINING_PART = re.compile(
    r"(?:^|\.)(student|gram_teacher|gram_backbone|teacher|model_ema|dino_head|ibot_head|dino_loss|ibot_patch_loss|"
    r"koleo_loss|gram_loss|optimizer)\."
)


def unwrap(tree: Mapping[str, Any], name: str) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors of one backbone by bare key, and notes on what was left out. `name` is for messages."""
    tree, notes = _descend(tree)
    tensors: dict[str, Tensor] = {}
    for key, value in tree.items():
        bare = _INSERTED.sub("", str(key))
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{name} has entry {str(key)!r} of type {type(value).__name__}; wanted a state dict "
                f"of tensors, bare or under {', '.join(WRAPPERS)}"
            )
        if bare in tensors:
            raise CheckpointError(
                f"{name} holds {bare!r} twice, once as {str(key)!r}; wanted each tensor once"
            )
        tensors[bare] = value.detach()
    if not tensors:
        raise CheckpointError(f"{name} holds no tensors; wanted a DINOv3 state dict")
    prefix = _backbone_prefix(tensors)
    backbone: dict[str, Tensor] = {}
    dropped = Counter[str]()
    for key, tensor in tensors.items():
        inside = key.removeprefix(prefix)
        if part := _TRAINING_PART.search(inside):
            dropped[part[1]] += 1
        else:
            backbone[inside] = tensor
    notes += [
        f"left out {count} tensors of {part} (training only)" for part, count in sorted(dropped.items())
    ]
    return backbone, notes


def _descend(tree: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    """Open nested wrappers; a note lists what else they contained."""
    notes: list[str] = []
    for _ in range(MAX_WRAPPERS):
        wrapper = next((key for key in WRAPPERS if isinstance(tree.get(key), Mapping)), None)
        if wrapper is None:
            break
        beside = sorted(str(key) for key in tree if key != wrapper)
        if beside:
            notes.append(f"read {wrapper!r}; left out {', '.join(beside[:5])} beside it")
        tree = tree[wrapper]
    return tree, notes


def _backbone_prefix(keys: Iterable[str]) -> str:
    """Prefix of the backbone to load: the shortest, but student and Gram teacher only as a last resort."""
    prefixes = {match["prefix"] for key in keys if (match := _ANCHOR.fullmatch(key))}

    def rank(prefix: str) -> tuple[bool, int, str]:
        return bool({"student", "gram_teacher"} & set(prefix.split("."))), len(prefix), prefix

    return min(prefixes, key=rank, default="")
